package client

import (
	"context"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Watch implements mvcc.KV, by a stream of its own: the watches of clientv3 go
// on by themselves after a lost connection, and tell nobody, although the
// server may have been put back to older data meanwhile. From now on (From 0)
// is only known once a server has answered, so such a watch waits for that, or
// for ctx.
func (s kv) Watch(ctx context.Context, w mvcc.WatchRequest) <-chan mvcc.WatchResponse {
	if w.Key == "" {
		w.Key = "\x00"
	}
	inner, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // cancelled when out is done with
	var (
		source stream
		err    error
	)
	if w.From <= 0 {
		source, err = s.open(inner, w)
	}
	out := make(chan mvcc.WatchResponse)
	go func() {
		defer close(out)
		defer cancel()
		if source == nil && err == nil {
			source, err = s.open(inner, w)
		}
		forward(ctx, source, err, out)
	}()
	return out
}

// stream is what forward needs of a watch's stream.
type stream interface {
	Recv() (*etcdserverpb.WatchResponse, error)
}

// open returns when the server has said that it watches.
func (s kv) open(ctx context.Context, w mvcc.WatchRequest) (stream, error) {
	source, err := etcdserverpb.NewWatchClient(s.cli.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return nil, err
	}
	request := &etcdserverpb.WatchCreateRequest{Key: []byte(w.Key), RangeEnd: []byte(w.End), StartRevision: max(w.From, 0), ProgressNotify: true, Fragment: true}
	if err := source.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
		return nil, err
	}
	created, err := source.Recv()
	if err != nil {
		return nil, err
	}
	return source, cancelled(created)
}

// forward passes answers on until ctx ends or one carries Err, such as err,
// why there is no source.
func forward(ctx context.Context, source stream, err error, out chan<- mvcc.WatchResponse) {
	var events []*mvccpb.Event // of an answer that comes in fragments
	for {
		var resp mvcc.WatchResponse
		if err == nil {
			var r *etcdserverpb.WatchResponse
			if r, err = source.Recv(); err == nil {
				err = cancelled(r)
				resp.Compacted = r.CompactRevision
				if events = append(events, r.Events...); r.Fragment && err == nil {
					continue
				}
				resp.Header, resp.Events, events = header(r.Header), eventsOf(events), nil
			}
		}
		if ctx.Err() != nil {
			return
		}
		resp.Err = translate(ctx, err)
		select {
		case out <- resp:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

// cancelled is why the server ended a watch, nil if it did not.
func cancelled(r *etcdserverpb.WatchResponse) error {
	switch {
	case r.CompactRevision != 0:
		return rpctypes.ErrCompacted
	case r.Canceled:
		return fmt.Errorf("%w: watch was ended: %s", mvcc.ErrUnavailable, r.CancelReason)
	}
	return nil
}

func eventsOf(list []*mvccpb.Event) []mvcc.Event {
	var events []mvcc.Event
	for _, e := range list {
		events = append(events, mvcc.Event{Deleted: e.Type == mvccpb.Event_DELETE, KV: keyValue(e.Kv)})
	}
	return events
}
