package watcher

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// fence writes the fence of node i and returns the revision that made it.
func (w *world) fence(i int) int64 {
	w.t.Helper()
	name := "n" + string(rune('0'+i))
	w.put(cluster.Controller, cluster.KeyFence(name), &cluster.Fence{NodeID: "id-" + name, Underlay: []netip.Addr{underlayOf(i)}, Why: "silent for 2s", Since: cluster.At(time.Now())})
	return w.revision()
}

// wantFenced compares whom a host takes nothing from.
func (w *world) wantFenced(name string, want ...netip.Addr) {
	w.t.Helper()
	got := slices.SortedFunc(w.hosts[name].State().Filter.Fenced.Keys(), netip.Addr.Compare)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		w.t.Errorf("fenced on the host of %s (-want +got):\n%s", name, diff)
	}
}

// acked is the revision up to which a node says that it has applied fences, 0: it
// says nothing.
func (w *world) acked(name string) int64 {
	w.t.Helper()
	it, err := store.Get[*cluster.FenceStatus](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyFenceStatus(name))
	if err != nil {
		return 0
	}
	if it.Value.NodeID != "id-"+name {
		w.t.Errorf("fence status of %s: %+v", name, it.Value)
	}
	return it.Value.Revision
}

func TestFences(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		for name := range w.hosts {
			if n := w.acked(name); n != 0 {
				t.Errorf("%s says up to %d without any fence", name, n)
			}
		}
		at := w.fence(3)
		w.settle(100 * time.Millisecond)
		for _, name := range []string{"n1", "n2", "n3"} {
			if n := w.acked(name); n < at {
				t.Errorf("%s says up to %d; want %d or more", name, n, at)
			}
		}
		w.wantFenced("n1", underlayOf(3))
		w.wantFenced("n2", underlayOf(3))
		w.wantFenced("n3")
		w.wantWhole("n1") // tunnels stay as they are

		// Other things happen: nothing more is said of fences.
		said := w.acked("n1")
		w.put(cluster.Operator, cluster.KeyNode("n2"), &cluster.Node{ID: "id-n2", Datacenter: "dc2", State: cluster.NodeActive, Agent: true})
		w.settle(5 * time.Minute)
		if n := w.acked("n1"); n != said {
			t.Errorf("n1 says up to %d after nothing, said %d", n, said)
		}
		// What was said is said again when the store has lost it.
		w.raw(cluster.KeyFenceStatus("n1"), "")
		w.settle(2 * time.Minute)
		if n := w.acked("n1"); n < at {
			t.Errorf("n1 says up to %d after the store lost it; want %d or more", n, at)
		}
		// One that cannot be read any more stands.
		w.raw(cluster.KeyFence("n3"), "{")
		spoilt := w.revision()
		w.fence(2)
		w.settle(time.Second)
		w.wantFenced("n1", underlayOf(2), underlayOf(3))
		if n := w.acked("n1"); n >= spoilt {
			t.Errorf("n1 says up to %d, and could not read what was written at %d", n, spoilt)
		}
		w.raw(cluster.KeyFence("n2"), "")
		w.raw(cluster.KeyFence("n3"), "")
		lifted := w.revision()
		w.settle(100 * time.Millisecond)
		w.wantFenced("n1")
		if n := w.acked("n1"); n < lifted {
			t.Errorf("n1 says up to %d after the fence went; want %d or more", n, lifted)
		}
	})
}

// TestFencesAreKept through whatever is no word that they are over.
func TestFencesAreKept(t *testing.T) {
	for name, do := range map[string]func(w *world){
		"no store":                func(w *world) { w.away = true },
		"no store after a reboot": func(w *world) { w.away = true; w.hosts["n1"].PowerCycle() },
		"no store, and no cache":  func(w *world) { w.away = true; forget(w, "n1") },
		"another cluster's store": func(w *world) { w.raw(cluster.KeyFence("n3"), ""); w.config(func(c *cluster.Config) { c.ID = "c2" }) },
		"restored, no word yet":   func(w *world) { w.raw(cluster.KeyFence("n3"), ""); w.config(func(c *cluster.Config) { c.Era = 2 }) },
		"it cannot be read":       func(w *world) { w.raw(cluster.KeyFence("n3"), "{") },
		"the filter is wiped":     func(w *world) { must(w.t, w.hosts["n1"].WipeFilter()) },
		"nothing, and no cache":   func(w *world) { forget(w, "n1") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := mesh(t)
				defer w.close()
				w.fence(3)
				w.settle(time.Second)
				w.wantFenced("n1", underlayOf(3))
				w.stop["n1"]()
				do(w)
				w.start("n1")
				w.settle(time.Minute)
				w.wantFenced("n1", underlayOf(3))
			})
		})
	}
}

// TestFenceOfWhatMoved: where a fenced node is now counts, too.
func TestFenceOfWhatMoved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.fence(3)
		w.put(cluster.Controller, cluster.KeyMember("vpc1", "n3"), &cluster.Member{NodeID: "id-n3", Datacenter: "dc1",
			VTEP: netip.MustParseAddr("10.100.0.3"), UnderlayIPv6: underlayOf(7), Transport: cluster.Multipoint})
		w.settle(time.Second)
		w.wantFenced("n1", underlayOf(3), underlayOf(7))
	})
}

func forget(w *world, name string) { must(w.t, os.Remove(filepath.Join(w.caches, name))) }

// config changes the cluster's config.
func (w *world) config(edit func(*cluster.Config)) {
	w.t.Helper()
	c := &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Encryption: "none"}
	edit(c)
	w.put(cluster.Operator, cluster.KeyConfig, c)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// movable gives web1 failover.
func (w *world) movable() {
	w.t.Helper()
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(1, 0)),
		Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}}})
	w.settle(time.Second)
}

// TestFencedServesNothingThatMoves as long as its fence stands, whatever it
// remembers; what cannot move goes on.
func TestFencedServesNothingThatMoves(t *testing.T) {
	for name, moves := range map[string]bool{"failover": true, "no failover": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				if moves {
					w.movable()
				}
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
				w.fence(1)
				w.settle(100 * time.Millisecond)
				w.wantDevice("n1", true, !moves)
				state := cluster.PortReady
				if moves {
					state = cluster.PortStandby
				}
				w.wantPort("n1", state, 2)

				w.stop["n1"]() // nor does the next agent, without a store
				w.away = true
				w.start("n1")
				w.settle(time.Minute)
				w.wantDevice("n1", true, !moves)
				w.stop["n1"]()
				w.away = false
				w.start("n1")
				w.settle(time.Minute)
				w.wantDevice("n1", true, !moves)

				w.raw(cluster.KeyFence("n1"), "")
				w.settle(reopenAfter / 2)
				w.wantDevice("n1", true, !moves)
				w.settle(reopenAfter)
				w.wantDevice("n1", true, true)
				w.wantPort("n1", cluster.PortReady, 2)
			})
		})
	}
}

// TestMovedWhileFenced: who was fenced and is the owner no more opens at no moment.
func TestMovedWhileFenced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		w.movable()
		w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
		w.fence(1)
		w.settle(time.Second)
		writes := w.hosts["n1"].Writes()
		w.raw(cluster.KeyFence("n1"), "")
		w.owner("web1", "n2", 3)
		w.settle(time.Minute)
		w.wantDevice("n1", true, false)
		w.wantPort("n1", cluster.PortStandby, 3)
		if n := w.hosts["n1"].Writes() - writes; n != 0 {
			t.Errorf("%d writes to the host; want none", n)
		}
	})
}

// TestStartOpensNothingThatMoves: after a start, what can move opens when the store
// has been read. What the kernel has open stays so: nothing is lost by an agent that
// ends.
func TestStartOpensNothingThatMoves(t *testing.T) {
	for name, tt := range map[string]struct {
		moves, reboot, open bool
	}{
		"same boot":                   {true, false, true},
		"same boot, no failover":      {false, false, true},
		"after a reboot":              {true, true, false},
		"after a reboot, no failover": {false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := attachWorld(t)
				defer w.close()
				if tt.moves {
					w.movable()
				}
				w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 2)
				w.stop["n1"]()
				w.away = true
				if tt.reboot {
					w.hosts["n1"].PowerCycle()
					w.room("n1", "web1")
				}
				writes := w.hosts["n1"].Writes()
				w.start("n1")
				w.settle(time.Minute)
				w.wantDevice("n1", true, tt.open)
				if n := w.hosts["n1"].Writes() - writes; !tt.reboot && n != 0 {
					t.Errorf("%d writes to a host that was as it should be", n)
				}
				w.stop["n1"]()
				w.away = false
				w.start("n1")
				w.settle(time.Minute)
				w.wantDevice("n1", true, true)
				w.wantPort("n1", cluster.PortReady, 2)
			})
		})
	}
}
