package controller

import (
	"maps"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// state is what a leader remembers between passes besides the records.
type state struct {
	alloc      *allocator.Allocator
	quarantine allocator.Quarantine
	pings      map[string]sighting
}

// step decides what has to be written so that the records are as they should
// be, and when to look again even if nothing changes (the zero time: never).
// It does no I/O; every effect's claims must be settled.
func (s *state) step(v *store.View, now time.Time) (effects []effect, again time.Time) {
	s.alloc.Refresh(v, v.Revision(cluster.Root))
	w := newWorld(v)
	for _, vpc := range w.inOrder() {
		p := plan{group: vpc.name}
		switch {
		case vpc.blocked:
		case vpc.spec.Value == nil:
			w.orphan(vpc, &p)
		case vpc.spec.Value.State == cluster.VPCDeleting:
			w.dismantle(vpc, &p)
		default:
			s.bring(w, vpc, &p)
		}
		effects = append(effects, p.effects()...)
	}
	garbage, again := s.garbage(w, now)
	return append(effects, garbage...), again
}

// inOrder lists the VPCs by name, those with a VNI in force first: what is in
// force is claimed before anything new is given out.
func (w *world) inOrder() []*vpc {
	vs := make([]*vpc, 0, len(w.vpcs))
	for _, name := range slices.Sorted(maps.Keys(w.vpcs)) {
		vs = append(vs, w.vpcs[name])
	}
	slices.SortStableFunc(vs, func(a, b *vpc) int {
		switch x, y := a.active(), b.active(); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
	return vs
}

func (v *vpc) active() bool { return v.net.Value != nil && v.net.Value.VNI != 0 }
