package watcher

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestCaster: each line is one step: how much later, whose links are up, who is
// heard, and whether the host floods to the group then.
func TestCaster(t *testing.T) {
	type step struct {
		after     time.Duration
		up, heard string
		toGroup   bool
		finding   string
	}
	const s = time.Second
	none := "nothing is heard by it from "
	for name, steps := range map[string][]step{
		"all are heard":           {{0, "b c", "", false, ""}, {s, "b c", "b", false, ""}, {s, "b c", "c", true, ""}, {5 * s, "b c", "b c", true, ""}},
		"alone":                   {{0, "", "", false, ""}, {20 * s, "", "", false, ""}, {s, "b", "b", true, ""}},
		"nobody is heard":         {{0, "b c", "", false, ""}, {9 * s, "b c", "", false, ""}, {2 * s, "b c", "", false, none + "b and 1 more"}},
		"one is not heard":        {{0, "b c", "b", false, ""}, {11 * s, "b c", "b", false, none + "c"}, {s, "b c", "b c", true, ""}},
		"one that is off":         {{0, "b", "b", true, ""}, {60 * s, "b", "b", true, ""}},
		"one goes off":            {{0, "b c", "b c", true, ""}, {5 * s, "b", "b", true, ""}, {60 * s, "b", "b", true, ""}},
		"one comes and is heard":  {{0, "b", "b", true, ""}, {5 * s, "b c", "b", true, ""}, {5 * s, "b c", "b c", true, ""}, {15 * s, "b c", "b c", true, ""}},
		"one comes and is not":    {{0, "b", "b", true, ""}, {5 * s, "b c", "b", true, ""}, {15 * s, "b c", "b", true, ""}, {s, "b c", "b", false, none + "c"}},
		"one greeting is lost":    {{0, "b", "b", true, ""}, {5 * s, "b", "", true, ""}, {5 * s, "b", "", true, ""}, {5 * s, "b", "b", true, ""}},
		"it stops to carry":       {{0, "b", "b", true, ""}, {15 * s, "b", "", true, ""}, {s, "b", "", false, none + "b"}, {s, "b", "b", false, "for a while"}, {299 * s, "b", "b", false, "for a while"}, {2 * s, "b", "b", true, ""}},
		"it stops to carry again": {{0, "b", "b", true, ""}, {16 * s, "b", "", false, none + "b"}, {s, "b", "b", false, "for a while"}, {200 * s, "b", "", false, none + "b"}, {200 * s, "b", "b", false, "for a while"}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1000, 0)
			c := newCaster(now, false)
			for i, st := range steps {
				now = now.Add(st.after)
				was := c.toGroup
				changed := c.step(now, strings.Fields(st.up), strings.Fields(st.heard))
				if c.toGroup != st.toGroup || changed != (was != c.toGroup) {
					t.Errorf("step %d: to group %v (changed %v), want %v", i, c.toGroup, changed, st.toGroup)
				}
				got := c.finding(now, netip.MustParseAddr("239.1.1.1"))
				if (got == "") != (st.finding == "") || !strings.Contains(got, st.finding) || got != "" && !strings.Contains(got, "239.1.1.1") {
					t.Errorf("step %d: finding %q, want one with %q", i, got, st.finding)
				}
			}
		})
	}
}

// TestMulticast: hosts flood to the group once they hear one another by it, to
// each peer while it does not carry, and say so.
func TestMulticast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		w.net.Multicast(false)
		for i := range 3 {
			w.start(w.node(i + 1))
		}
		group := netip.MustParseAddr("ff05::1:1")
		w.vpc(3)
		w.put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430,
			PeerNetwork: netip.MustParsePrefix("10.100.0.0/24"), Transport: cluster.Multicast, MulticastGroup: group})
		for i := range 3 {
			name := fmt.Sprintf("n%d", i+1)
			w.put(cluster.Controller, cluster.KeyMember("vpc1", name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
				VTEP: netip.AddrFrom4([4]byte{10, 100, 0, byte(i + 1)}), UnderlayIPv6: underlayOf(i + 1), Transport: cluster.Multicast})
		}
		check := func(when string, toGroup bool, reason string) {
			t.Helper()
			for name, h := range w.hosts {
				d := h.State().Devices["mv6-10000"]
				if to := d.Flood.Has(group); to != toGroup || (d.Flood.Len() == 1) != toGroup || d.Group != group {
					t.Errorf("%s: %s floods to %v, group %s; to the group: want %v", when, name, slices.Collect(d.Flood.Keys()), d.Group, toGroup)
				}
				it, err := store.Get[*cluster.NodeStatus](t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyNodeStatus(name))
				if err != nil {
					t.Fatal(err)
				}
				notes := strings.Join(it.Value.Notes, "; ")
				if s := w.status(name); !s.Ready || !strings.Contains(notes, reason) || (reason == "") != (notes == "") {
					t.Errorf("%s: %s is ready: %v, says %q; want %q", when, name, s.Ready, notes, reason)
				}
				for other, o := range w.hosts {
					if other != name && w.net.Copies(h, o, "vpc1") != 1 {
						t.Errorf("%s: a broadcast from %s arrives at %s %d times", when, name, other, w.net.Copies(h, o, "vpc1"))
					}
				}
			}
		}
		w.settle(30 * time.Second)
		check("not carried", false, "multicast group ff05::1:1 does not carry here: nothing is heard by it from n")
		w.net.Multicast(true)
		w.settle(30 * time.Second)
		check("carried", true, "")
		w.net.Multicast(false)
		w.settle(30 * time.Second)
		check("not any more", false, "does not carry here")
		w.net.Multicast(true)
		w.settle(30 * time.Second)
		check("carried again", false, "did not carry here for a while")
		w.settle(greetAgain)
		check("trusted again", true, "")
		w.vpcNet(cluster.Multipoint)
		w.settle(10 * time.Second)
		for name, h := range w.hosts {
			if d := h.State().Devices["mv6-10000"]; d.Group.IsValid() || d.Flood.Len() != 2 {
				t.Errorf("%s is still in group %s, floods to %v", name, d.Group, slices.Collect(d.Flood.Keys()))
			}
		}
	})
}

// vpcNet changes the transport of vpc1.
func (w *world) vpcNet(tr cluster.Transport) {
	w.put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430,
		PeerNetwork: netip.MustParsePrefix("10.100.0.0/24"), Transport: tr})
}
