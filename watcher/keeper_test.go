package watcher

import (
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// liveOf is a node's live record, and the lease it is on.
func (w *world) liveOf(name string) (*cluster.Live, int64) {
	w.t.Helper()
	it, err := store.Get[*cluster.Live](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyLive(name))
	if err != nil {
		w.t.Fatal(err)
	}
	return it.Value, it.Mod
}

// renewed counts how often a node's counter moves within a time.
func (w *world) renewed(name string, within time.Duration) int64 {
	w.t.Helper()
	before, _ := w.liveOf(name)
	w.settle(within)
	after, _ := w.liveOf(name)
	return after.Counter - before.Counter
}

// TestKeepalive: who owns what can move says so by a counter, as often as the profile
// has it; nobody else writes anything; and after a fence commits no counter moves.
func TestKeepalive(t *testing.T) {
	for name, tt := range map[string]struct {
		profile cluster.Profile
		want    int64 // within a minute
	}{"default": {cluster.ProfileDefault, 20}, "fast": {cluster.ProfileFast, 60}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				w.config(func(c *cluster.Config) { c.Failover = tt.profile })
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
				if n := w.renewed("n1", time.Minute); n != 0 {
					t.Errorf("%d renewals without any failover", n)
				}
				w.movable()
				if n := w.renewed("n1", time.Minute); n != tt.want {
					t.Errorf("%d renewals in a minute; want %d", n, tt.want)
				}
				if n := w.renewed("n2", time.Minute); n != 0 {
					t.Errorf("%d renewals of who owns nothing", n)
				}

				at := w.fence(1)
				w.settle(time.Minute)
				if l, mod := w.liveOf("n1"); mod > at {
					t.Errorf("live is %+v of revision %d; the fence is of %d", l, mod, at)
				}
				w.raw(cluster.KeyFence("n1"), "")
				if n := w.renewed("n1", time.Minute); n < tt.want {
					t.Errorf("%d renewals in a minute after the fence; want %d", n, tt.want)
				}
				w.owner("web1", "n2", 3)
				w.settle(time.Second)
				if n := w.renewed("n1", time.Minute); n != 0 {
					t.Errorf("%d renewals after another has it", n)
				}
				if n := w.renewed("n2", time.Minute); n != tt.want {
					t.Errorf("%d renewals of the new owner; want %d", n, tt.want)
				}
			})
		})
	}
}

// TestFencedIsSeen: a fenced node whose lease is another is still seen, and its
// counter has not moved.
func TestFencedIsSeen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.movable()
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.settle(time.Minute)
		before, _ := w.liveOf("n1")
		w.fence(1)
		w.raw(cluster.KeyLive("n1"), "")
		w.settle(2 * time.Minute)
		if after, _ := w.liveOf("n1"); *after != *before {
			t.Errorf("live is %+v; want it as before the fence: %+v", after, before)
		}
	})
}
