package failover

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// fence decides which nodes nothing is to be taken from any more: those that are down,
// and have what could be elsewhere.
func (p *pass) fence() {
	partly := map[string]bool{}
	for _, name := range p.names {
		dc := p.Nodes[name].Datacenter
		if p.chooser.owned[name] == 0 || p.fenced(name) || !p.isLost(name) {
			continue
		}
		ok, why := p.allows(name)
		if ok && len(p.Underlay[name]) == 0 {
			ok, why = false, "nobody knows the underlay address of "+name+", so it cannot be fenced"
		}
		given := p.givenUp(name)
		if !ok || partly[dc] && !given {
			p.waitFor(name, why)
			continue
		}
		partly[dc] = partly[dc] || p.partly(dc) && p.holds(ruleMass) && !given
		evidence := p.nodes[name].Evidence
		switch {
		case given && p.nodes[name].Class == OK:
			evidence = "an operator gave it up, and no observer is left that is sure"
		case given:
			evidence = "an operator gave it up: " + evidence
		}
		p.out.Fences = append(p.out.Fences, NewFence{Node: name, Fence: cluster.Fence{
			NodeID: p.Nodes[name].ID, Underlay: addresses(p.Underlay[name]),
			Why: cluster.CleanText(evidence), Since: cluster.At(p.Now),
		}})
		p.waitFor(name, name+" is being fenced")
	}
}

// isLost reports whether a node is down for long enough, and something is gained by
// giving it up. Of what is only waited for it says why.
func (p *pass) isLost(name string) bool {
	switch class, given := p.nodes[name].Class, p.givenUp(name); {
	case class == Isolated && !given:
		p.waitFor(name, name+" is isolated, but reads the store: it is to hand over by itself")
	case class == OK && !(given && p.unjudged(name)), class != Down && !given:
	case !given && !p.confirmed(name):
		p.waitFor(name, name+" is down, but not for long enough")
	case !p.movable(name):
		for _, e := range p.Endpoints {
			if e.owner() != name || !e.settled() {
				continue
			}
			why := p.forbids(e)
			switch {
			case why != "":
			case e.Failover.Stateful():
				why = "nobody knows whether its workload runs there; if it surely does not: \"endpoint move --force\""
			default:
				why = p.chooser.Why(e, nil)
			}
			p.wait(e, name+" is down: "+why)
		}
	default:
		return true
	}
	return false
}

// unjudged reports whether nobody that is there hears a node, and none of its observers
// is sure: so it is when most of all is lost. Its keepalive is late, too.
func (p *pass) unjudged(name string) bool {
	hears := slices.ContainsFunc(p.vote(name).hears, func(o string) bool { return p.alive(o) || !p.Nodes[o].Agent })
	return !hears && p.late(name)
}

// waitFor says of all endpoints of a node why they stay there.
func (p *pass) waitFor(node, why string) {
	for _, e := range p.Endpoints {
		if e.owner() == node {
			p.wait(e, why)
		}
	}
}

func (p *pass) wait(e *Endpoint, why string) {
	p.out.Waits = append(p.out.Waits, Wait{e.VPC, e.Name, why})
}

// lift decides which fences are over.
func (p *pass) lift() {
	for _, name := range slices.Sorted(maps.Keys(p.Fences)) {
		if why := p.liftable(name); why != "" {
			p.out.Lifts = append(p.out.Lifts, Lift{name, p.Fences[name].Revision, why})
		}
	}
}

// lifting reports whether this pass lifts the fence of a node.
func (p *pass) lifting(name string) bool {
	return slices.ContainsFunc(p.out.Lifts, func(l Lift) bool { return l.Node == name })
}

// liftable says why the fence of a node is over, "" if it is not. Of a node whose
// record is missing nothing is known, and nothing is done.
func (p *pass) liftable(name string) string {
	n := p.Nodes[name]
	if n == nil {
		return ""
	}
	if n.State == cluster.NodeLeft || !n.Agent {
		if slices.ContainsFunc(p.Endpoints, func(e *Endpoint) bool { return e.owner() == name }) {
			return ""
		}
		return name + " was removed"
	}
	m := p.judge.node(name)
	if m.okSince.IsZero() || !p.due(m.okSince.Add(p.Timings.Silence()+p.Timings.Keepalive)) {
		return ""
	}
	for _, e := range p.Endpoints {
		s := e.Reports[name]
		old := s != nil && s.NodeID == n.ID && p.servesOld(e, name, s)
		if (old || p.hasToRelease(e, name)) && p.holds(ruleLift) {
			return ""
		}
	}
	return fmt.Sprintf("%s is back, heard by all for %s, and serves nothing of what was moved", name, seconds(p.Now.Sub(m.okSince)))
}

// servesOld reports whether by its report a node may let frames of an endpoint pass
// that is another's by now, or has its workload.
func (p *pass) servesOld(e *Endpoint, name string, s *cluster.EndpointStatus) bool {
	if s.Workload.MayRun() && e.owner() != name {
		return true
	}
	return s.State != cluster.PortStandby && s.State != cluster.PortReleased && (e.Own == nil || !e.isCurrent(s))
}

// hasToRelease reports whether a node that was fenced has a workload that may not run
// twice, and has not given it up: as long as its fence stands, it starts none.
func (p *pass) hasToRelease(e *Endpoint, name string) bool {
	return e.Failover != nil && e.Failover.Stateful() && e.owner() == name && !p.released(e)
}

// receivers are the members of a VPC that have not confirmed a fence yet.
type receivers struct {
	waited  []string // of them, those whose word is awaited; sorted
	missing []string // all that may still take frames of the fenced node; sorted
}

// unconfirmed are the receivers that a fence is not known to have reached. Those that
// are down, or fenced themselves, serve nobody that this side knows of.
func (p *pass) unconfirmed(e *Endpoint, node string) receivers {
	key := e.VPC + "/" + node
	if r, ok := p.missing[key]; ok {
		return r
	}
	var r receivers
	for _, name := range slices.Sorted(maps.Keys(e.Members)) {
		n := p.Nodes[name]
		if n == nil || !n.Agent || n.State == cluster.NodeLeft || name == node || !e.Members[name] {
			continue
		}
		s := p.Applied[name]
		if s != nil && s.NodeID == n.ID && s.Revision >= p.Fences[node].Revision || p.fenced(name) || p.nodes[name].Class == Down {
			continue
		}
		r.missing = append(r.missing, name)
		if p.alive(name) {
			r.waited = append(r.waited, name)
		}
	}
	p.missing[key] = r
	return r
}
