package store

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestLease(t *testing.T) {
	const ttl = 15 * time.Second
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		s := New(m, agentOfA)
		l := NewLease(s, ttl)
		if _, ok := l.ID(); ok {
			t.Error("a lease before any was granted")
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		<-l.Changed()
		first, ok := l.ID()
		if !ok {
			t.Fatal("no lease")
		}
		var c Change
		Set(&c, cluster.KeyLive("a"), &cluster.Live{NodeID: "id"}, nil, first)
		mustCommit(t, s, c)

		// Healthy, then an outage longer than the TTL: the same lease.
		time.Sleep(10 * ttl)
		m.SetDown(true)
		time.Sleep(2 * ttl)
		if l.Err() == nil {
			t.Error("no word of the outage")
		}
		m.SetDown(false)
		time.Sleep(ttl)
		if id, ok := l.ID(); !ok || id != first || l.Err() != nil || len(l.Changed()) > 0 {
			t.Errorf("after an outage: lease %d %v, %v, changed %d times; want lease %d as before", id, ok, l.Err(), len(l.Changed()), first)
		}
		mustGet[*cluster.Live](t, s, cluster.KeyLive("a"))

		// Lost: another one.
		if err := m.Revoke(ctx, first); err != nil {
			t.Fatal(err)
		}
		<-l.Changed()
		time.Sleep(time.Second)
		second, ok := l.ID()
		if !ok || second == first {
			t.Errorf("after the lease was lost: %d %v, want another than %d", second, ok, first)
		}
		mustCommit(t, s, func() (c Change) {
			Set(&c, cluster.KeyLive("a"), &cluster.Live{NodeID: "id"}, nil, second)
			return c
		}())

		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := Get[*cluster.Live](t.Context(), s, cluster.KeyLive("a")); !errors.Is(err, ErrNotFound) {
			t.Errorf("after a clean end: %v, want ErrNotFound", err)
		}
	})
}

// Ending while the store is away takes a bounded time.
func TestLeaseEndsWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := mvcc.NewMemory(mvcc.Config{})
		l := NewLease(New(m, agentOfA), 15*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- l.Run(ctx) }()
		<-l.Changed()
		m.SetDown(true)
		time.Sleep(time.Minute)
		cancel()
		start := time.Now()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d > goodbye {
			t.Errorf("took %v, want at most %v", d, goodbye)
		}
		m.SetDown(false)
	})
}
