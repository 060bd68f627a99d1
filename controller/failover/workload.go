package failover

import (
	"fmt"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// maxFailed is at how many nodes a workload may fail, one after the other, until it is
// left to people.
const maxFailed = 3

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
	if s == nil {
		return ""
	}
	return s.Workload.In(e.Own)
}

// runs reports whether an endpoint's workload runs at its owner; of one that has none,
// whether its port is ready.
func (p *pass) runs(e *Endpoint) bool {
	if e.Failover == nil || e.Failover.Workload != "" {
		return p.workload(e) == cluster.WorkloadRunning
	}
	s := p.ofOwner(e)
	return s != nil && s.State == cluster.PortReady
}

// failed reports whether the owner says that the workload failed in this very epoch,
// and has ended.
func (p *pass) failed(e *Endpoint) bool {
	return e.Failover.Workload != "" && p.workload(e) == cluster.WorkloadFailed
}

// failures are the nodes where the workload, or the port, failed one after the other, if
// it was not well for a while since.
func (p *pass) failures(e *Endpoint) []string {
	if e.Own.Moved == nil || p.judge.endpoints[e.id()].well {
		return nil
	}
	return e.Own.Moved.Failed
}

// given says why a workload that nobody has is not given to another node, "" if it may
// be.
func (p *pass) given(e *Endpoint) string {
	f := p.failures(e)
	switch {
	case e.Failover.Workload == "": // where a port failed, that is mended if it says so
	case len(f) >= maxFailed:
		return fmt.Sprintf("its workload failed at %s; it is started again by \"endpoint move\" alone", strings.Join(f, ", "))
	case len(f) > 0 && p.target(e, f) == "":
		return fmt.Sprintf("its workload failed at %s, and %s", strings.Join(f, ", "), p.chooser.Why(e, except(f)))
	}
	return ""
}

// mayRun reports whether a workload that must not run at two nodes may still run at its
// owner, and why it is waited for, "" if it is where it should be. Its end has to be
// confirmed by its node, or that has to have been booted anew and be fenced, so that
// it starts nothing again. That nobody hears the node is no proof, nor that its kernel
// has shut the port: that ends no workload.
func (p *pass) mayRun(e *Endpoint) (why string, may bool) {
	owner := e.owner()
	n := p.Nodes[owner]
	switch {
	case owner == "" || !e.Failover.Stateful():
		return "", false
	case e.Own.Restored:
		return "the store was restored; say where its workload is to run by \"endpoint move --force\"", true
	case p.released(e) || p.failed(e):
		return "", false
	case n == nil || !e.Members[owner]:
		return owner + " is no member of the VPC any more, and has not said that the workload has ended", true
	case p.fenced(owner) && !p.lifting(owner):
		ended := p.judge.node(owner).rebooted.After(p.judge.fences[owner].seen) || !p.holds(ruleProof)
		return owner + " is fenced, and has not said that the workload has ended", !ended
	case e.Own.To != "":
		return "waiting for " + owner + " to say that its workload has ended", true
	}
	return "", true
}
