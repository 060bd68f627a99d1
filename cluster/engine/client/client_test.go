package client

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTranslate(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want error
	}{
		"nil":            {nil, nil},
		"compacted":      {rpctypes.ErrCompacted, mvcc.ErrCompacted},
		"as gRPC status": {rpctypes.ErrGRPCCompacted, mvcc.ErrCompacted},
		"future":         {rpctypes.ErrFutureRev, mvcc.ErrFutureRevision},
		"lease":          {rpctypes.ErrLeaseNotFound, mvcc.ErrLeaseNotFound},
		"lease exists":   {rpctypes.ErrLeaseExist, mvcc.ErrLeaseExists},
		"no leader":      {rpctypes.ErrGRPCNoLeader, mvcc.ErrNoLeader},
		"duplicate":      {rpctypes.ErrDuplicateKey, mvcc.ErrDuplicateKey},
		"too many":       {rpctypes.ErrTooManyOps, mvcc.ErrTooManyOps},
		"no key":         {rpctypes.ErrEmptyKey, mvcc.ErrEmptyKey},
		"timed out":      {rpctypes.ErrTimeout, mvcc.ErrUnavailable},
		"leader changed": {rpctypes.ErrLeaderChanged, mvcc.ErrUnavailable},
		"unreachable":    {status.Error(codes.Unavailable, "connection refused"), mvcc.ErrUnavailable},
		"client closed":  {context.Canceled, mvcc.ErrUnavailable},
		"denied":         {rpctypes.ErrPermissionDenied, rpctypes.ErrPermissionDenied},
		"other":          {io.EOF, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			if got := translate(t.Context(), tt.in); !errors.Is(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestDialRefuses(t *testing.T) {
	if _, err := Dial(Config{}); err == nil {
		t.Error("dialled nobody")
	}
}

// TestNobodyThere uses a port that nothing can listen on.
func TestNobodyThere(t *testing.T) {
	began := time.Now()
	cli, err := Dial(Config{Endpoints: []string{"http://127.0.0.1:1"}})
	if err != nil || time.Since(began) > time.Second {
		t.Fatalf("dial took %v: %v", time.Since(began), err)
	}
	kv := New(cli)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = kv.Range(ctx, mvcc.RangeRequest{Key: "a"})
	if !errors.Is(err, mvcc.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("range: %v", err)
	}
	watch := kv.Watch(t.Context(), mvcc.WatchRequest{Key: "a", From: 1}) // does not block
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for r := range kv.Watch(ended, mvcc.WatchRequest{Key: "a", From: 1}) {
		t.Errorf("a watch of an ended context answered %+v", r)
	}
	if err := cli.Close(); err != nil {
		t.Error(err)
	}
	r, ok := <-watch
	if !ok || !errors.Is(r.Err, mvcc.ErrUnavailable) {
		t.Errorf("the watch of a closed client: %+v", r)
	}
	if r, ok := <-watch; ok {
		t.Errorf("it went on: %+v", r)
	}
}

// TestForward is what no healthy server does to a watch.
func TestForward(t *testing.T) {
	for name, tt := range map[string]struct {
		source []clientv3.WatchResponse
		want   error
	}{
		"closed without a word": {nil, mvcc.ErrUnavailable},
		"compacted":             {[]clientv3.WatchResponse{{CompactRevision: 7, Canceled: true}}, mvcc.ErrCompacted},
	} {
		t.Run(name, func(t *testing.T) {
			source := make(chan clientv3.WatchResponse, len(tt.source))
			for _, r := range tt.source {
				source <- r
			}
			close(source)
			out := make(chan mvcc.WatchResponse, 2)
			forward(t.Context(), source, out)
			close(out)
			if r := <-out; !errors.Is(r.Err, tt.want) {
				t.Errorf("got %+v, want %v", r, tt.want)
			}
			if r, ok := <-out; ok {
				t.Errorf("went on: %+v", r)
			}
		})
	}
}

func TestUnknownKinds(t *testing.T) {
	kv := New(nil)
	for name, txn := range map[string]mvcc.TxnRequest{
		"operation": {Then: []mvcc.Op{{Kind: 9, Key: "a"}}},
		"else":      {Else: []mvcc.Op{{Kind: 9, Key: "a"}}},
		"relation":  {If: []mvcc.Compare{{Key: "a", Relation: 9}}},
		"target":    {If: []mvcc.Compare{{Key: "a", Target: 9}}},
	} {
		if _, err := kv.Txn(t.Context(), txn); err == nil {
			t.Errorf("%s 9 was accepted", name)
		}
	}
}
