package hosttest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
)

// fencing: hosts are fenced beside what VPCs want of them, by as little as can be,
// and the fences outlive the driver, a wiped filter and an agent that knows of none.
func fencing(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	free := b.state()
	desired := hostops.Desired{VPCs: []hostops.VPC{v}, Fenced: []netip.Addr{Peer(1, true), Peer(0, false)}}
	pass := func(what string, repairs int, want ...string) {
		t.Helper()
		r := b.host.Reconcile(t.Context(), desired, false)
		if diff := cmp.Diff(want, texts(r.Applied)); diff != "" {
			t.Errorf("%s: operations (-want +got):\n%s", what, diff)
		}
		if len(r.Problems) > 0 || r.Repairs != repairs || !r.Fenced || !r.Ready[v.Name] {
			t.Errorf("%s: problems %v, repairs %d, want %d; fenced %v, ready %v", what, r.Problems, r.Repairs, repairs, r.Fenced, r.Ready)
		}
	}
	on := func(what string, want ...netip.Addr) {
		t.Helper()
		got := slices.SortedFunc(b.state().Filter.Fenced.Keys(), netip.Addr.Compare)
		if diff := cmp.Diff(want, got, values()); diff != "" {
			t.Errorf("%s: fenced on the host (-want +got):\n%s", what, diff)
		}
	}
	pass("two come", 0, "fence 203.0.113.10, 2001:db8:2::11: drop all from and to there")
	pass("nothing new", 0)
	on("two", Peer(0, false), Peer(1, true))
	must(t, b.driver.Close())
	b.open()
	pass("another driver", 0)
	desired.Fenced, desired.KeepFenced = nil, true
	pass("nobody knows of any", 0)
	on("kept", Peer(0, false), Peer(1, true))
	desired.Fenced, desired.KeepFenced = []netip.Addr{Peer(0, false)}, false
	pass("one goes", 0, "stop fencing 2001:db8:2::11")

	must(t, b.driver.Apply(t.Context(), hostops.Unfence{Sources: desired.Fenced}))
	pass("somebody lifts it", 1, "fence 203.0.113.10: drop all from and to there")
	must(t, b.driver.Apply(t.Context(), hostops.Fence{Sources: []netip.Addr{Peer(7, false)}}))
	pass("somebody fences", 1, "stop fencing 203.0.113.17")
	b.settle()
	must(t, b.kernel.WipeFilter())
	b.changed("wiped filter")
	if r := b.host.Reconcile(t.Context(), desired, false); !r.Fenced || r.Repairs == 0 || len(r.Problems) > 0 {
		t.Errorf("after a wiped filter: %+v", r)
	}
	on("wiped", Peer(0, false))
	desired.Fenced = nil
	pass("none is left", 0, "stop fencing 203.0.113.10")
	if d := diff(free, b.state()); d != "" {
		t.Errorf("the host is not as it was before (-before +after):\n%s", d)
	}
	desired = hostops.Desired{Fenced: []netip.Addr{Peer(0, false)}}
	b.host.Reconcile(t.Context(), desired, false)
	if b.kernel.HasFilter() {
		t.Error("a host without VPCs has a filter, for a fence")
	}
}
