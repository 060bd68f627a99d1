package hostops_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// TestPlanFences: a fence comes before all else, goes after all else, and stays on a
// host whose agent does not know whom it fenced.
func TestPlanFences(t *testing.T) {
	one, two := hosttest.Peer(0, false), hosttest.Peer(1, true)
	v := hosttest.MakeVPC(0)
	for name, tt := range map[string]struct {
		on          []netip.Addr // fenced on the host
		tamper      func(*fake.Host) error
		desired     hostops.Desired
		first, last string
		ops         int // at least; -1: none
	}{
		"comes":             {desired: hostops.Desired{Fenced: []netip.Addr{two, one}}, first: "fence 203.0.113.10, 2001:db8:2::11: drop all from and to there", ops: 1},
		"is there":          {on: []netip.Addr{one}, desired: hostops.Desired{Fenced: []netip.Addr{one}}, ops: -1},
		"goes":              {on: []netip.Addr{one, two}, desired: hostops.Desired{Fenced: []netip.Addr{two}}, first: "stop fencing 203.0.113.10", ops: 1},
		"is kept":           {on: []netip.Addr{one}, desired: hostops.Desired{KeepFenced: true}, ops: -1},
		"is kept, and more": {on: []netip.Addr{one}, desired: hostops.Desired{KeepFenced: true, Fenced: []netip.Addr{two}}, first: "fence 2001:db8:2::11: drop all from and to there", ops: 1},
		"filter is wiped": {on: []netip.Addr{one}, tamper: (*fake.Host).WipeFilter, desired: hostops.Desired{Fenced: []netip.Addr{one}},
			first: "create filter for UDP port 4789", ops: 3},
		"with the VPC": {on: []netip.Addr{one}, desired: hostops.Desired{Remove: nil, Hold: false, VPCs: []hostops.VPC{}}, last: "delete filter", ops: 2},
	} {
		t.Run(name, func(t *testing.T) {
			h, d := newHost(t)
			applyAll(t, d, []hostops.VPC{v})
			if len(tt.on) > 0 {
				if err := d.Apply(t.Context(), hostops.Fence{Sources: tt.on}); err != nil {
					t.Fatal(err)
				}
			}
			if tt.tamper != nil {
				if err := tt.tamper(h); err != nil {
					t.Fatal(err)
				}
			}
			if tt.desired.VPCs == nil {
				tt.desired.VPCs = []hostops.VPC{v}
			}
			ops, problems := hostops.Plan(tt.desired, h.State())
			if len(problems) > 0 || len(ops) < tt.ops || tt.ops < 0 && len(ops) > 0 {
				t.Fatalf("plan:\n%s", text(ops, problems))
			}
			if tt.first != "" && ops[0].String() != tt.first {
				t.Errorf("first is %q, want %q", ops[0], tt.first)
			}
			if tt.last != "" && ops[len(ops)-1].String() != tt.last {
				t.Errorf("last is %q, want %q", ops[len(ops)-1], tt.last)
			}
			if name == "filter is wiped" {
				if diff := cmp.Diff("fence 203.0.113.10: drop all from and to there", ops[1].String()); diff != "" {
					t.Errorf("second (-want +got):\n%s", diff)
				}
			}
		})
	}
}
