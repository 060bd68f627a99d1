package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Leadership is the time that a controller leads. What it writes through Store
// is guarded by its leader's key, so that a leader who does not know yet that
// another one was elected (it was frozen, its clock stood still) can do no
// harm: Commit returns ErrFenced. Done is a hint to stop early, the fence is
// what makes two leaders safe.
type Leadership struct {
	Store *Store // fenced

	lease  term
	create int64
	cancel context.CancelFunc
	done   chan struct{}
}

// Done is closed when this leader may no longer be the only one: its lease ran
// out by this machine's clock, counted from when its last renewal was sent;
// the store said that the lease or the key is gone; the context of Campaign
// ended; or it resigned.
func (l *Leadership) Done() <-chan struct{} { return l.done }

// TTL is that of the leader's lease.
func (l *Leadership) TTL() time.Duration { return l.lease.ttl }

// Resign ends the leadership and lets another be elected at once. It must be
// called, after Done too, and may be called again.
func (l *Leadership) Resign(ctx context.Context) error {
	l.cancel()
	<-l.done
	return l.Store.revoke(ctx, l.lease)
}

// Campaign waits until the controller of that name leads: until it has created
// cluster.KeyLeader on a lease of the TTL that ttl says at that moment. It returns
// early when ctx ends or the store fails; call it again after a pause. The identity
// of s is the controller's, and s has no fence. Now dates the record, nil is time.Now.
func Campaign(ctx context.Context, s *Store, name string, ttl func(context.Context) time.Duration, now func() time.Time) (*Leadership, error) {
	if now == nil {
		now = time.Now
	}
	for {
		held, revision, err := s.leader(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("campaign: %w", err)
		case held.CreateRevision != 0 && held.Lease == 0:
			// Nobody's: no lease would ever end it.
			var c Change
			c.Remove(cluster.KeyLeader, held.ModRevision)
			if _, err := s.Commit(ctx, c); err != nil && !errors.Is(err, ErrConflict) {
				return nil, fmt.Errorf("campaign: %w", err)
			}
		case held.CreateRevision != 0:
			s.awaitVacancy(ctx, revision+1, ttl(ctx))
		default:
			l, err := s.stand(ctx, &cluster.Leader{Name: name, Since: cluster.At(now())}, ttl(ctx))
			if !errors.Is(err, ErrConflict) {
				return l, err
			}
		}
	}
}

// leader reads who leads; the zero KeyValue is nobody.
func (s *Store) leader(ctx context.Context) (mvcc.KeyValue, int64, error) {
	keys, header, err := s.Read(ctx, cluster.KeyLeader)
	if err != nil || len(keys) == 0 {
		return mvcc.KeyValue{}, header.Revision, err
	}
	return keys[0], header.Revision, nil
}

// awaitVacancy returns when the leader's key was deleted, at the latest after
// d: a store that went back in time does not tell its watchers.
func (s *Store) awaitVacancy(ctx context.Context, from int64, d time.Duration) {
	wait, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for w := range s.kv.Watch(wait, mvcc.WatchRequest{Key: cluster.KeyLeader, From: from}) {
		if w.Err != nil {
			Sleep(wait, d/10)
			return
		}
		for _, e := range w.Events {
			if e.Deleted {
				return
			}
		}
	}
}

// stand tries to become the leader: ErrConflict means that another was faster.
// On any other error the lease is revoked, and a key that was made after all
// goes with it.
func (s *Store) stand(ctx context.Context, r *cluster.Leader, ttl time.Duration) (*Leadership, error) {
	lease, err := s.grant(ctx, ttl)
	if err != nil {
		return nil, fmt.Errorf("campaign: %w", err)
	}
	var c Change
	PutLeased(&c, Item[*cluster.Leader]{Key: cluster.KeyLeader}, r, lease.id)
	revision, err := s.Commit(ctx, c)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("campaign: %w", err), s.revoke(ctx, lease))
	}
	ctx, cancel := context.WithCancel(ctx)
	l := &Leadership{
		Store:  s.WithFence(cluster.KeyLeader, revision),
		lease:  lease,
		create: revision,
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go l.keep(ctx, lease)
	return l, nil
}

// keep renews the lease every third of its TTL, sooner after a failure, until
// it is lost or ctx ends.
func (l *Leadership) keep(ctx context.Context, t term) {
	defer close(l.done)
	wait := t.ttl / 3
	for Sleep(ctx, min(wait, time.Until(t.until))) && time.Now().Before(t.until) {
		wait = t.ttl / 3
		switch err := l.renew(ctx, &t); {
		case errors.Is(err, mvcc.ErrLeaseNotFound), errors.Is(err, ErrFenced):
			return
		case err != nil:
			wait = t.ttl / 10
		}
	}
}

// renew renews the lease and sees whether the key still is ours: somebody may
// have deleted it, or the store went back to another leader's time.
func (l *Leadership) renew(ctx context.Context, t *term) error {
	ctx, cancel := context.WithDeadline(ctx, t.until)
	defer cancel()
	if err := l.Store.renew(ctx, t); err != nil {
		return err
	}
	held, _, err := l.Store.WithTimeout(t.ttl / 3).leader(ctx)
	if err == nil && held.CreateRevision != l.create {
		return ErrFenced
	}
	return err
}
