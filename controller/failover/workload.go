package failover

import (
	"fmt"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// maxFailed is at how many nodes a workload may fail, one after the other, until it is
// left to people.
const maxFailed = 3

// HandOver has an owner make way for another node: it is asked for again in each pass
// until the owner has released its epoch, and off when it is asked for no more.
type HandOver struct {
	VPC, Endpoint, To, Why string
}

// ofOwner is what the owner reports of the epoch in force, nil if nothing.
func (p *pass) ofOwner(e *Endpoint) *cluster.EndpointStatus {
	s, n := e.Reports[e.owner()], p.Nodes[e.owner()]
	if s == nil || n == nil || s.NodeID != n.ID || !e.isCurrent(s) {
		return nil
	}
	return s
}

// workload is in which state the owner has what it started in the epoch in force, ""
// if it has not said so.
func (p *pass) workload(e *Endpoint) cluster.WorkloadState {
	s := p.ofOwner(e)
	if s == nil || s.Workload == nil || s.Workload.Era != e.Own.Era || s.Workload.Epoch != e.Own.Epoch {
		return ""
	}
	return s.Workload.State
}

// failed reports whether the owner says that the workload failed in this very epoch,
// and has ended.
func (p *pass) failed(e *Endpoint) bool {
	return e.Failover.Workload != "" && p.workload(e) == cluster.WorkloadFailed
}

// failures are the nodes where the workload failed one after the other, if it was not
// well for a while since.
func (p *pass) failures(e *Endpoint) []string {
	if e.Own.Moved == nil || e.Failover.Workload == "" || p.judge.endpoints[e.id()].well {
		return nil
	}
	return e.Own.Moved.Failed
}

// given says why a workload that nobody has is not given to another node, "" if it may
// be.
func (p *pass) given(e *Endpoint) string {
	f := p.failures(e)
	switch {
	case len(f) >= maxFailed:
		return fmt.Sprintf("its workload failed at %s; it is started again by \"endpoint move\" alone", strings.Join(f, ", "))
	case len(f) > 0 && p.target(e, f) == "":
		return fmt.Sprintf("its workload failed at %s, and %s", strings.Join(f, ", "), p.noTarget(e, f))
	}
	return ""
}

// proof is rule 2.4 where the workload must not run at two nodes: its end has to be
// confirmed by its node, or that has to have been booted anew and be fenced, so that
// it starts nothing again. That nobody hears the node is no proof.
func (p *pass) proof(e *Endpoint) cause {
	owner := e.owner()
	m := p.judge.node(owner)
	switch n := p.Nodes[owner]; {
	case p.released(e):
		return cause{ok: true, why: owner + " released it"}
	case e.Own.Restored:
		return cause{why: "the store was restored; say where its workload is to run by \"endpoint move --force\""}
	case n == nil || !e.Members[owner]:
		return cause{why: owner + " is no member of the VPC any more, and has not said that the workload has ended"}
	case !p.fenced(owner) || p.lifting(owner):
		return cause{}
	case p.holds(ruleProof) && m.rebooted.Before(p.judge.fences[owner].seen):
		return cause{why: owner + " is fenced, and has not said that the workload has ended"}
	}
	return p.barrier(e, owner)
}

// makeWay has the owner of a stateful endpoint hand over, one after the other.
func (p *pass) makeWay(e *Endpoint, to, kind string, pause time.Duration, why string) {
	begun := e.Own.HandOver != ""
	if begun && p.fits(e, e.Own.HandOver) {
		to = e.Own.HandOver
	}
	switch no := p.forbids(e); {
	case no != "":
		p.wait(e, no)
	case to == "":
		p.wait(e, p.noTarget(e, nil))
	case !begun && !p.due(p.judge.paused[kind]):
		p.wait(e, why+"; one after the other is moved")
	default:
		if !begun {
			p.judge.paused[kind] = p.Now.Add(pause)
		}
		p.out.HandOvers = append(p.out.HandOvers, HandOver{e.VPC, e.Name, to, why})
	}
}

// fits reports whether a node can have an endpoint now.
func (p *pass) fits(e *Endpoint, name string) bool {
	_, ok := p.candidate(e, name)
	return ok && p.unfit(name) == ""
}
