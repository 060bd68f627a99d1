package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// link is one client's way to the store. Requests and answers get lost on it,
// so that the outcome of a write may be unknown.
type link struct {
	w   *World
	cut bool
}

var _ mvcc.KV = (*link)(nil)

var errLost = fmt.Errorf("%w: lost on the way", mvcc.ErrUnavailable)

// carry takes a call to the store and its answer back.
func carry[T any](l *link, call func() (T, error)) (T, error) {
	var none T
	if l.cut || l.w.down || l.w.chance(l.w.loss) {
		return none, errLost
	}
	before := l.w.kv.Revision()
	answer, err := call()
	if l.w.kv.Revision() != before {
		l.w.written()
	}
	if l.w.chance(l.w.loss) {
		return none, errLost
	}
	return answer, err
}

func (l *link) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	return carry(l, func() (mvcc.RangeResponse, error) {
		if r.Revision == 0 && r.End != "" {
			return l.w.list(r)
		}
		return l.w.kv.Range(ctx, r)
	})
}

func (l *link) Txn(ctx context.Context, t mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	return carry(l, func() (mvcc.TxnResponse, error) { return l.w.kv.Txn(ctx, t) })
}

func (l *link) Grant(ctx context.Context, ttl time.Duration) (mvcc.LeaseID, time.Duration, error) {
	type grant struct {
		id  mvcc.LeaseID
		ttl time.Duration
	}
	g, err := carry(l, func() (grant, error) {
		id, ttl, err := l.w.kv.Grant(ctx, ttl)
		return grant{id, ttl}, err
	})
	return g.id, g.ttl, err
}

func (l *link) KeepAlive(ctx context.Context, id mvcc.LeaseID) (time.Duration, error) {
	return carry(l, func() (time.Duration, error) { return l.w.kv.KeepAlive(ctx, id) })
}

func (l *link) Revoke(ctx context.Context, id mvcc.LeaseID) error {
	_, err := carry(l, func() (struct{}, error) { return struct{}{}, l.w.kv.Revoke(ctx, id) })
	return err
}

// Watch is not used: feeds poll, see follower.
func (l *link) Watch(context.Context, mvcc.WatchRequest) <-chan mvcc.WatchResponse {
	c := make(chan mvcc.WatchResponse, 1)
	c <- mvcc.WatchResponse{Err: errors.ErrUnsupported}
	close(c)
	return c
}
