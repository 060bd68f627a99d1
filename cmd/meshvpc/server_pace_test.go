package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestPace lets a server that leads measure others, of which one is far.
func TestPace(t *testing.T) {
	const ms = time.Millisecond
	s := store.New(mvcc.NewMemory(mvcc.Config{}), cluster.Identity{Role: cluster.Operator})
	var c store.Change
	store.Create(&c, cluster.KeyConfig, &cluster.Config{ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"})
	for name, address := range map[string]string{"a": "192.0.2.1:2379", "b": "192.0.2.2:2379", "c": "192.0.2.3:2379"} {
		store.Create(&c, cluster.KeyServer(name), &cluster.Server{Datacenter: "x", Address: address, Voter: true})
	}
	if _, err := s.Commit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	leads, trips := true, map[string]time.Duration{"192.0.2.2:2378": 2 * ms, "192.0.2.3:2378": 180 * ms}
	p := &pace{name: "a", store: s, log: zap.NewNop(), leads: func(context.Context) bool { return leads },
		trip: func(_ context.Context, address string) (time.Duration, error) {
			took, ok := trips[address]
			if !ok {
				return 0, errors.New("no answer")
			}
			return took, nil
		}}
	looks := func(n int, want string) {
		t.Helper()
		for range n {
			if err := p.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		it, err := store.Get[*cluster.Config](t.Context(), s, cluster.KeyConfig)
		if err != nil {
			t.Fatal(err)
		}
		got := "none"
		if it.Value.Timings != nil {
			got = it.Value.Timings.Tick + " " + it.Value.Timings.Election
		}
		if got != want {
			t.Errorf("timings are %s, want %s", got, want)
		}
	}
	set := func(now *cluster.Timings) {
		t.Helper()
		it, err := store.Get[*cluster.Config](t.Context(), s, cluster.KeyConfig)
		if err != nil {
			t.Fatal(err)
		}
		it.Value.Timings = now
		var c store.Change
		store.Put(&c, it, it.Value)
		if _, err := s.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	looks(paceNeeds-1, "none") // a queue on the way may be long for a while
	leads = false
	looks(1, "none")
	leads = true
	looks(paceNeeds-1, "none") // what it knew when it led before is old
	looks(1, "200ms 2s")
	trips["192.0.2.3:2378"] = ms
	looks(2*paceNeeds, "200ms 2s") // another may lead next, who is farther away
	set(nil)
	looks(paceNeeds, "none")
	trips["192.0.2.3:2378"] = 400 * ms
	looks(paceNeeds-1, "none") // one short one is among the newest
	looks(1, "450ms 4.5s")
	fixed := cluster.TimingsOf(50*ms, 500*ms)
	fixed.Fixed = true
	set(fixed)
	looks(paceNeeds, "50ms 500ms")
	set(nil)
	delete(trips, "192.0.2.3:2378")
	looks(1, "450ms 4.5s") // from what was measured before it was away
}
