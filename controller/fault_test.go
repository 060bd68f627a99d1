package controller

import (
	"context"
	"sync"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// faulty is a connection to a store that can be frozen, or loses answers.
type faulty struct {
	mvcc.KV
	mu     sync.Mutex
	frozen chan struct{} // while frozen: closed by thaw
	txns   int
	onTxn  func(n int) (lose lost) // n counts from 1
	after  func()                  // each transaction that the store did
}

type lost int

const (
	loseNothing lost = iota
	loseRequest      // the store never gets it
	loseAnswer       // the store does it
)

func (f *faulty) freeze() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.frozen = make(chan struct{})
}

func (f *faulty) thaw() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.frozen)
	f.frozen = nil
}

// wait stands still while frozen, whatever the deadline: so does a process.
func (f *faulty) wait() {
	f.mu.Lock()
	frozen := f.frozen
	f.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

func (f *faulty) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	f.wait()
	return f.KV.Range(ctx, r)
}

func (f *faulty) Txn(ctx context.Context, t mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	f.wait()
	f.mu.Lock()
	f.txns++
	lose := loseNothing
	if f.onTxn != nil {
		lose = f.onTxn(f.txns)
	}
	f.mu.Unlock()
	if lose == loseRequest {
		return mvcc.TxnResponse{}, mvcc.ErrUnavailable
	}
	// A frozen process that wakes up sends what it had decided before.
	r, err := f.KV.Txn(context.WithoutCancel(ctx), t)
	if f.after != nil {
		f.after()
	}
	if lose == loseAnswer {
		return mvcc.TxnResponse{}, mvcc.ErrUnavailable
	}
	return r, err
}

func (f *faulty) KeepAlive(ctx context.Context, id mvcc.LeaseID) (time.Duration, error) {
	f.wait()
	return f.KV.KeepAlive(ctx, id)
}
