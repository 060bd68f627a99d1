package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Lease keeps a lease of the store alive and makes another when it is lost.
// An outage of the store costs nothing: the store gives its leases their full
// TTL afterwards, so the same lease goes on. It is safe for concurrent use.
type Lease struct {
	s       *Store
	ttl     time.Duration
	rand    *rand.Rand // Run's alone
	changed chan struct{}

	mu  sync.Mutex
	id  mvcc.LeaseID
	err error
}

// NewLease asks for nothing yet. The TTL is rounded up by the store to what it
// can do (etcd: whole seconds, at least two with its default timings).
func NewLease(s *Store, ttl time.Duration) *Lease {
	return &Lease{s: s, ttl: ttl, rand: newRand(nil), changed: make(chan struct{}, 1)}
}

// ID is the lease to put records on; it reports false while there is none.
func (l *Lease) ID() (mvcc.LeaseID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.id != 0
}

// Err is why the last renewal did not work, nil when it did.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Changed receives when ID has changed: what was put on the former lease has
// gone, or will. Values coalesce.
func (l *Lease) Changed() <-chan struct{} { return l.changed }

// Run renews the lease every third of its TTL until ctx ends, then revokes it,
// so that its records go at once. It returns nil.
func (l *Lease) Run(ctx context.Context) error {
	var t term
	for ctx.Err() == nil {
		var err error
		if t.id == 0 {
			t, err = l.s.grant(ctx, l.ttl)
		} else {
			err = l.s.renew(ctx, &t)
		}
		wait := t.ttl / 3
		switch {
		case errors.Is(err, mvcc.ErrLeaseNotFound):
			t, wait = term{}, l.ttl/100
		case err != nil:
			wait = l.ttl / 10
		}
		l.set(t.id, err)
		if !Sleep(ctx, jitter(l.rand, wait)) {
			break
		}
	}
	l.set(0, ctx.Err())
	return l.s.revoke(ctx, t)
}

func (l *Lease) set(id mvcc.LeaseID, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	if l.id != id {
		l.id = id
		signal(l.changed)
	}
}

// term is a lease and until when it lasts for certain. That counts from when
// the last renewal that worked was sent (the store's own count began later),
// less a twentieth, since two clocks do not run at quite the same rate.
type term struct {
	id    mvcc.LeaseID
	ttl   time.Duration
	until time.Time
}

func (t *term) renewed(sent time.Time, ttl time.Duration) {
	t.ttl, t.until = ttl, sent.Add(ttl-ttl/20)
}

func (s *Store) grant(ctx context.Context, ttl time.Duration) (term, error) {
	ctx, cancel := context.WithTimeout(ctx, min(s.timeout, ttl))
	defer cancel()
	sent := time.Now()
	id, ttl, err := s.kv.Grant(ctx, ttl)
	if err != nil {
		return term{}, fmt.Errorf("grant lease: %w", err)
	}
	t := term{id: id}
	t.renewed(sent, ttl)
	return t, nil
}

// renew sends one keepalive and waits a third of the TTL for the answer, so
// that there is time for another.
func (s *Store) renew(ctx context.Context, t *term) error {
	ctx, cancel := context.WithTimeout(ctx, min(s.timeout, t.ttl/3))
	defer cancel()
	sent := time.Now()
	ttl, err := s.kv.KeepAlive(ctx, t.id)
	if err != nil {
		return fmt.Errorf("renew lease %x: %w", t.id, err)
	}
	t.renewed(sent, ttl)
	return nil
}

// goodbye bounds what is still asked of the store when all else has ended.
const goodbye = time.Second

// revoke ends a lease, also when ctx has ended. One that is gone is no error,
// nor is one that cannot be reached: it ends by itself.
func (s *Store) revoke(ctx context.Context, t term) error {
	if t.id == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(s.timeout, goodbye))
	defer cancel()
	err := s.kv.Revoke(ctx, t.id)
	if err == nil || errors.Is(err, mvcc.ErrLeaseNotFound) || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("revoke lease %x: %w", t.id, err)
}
