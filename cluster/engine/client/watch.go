package client

import (
	"context"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Watch implements mvcc.KV. From now on (From 0) is only known once a server
// has answered, so such a watch waits for that, or for ctx.
func (s kv) Watch(ctx context.Context, w mvcc.WatchRequest) <-chan mvcc.WatchResponse {
	if w.Key == "" {
		w.Key = "\x00"
	}
	inner, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // cancelled when out is done with
	open := func() clientv3.WatchChan { return s.cli.Watch(inner, w.Key, watchOptions(w)...) }
	var source clientv3.WatchChan
	if w.From <= 0 {
		source = open()
	}
	out := make(chan mvcc.WatchResponse)
	go func() {
		defer close(out)
		defer cancel()
		if source == nil {
			source = open()
		}
		forward(ctx, source, out)
	}()
	return out
}

func watchOptions(w mvcc.WatchRequest) []clientv3.OpOption {
	opts := []clientv3.OpOption{clientv3.WithRev(max(w.From, 0)), clientv3.WithFragment(), clientv3.WithProgressNotify()}
	if w.End != "" {
		opts = append(opts, clientv3.WithRange(w.End))
	}
	return opts
}

// forward passes answers on until ctx ends or one carries Err. A source that
// closes without a word is a server that cancelled the watch, or a client that
// was closed.
func forward(ctx context.Context, source clientv3.WatchChan, out chan<- mvcc.WatchResponse) {
	for {
		var resp mvcc.WatchResponse
		select {
		case <-ctx.Done():
			return
		case r, ok := <-source:
			switch {
			case ctx.Err() != nil:
				return
			case ok:
				resp = watchResponse(ctx, r)
			default:
				resp.Err = fmt.Errorf("%w: watch was ended", mvcc.ErrUnavailable)
			}
		}
		select {
		case out <- resp:
		case <-ctx.Done():
			return
		}
		if resp.Err != nil {
			return
		}
	}
}

func watchResponse(ctx context.Context, r clientv3.WatchResponse) mvcc.WatchResponse {
	resp := mvcc.WatchResponse{Header: header(r.Header), Compacted: r.CompactRevision, Err: translate(ctx, r.Err())}
	for _, e := range r.Events {
		resp.Events = append(resp.Events, mvcc.Event{Deleted: e.Type == clientv3.EventTypeDelete, KV: keyValue(e.Kv)})
	}
	return resp
}
