package store

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestMain(m *testing.M) {
	if config := os.Getenv(memberWord); config != "" {
		fmt.Fprintln(os.Stderr, member(config))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var (
	controller = cluster.Identity{Role: cluster.Controller}
	operator   = cluster.Identity{Role: cluster.Operator}
	agentOfA   = cluster.Identity{Role: cluster.Agent, Name: "a"}
)

// faulty is a KV between which and the store things can go wrong for one user
// alone.
type faulty struct {
	mvcc.KV

	mu     sync.Mutex
	frozen chan struct{} // calls wait until it is closed, whatever their context
	cut    bool          // calls wait for their context
	lose   bool          // transactions are applied and their answers lost
}

func (f *faulty) freeze() { f.set(func() { f.frozen = make(chan struct{}) }) }
func (f *faulty) thaw()   { f.set(func() { close(f.frozen); f.frozen = nil }) }

func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *faulty) pass(ctx context.Context) error {
	f.mu.Lock()
	frozen, cut := f.frozen, f.cut
	f.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
	if cut {
		<-ctx.Done()
		return mvcc.ErrUnavailable
	}
	return nil
}

func (f *faulty) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	if err := f.pass(ctx); err != nil {
		return mvcc.RangeResponse{}, err
	}
	return f.KV.Range(ctx, r)
}

func (f *faulty) Txn(ctx context.Context, t mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	if err := f.pass(ctx); err != nil {
		return mvcc.TxnResponse{}, err
	}
	r, err := f.KV.Txn(context.WithoutCancel(ctx), t) // frozen with the request on its way
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lose {
		return mvcc.TxnResponse{}, mvcc.ErrUnavailable
	}
	return r, err
}

func (f *faulty) Grant(ctx context.Context, ttl time.Duration) (mvcc.LeaseID, time.Duration, error) {
	if err := f.pass(ctx); err != nil {
		return 0, 0, err
	}
	return f.KV.Grant(ctx, ttl)
}

func (f *faulty) KeepAlive(ctx context.Context, id mvcc.LeaseID) (time.Duration, error) {
	if err := f.pass(ctx); err != nil {
		return 0, err
	}
	return f.KV.KeepAlive(ctx, id)
}

func (f *faulty) Revoke(ctx context.Context, id mvcc.LeaseID) error {
	if err := f.pass(ctx); err != nil {
		return err
	}
	return f.KV.Revoke(ctx, id)
}

func mustCommit(t *testing.T, s *Store, c Change) int64 {
	t.Helper()
	revision, err := s.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return revision
}

func mustGet[T cluster.Record](t *testing.T, s *Store, key string) Item[T] {
	t.Helper()
	it, err := Get[T](t.Context(), s, key)
	if err != nil {
		t.Fatal(err)
	}
	return it
}
