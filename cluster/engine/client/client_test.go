package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
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
		"denied":         {rpctypes.ErrPermissionDenied, mvcc.ErrDenied},
		"users change":   {rpctypes.ErrGRPCAuthOldRevision, mvcc.ErrUnavailable},
		"no user":        {rpctypes.ErrUserEmpty, mvcc.ErrDenied},
		"other":          {io.EOF, io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			if got := translate(t.Context(), tt.in); !errors.Is(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

// TestJudged: a call that met a change of etcd's users is made again, and no other.
func TestJudged(t *testing.T) {
	for name, tt := range map[string]struct {
		answers []error
		want    error
		calls   int
	}{
		"well":           {[]error{nil}, nil, 1},
		"changed twice":  {[]error{rpctypes.ErrAuthOldRevision, rpctypes.ErrGRPCAuthOldRevision, nil}, nil, 3},
		"then denied":    {[]error{rpctypes.ErrAuthOldRevision, rpctypes.ErrPermissionDenied}, rpctypes.ErrPermissionDenied, 2},
		"denied":         {[]error{rpctypes.ErrPermissionDenied}, rpctypes.ErrPermissionDenied, 1},
		"always changed": {slices.Repeat([]error{rpctypes.ErrAuthOldRevision}, 99), rpctypes.ErrAuthOldRevision, judgements},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			got, err := Judged(t.Context(), func() (int, error) { calls++; return calls, tt.answers[calls-1] })
			if !errors.Is(err, tt.want) || calls != tt.calls || got != calls {
				t.Errorf("%d calls, answer %d, %v; want %d, %v", calls, got, err, tt.calls, tt.want)
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

// script is a stream that answers what was written down, then that the
// connection is lost.
type script []*etcdserverpb.WatchResponse

func (s *script) Recv() (*etcdserverpb.WatchResponse, error) {
	if len(*s) == 0 {
		return nil, status.Error(codes.Unavailable, "connection lost")
	}
	r := (*s)[0]
	*s = (*s)[1:]
	return r, nil
}

// TestForward is what no healthy server does to a watch, and what one does
// with a large answer.
func TestForward(t *testing.T) {
	put := func(key string) []*mvccpb.Event {
		return []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: 7}}}
	}
	head := &etcdserverpb.ResponseHeader{ClusterId: 3, Revision: 9}
	for name, tt := range map[string]struct {
		source script
		open   error
		events []int // of each answer before the last
		want   error
	}{
		"cannot be opened": {open: status.Error(codes.Unavailable, "connection refused"), want: mvcc.ErrUnavailable},
		"connection lost":  {want: mvcc.ErrUnavailable},
		"compacted":        {source: script{{Header: head, CompactRevision: 7, Canceled: true}}, want: mvcc.ErrCompacted},
		"cancelled":        {source: script{{Header: head, Canceled: true, CancelReason: "x"}}, want: mvcc.ErrUnavailable},
		"fragments": {source: script{{Header: head, Events: put("a"), Fragment: true}, {Header: head, Events: put("b")}, {Header: head}},
			events: []int{2, 0}, want: mvcc.ErrUnavailable},
		"lost between fragments": {source: script{{Header: head, Events: put("a"), Fragment: true}}, want: mvcc.ErrUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			out := make(chan mvcc.WatchResponse, 5)
			forward(t.Context(), &tt.source, tt.open, out)
			close(out)
			for _, n := range tt.events {
				if r := <-out; len(r.Events) != n || r.Err != nil || r.Revision != 9 || r.ClusterID != 3 {
					t.Errorf("got %+v, want %d events", r, n)
				}
			}
			if r := <-out; !errors.Is(r.Err, tt.want) || len(r.Events) != 0 {
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
