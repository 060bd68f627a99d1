package failover

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// plan moves endpoints whose owner is well, and that should be elsewhere: away from a node
// that is drained, or where their port failed, and back to a place that their list
// prefers. The new owner opens when it reads that it is one, the old one closes when it
// reads the same.
func (p *pass) plan() {
	for _, e := range p.inOrder() {
		owner := e.owner()
		n := p.Nodes[owner]
		if !e.settled() || n == nil || !e.Members[owner] || p.released(e) || e.Own.To != "" || p.stays(e) || !p.reads(owner) {
			continue
		}
		if e.Failover.Workload != "" && p.workload(e) != cluster.WorkloadRunning {
			continue // it is on its way already
		}
		switch {
		case n.State == cluster.NodeDraining:
			p.planned(e, p.target(e, nil), "drain "+owner, drainPause, cause{why: owner + " is drained"})
		case p.broken(e):
			p.leave(e)
		case n.State == cluster.NodeActive && p.out.Mode == ModeNormal && p.loss.gone == 0:
			if to := p.preferred(e); to != "" {
				p.planned(e, to, "failback "+p.Nodes[to].Datacenter, failbackPause, cause{why: to + " is preferred, and well again"})
			}
		}
	}
}

// reads reports whether an owner will read at once that it is not one any more.
func (p *pass) reads(owner string) bool {
	is := p.nodes[owner]
	return is.Class == OK && !is.Suspected && !p.fenced(owner) && p.alive(owner) && p.silence(owner) < 2*p.Timings.Keepalive
}

// planned moves an endpoint if nothing of the kind was done for a while.
func (p *pass) planned(e *Endpoint, to, kind string, pause time.Duration, c cause) {
	if to != "" && p.forbids(e) == "" && !p.due(p.judge.paused[kind]) {
		p.wait(e, c.why+"; one after the other is moved")
		return
	}
	before := len(p.out.Grants)
	done := e.strict() && p.handOver(e, to, c.why)
	if !e.strict() {
		p.give(e, c, to)
	}
	if done || len(p.out.Grants) > before {
		p.judge.paused[kind] = p.Now.Add(pause)
	}
}

// preferred is the node that an endpoint may return to, "" for none.
func (p *pass) preferred(e *Endpoint) string {
	if !e.Failover.Returns(p.Now) {
		return ""
	}
	to := p.target(e, nil)
	if to == "" {
		return ""
	}
	if w := e.Reports[to].Workload; w != nil && w.State == cluster.WorkloadFailed {
		return ""
	}
	since := p.judge.endpoints[e.id()].since
	if e.Own.Moved != nil && slices.Contains(e.Own.Moved.Failed, to) && !p.due(since.Add(failbackStable)) {
		return ""
	}
	m := p.judge.node(to)
	if !p.chooser.prefers(e, to) || p.worth(m) >= penaltyLeast || !p.due(m.okSince.Add(failbackStable)) {
		return ""
	}
	return to
}
