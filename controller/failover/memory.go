package failover

import (
	"maps"
	"math"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// nodeMemory is what the leader remembers of a node. A zero time: it is not so now.
type nodeMemory struct {
	suspectedSince time.Time
	silentSince    time.Time // it is Down or Isolated
	okSince        time.Time // it is OK, alive, and nobody suspects it
	heard          bool      // it was not silent once, by fresh evidence
	failed         bool      // this silence was counted as a failure
	rebooted       time.Time
	void           cluster.Time // of the operator's word that is over, see givenUp

	lostSince time.Time
	began     bool // the loss began under this judge's eyes
	old       bool // it does not count any more

	failures  int
	penalty   float64 // at penaltyAt
	penaltyAt time.Time
	barred    bool // by its penalty
}

func (j *Judge) node(name string) *nodeMemory {
	m := j.nodes[name]
	if m == nil {
		m = &nodeMemory{}
		j.nodes[name] = m
	}
	return m
}

// mark keeps the time since when something holds.
func mark(at *time.Time, holds bool, now time.Time) {
	switch {
	case !holds:
		*at = time.Time{}
	case at.IsZero():
		*at = now
	}
}

// remember takes how a node is in this pass.
func (p *pass) remember(name string) {
	m, is := p.judge.node(name), p.nodes[name]
	silent := is.Class == Down || is.Class == Isolated
	mark(&m.suspectedSince, is.Suspected, p.Now)
	mark(&m.silentSince, silent, p.Now)
	mark(&m.okSince, is.Class == OK && !is.Suspected && p.alive(name), p.Now)
	if !silent {
		m.failed = false
		m.heard = m.heard || !p.collecting()
	}
	if is.Class == Down && !m.failed && p.confirmed(name) {
		m.failed = true
		m.failures++
		p.punish(m)
	}
	if !m.okSince.IsZero() && p.Now.Sub(m.okSince) > stableMost {
		m.failures = 0
	}
	p.worth(m)
}

// punish adds one failure to a penalty.
func (p *pass) punish(m *nodeMemory) {
	m.penalty, m.penaltyAt = p.worth(m)+penalty, p.Now
	p.worth(m)
}

// worth is what is left of a node's penalty; it bars the node above one bound, and
// lets it go below the other.
func (p *pass) worth(m *nodeMemory) float64 {
	if m.penalty == 0 {
		return 0
	}
	left := m.penalty * math.Exp2(-float64(p.Now.Sub(m.penaltyAt))/float64(halfLife))
	switch {
	case left >= penaltyMost:
		m.barred = true
	case left < penaltyLeast:
		m.barred = false
	}
	if m.barred {
		until := float64(halfLife) * math.Log2(m.penalty/penaltyLeast)
		p.due(m.penaltyAt.Add(time.Duration(until) + time.Millisecond))
	}
	return left
}

// stable reports whether a node has been well for as long as its failures ask for.
func (p *pass) stable(m *nodeMemory) bool {
	if m.okSince.IsZero() {
		return false
	}
	if m.failures == 0 {
		return true
	}
	most := min(stableLeast<<min(m.failures-1, 10), stableMost)
	return p.due(m.okSince.Add(most))
}

// confirmed reports whether a node has been silent for as long as evidence has to
// hold: at least a probe period, in which what else is lost with it shows, too.
func (p *pass) confirmed(name string) bool {
	since := p.judge.node(name).silentSince
	return !p.holds(ruleConfirm) || !since.IsZero() && p.due(since.Add(max(p.Timings.Confirm, p.Timings.Probe)))
}

// givenUp reports whether an operator's word holds that a node is lost.
func (p *pass) givenUp(name string) bool {
	n := p.Nodes[name]
	if n == nil || n.GivenUp == nil {
		return false
	}
	live, m := p.Live[name], p.judge.node(name)
	if !p.alive(name) {
		live = nil
	}
	if !n.GivenUp.Holds(live, p.Now) && p.holds(ruleWord) {
		m.void = n.GivenUp.At
	}
	return !m.void.Equal(n.GivenUp.At.Time)
}

// fenceMemory is what the leader remembers of a fence.
type fenceMemory struct {
	revision int64
	seen     time.Time
}

// watchFences takes the fences in force.
func (j *Judge) watchFences(p *pass) {
	for name, f := range p.Fences {
		if m := j.fences[name]; m == nil || m.revision != f.Revision {
			j.fences[name] = &fenceMemory{revision: f.Revision, seen: p.Now}
			if n := p.Nodes[name]; n != nil {
				j.paused["fence "+n.Datacenter] = p.Now.Add(partialPause)
			}
		}
	}
	maps.DeleteFunc(j.fences, func(name string, _ *fenceMemory) bool { _, ok := p.Fences[name]; return !ok })
}

// fenced reports whether a fence is in force against the name.
func (p *pass) fenced(name string) bool { _, ok := p.Fences[name]; return ok }

// endpointMemory is what the leader remembers of an endpoint.
type endpointMemory struct {
	era, epoch int64
	owner      string
	moved      cluster.Time // At of the last Moved
	changes    window       // of the owner, by the leader
	// strangerSince is since when the owner is no member; zero: it is one.
	strangerSince time.Time
	frozen        bool
	since         time.Time // this epoch was seen first
	brokenSince   time.Time // its owner says that it cannot serve it
	runsSince     time.Time // the workload runs at its owner, or the port is ready
	well          bool      // it did for a while, in this epoch
}

// watchEndpoints takes whose the endpoints are, and counts the changes that nobody
// asked for. What an operator does lets a frozen one go.
func (j *Judge) watchEndpoints(p *pass) {
	seen := map[string]bool{}
	for _, e := range p.Endpoints {
		if e.Own == nil {
			continue
		}
		seen[e.id()] = true
		m := j.endpoints[e.id()]
		moved := cluster.Moved{}
		if e.Own.Moved != nil {
			moved = *e.Own.Moved
		}
		changed := m != nil && (m.era != e.Own.Era || m.epoch != e.Own.Epoch)
		switch {
		case m == nil:
			m = &endpointMemory{}
			j.endpoints[e.id()] = m
			if p.Now.Sub(moved.At.Time) < longAgo {
				for range moved.Changes {
					m.changes = append(m.changes, p.Now)
				}
			}
		case changed && (m.owner == "" || !moved.At.Equal(m.moved.Time) && moved.Changes > 0):
			m.changes = append(m.changes, p.Now)
		case changed && e.owner() != "", e.Held:
			m.changes, m.frozen = nil, false
		}
		m.era, m.epoch, m.owner, m.moved = e.Own.Era, e.Own.Epoch, e.owner(), moved.At
		mark(&m.strangerSince, e.owner() != "" && !e.Members[e.owner()], p.Now)
		p.thaw(m)
		if changed || m.since.IsZero() {
			m.since = p.Now
		}
		mark(&m.brokenSince, !changed && p.portFails(e), p.Now)
		mark(&m.runsSince, !changed && p.runs(e), p.Now)
		m.well = !changed && m.well || !m.runsSince.IsZero() && p.Now.Sub(m.runsSince) >= stableLeast
	}
	maps.DeleteFunc(j.endpoints, func(id string, _ *endpointMemory) bool { return !seen[id] })
}

// thaw freezes an endpoint that changed too often, and lets it go after as long
// without a change.
func (p *pass) thaw(m *endpointMemory) {
	if n := len(m.changes); n > 0 && n < maxChanges && !m.frozen {
		m.changes.since(p.Now.Add(-changeWindow))
	}
	if len(m.changes) >= maxChanges {
		m.frozen = true
	}
	if m.frozen && p.due(m.changes[len(m.changes)-1].Add(changeWindow)) {
		m.changes, m.frozen = nil, false
	}
}
