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
	asked      map[string]sighting // requests that wait
	own        ownTunnels
	trimmed    time.Time // when the history was looked at last
	confirm    confirmations
	questions  []Question // to be put
	memory     *Memory
	behind     bool                 // see failover.View
	waits      map[string]time.Time // since when endpoints wait to be moved
	seat       string               // the server that should rather lead; "": none
}

// step decides what has to be written so that the records are as they should
// be, and when to look again even if nothing changes (the zero time: never).
// It does no I/O; every effect's claims must be settled.
func (s *state) step(v *store.View, now time.Time) (effects []effect, again time.Time) {
	s.alloc.Refresh(v, v.Revision(cluster.Root))
	w := newWorld(v)
	w.own, w.now = &s.own, now
	w.findOwners(&s.confirm)
	moves, judged := s.failover(w, now)
	answers, waits := s.requests(w, now)
	var links []effect
	for _, vpc := range w.inOrder() {
		p := plan{group: vpc.name}
		switch {
		case vpc.blocked:
		case vpc.deleting():
			w.dismantle(vpc, &p)
		case vpc.spec.Value == nil:
			w.orphan(vpc, &p)
		default:
			s.bring(w, vpc, &p)
		}
		first, later := p.effects()
		effects, links = append(effects, first...), append(links, later...)
	}
	fences, _ := moves.effects()
	refusals, _ := answers.effects()
	garbage, again := s.garbage(w, now)
	again = earlier(earlier(earlier(again, waits), judged), w.again)
	questions, later := s.confirm.ask(w, now)
	s.questions = append(s.questions, questions...)
	if again.IsZero() || !later.IsZero() && later.Before(again) {
		again = later
	}
	s.own.sweep()
	effects = slices.Concat(fences, effects, refusals, garbage, links, s.trim(w, now))
	return append(effects, w.spoiled(effects)...), again
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

// deleting reports whether the operator's word to take v down was given: the
// spec says it, or the net record does and the spec was lost since.
func (v *vpc) deleting() bool {
	if s := v.spec.Value; s != nil {
		return s.State == cluster.VPCDeleting
	}
	return v.net.Value != nil && v.net.Value.Phase == cluster.PhaseDeleting
}

func (v *vpc) active() bool { return v.net.Value != nil && v.net.Value.VNI != 0 }
