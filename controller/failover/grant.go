package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// cause is why an endpoint may have another owner now.
type cause struct {
	ok       bool
	why      string // or, if not ok, what is waited for; "" for nothing
	fence    int64
	unfenced []string
}

// grant gives endpoints that nobody serves, or may serve, to others.
func (p *pass) grant() {
	for _, e := range p.inOrder() {
		if !e.settled() {
			continue
		}
		c := p.causeFor(e)
		switch {
		case c.ok:
			p.give(e, c, p.target(e))
		case c.why != "":
			p.wait(e, c.why)
		}
	}
}

func (p *pass) inOrder() []*Endpoint {
	return slices.SortedFunc(slices.Values(p.Endpoints), func(a, b *Endpoint) int {
		return cmp.Or(strings.Compare(a.VPC, b.VPC), strings.Compare(a.Name, b.Name))
	})
}

// causeFor is rule 2.4: the owner handed over, or there is proof that it ended, or
// the receivers take nothing from it any more.
func (p *pass) causeFor(e *Endpoint) cause {
	owner := e.owner()
	n := p.Nodes[owner]
	switch {
	case owner == "":
		return cause{ok: true, why: "it had no node"}
	case !e.Members[owner]:
		return cause{ok: true, why: owner + " is no member of the VPC any more"}
	case n == nil:
		return cause{}
	case p.released(e):
		return cause{ok: true, why: owner + " released it"}
	case !p.fenced(owner) || p.lifting(owner):
		return cause{}
	}
	return p.barrier(e, owner)
}

// released reports whether the owner says that it ended this very epoch.
func (p *pass) released(e *Endpoint) bool {
	s, n := e.Reports[e.owner()], p.Nodes[e.owner()]
	return s != nil && n != nil && s.NodeID == n.ID && s.State == cluster.PortReleased && e.isCurrent(s)
}

// barrier waits for the receivers' word that they have the fence, but not for ever.
func (p *pass) barrier(e *Endpoint, owner string) cause {
	f, m := p.Fences[owner], p.judge.node(owner)
	c := cause{ok: true, fence: f.Revision, why: f.Why}
	seen := p.judge.fences[owner].seen
	if !m.rebooted.Before(seen) {
		c.why = owner + " was booted anew: " + f.Why
		return c
	}
	r := p.unconfirmed(e, owner)
	if len(r.waited) > 0 && !p.due(seen.Add(p.Timings.Barrier)) && p.holds(ruleBarrier) {
		return cause{why: fmt.Sprintf("%s is fenced; waiting for %s to confirm it", owner, strings.Join(r.waited[:min(most, len(r.waited))], ", "))}
	}
	c.unfenced = r.missing
	return c
}

// give has an endpoint granted to a node, unless something forbids that now.
func (p *pass) give(e *Endpoint, c cause, to string) {
	m := p.judge.endpoints[e.id()]
	switch why := p.forbids(e); {
	case why != "":
		p.wait(e, why)
		return
	case to == "":
		p.wait(e, p.noTarget(e))
		return
	case p.judge.granted.since(p.Now.Add(-grantWindow)) >= grantsAtOnce:
		p.due(p.judge.granted[0].Add(grantWindow))
		p.wait(e, fmt.Sprintf("%d endpoints a second are moved", grantsAtOnce))
		return
	}
	g := Grant{VPC: e.VPC, Endpoint: e.Name, From: e.owner(), To: to, Era: e.Own.Era, Epoch: e.Own.Epoch, Fence: c.fence, Why: c.why}
	if g.From != "" {
		g.Moved = &cluster.Moved{From: g.From, Why: cluster.CleanText(c.why), At: cluster.At(p.Now), Unfenced: c.unfenced, Changes: len(m.changes) + 1}
	}
	p.judge.granted = append(p.judge.granted, p.Now)
	p.owned[to]++
	p.out.Grants = append(p.out.Grants, g)
}

// forbids says why no endpoint, or not this one, is moved now.
func (p *pass) forbids(e *Endpoint) string {
	m := p.judge.endpoints[e.id()]
	switch {
	case e.Held && p.holds(ruleHeld):
		return "an operator holds it"
	case p.out.Mode == ModeSafe, p.out.Mode == ModeCollecting && !p.first(e):
		return p.out.Why
	case m.frozen && p.holds(ruleChanges):
		return fmt.Sprintf("its node changed %d times in %s; it stays until it was quiet for as long, or somebody moves it", maxChanges, changeWindow)
	}
	return ""
}

// first reports whether nobody has an endpoint, nor says that it serves it: giving it
// to somebody needs no evidence.
func (p *pass) first(e *Endpoint) bool {
	return e.owner() == "" && !slices.ContainsFunc(slices.Collect(maps.Values(e.Reports)), func(s *cluster.EndpointStatus) bool {
		return s.State == cluster.PortReady
	})
}

// movable reports whether a node has an endpoint that could be elsewhere, and may be.
func (p *pass) movable(name string) bool {
	if p.movers == nil {
		p.movers = map[string]bool{}
		for _, e := range p.Endpoints {
			if owner := e.owner(); owner != "" && !p.movers[owner] {
				p.movers[owner] = e.settled() && !p.stays(e) && !p.released(e) && p.target(e) != ""
			}
		}
	}
	return p.movers[name]
}

// stays reports whether an endpoint is not to be moved, whatever happens.
func (p *pass) stays(e *Endpoint) bool {
	return e.Held && p.holds(ruleHeld) || p.judge.endpoints[e.id()].frozen && p.holds(ruleChanges)
}

// target is the node that an endpoint goes to if it has to leave its own, "" for none:
// by place, then one that has not failed lately, then one whose report is of this
// epoch, then the one with the fewest endpoints, then by name.
func (p *pass) target(e *Endpoint) string {
	type choice struct {
		name               string
		rank               int
		punished, outdated int
	}
	var best *choice
	for _, name := range slices.Sorted(maps.Keys(e.Reports)) {
		rank, ok := p.candidate(e, name)
		if !ok || p.unfit(name) != "" {
			continue
		}
		c := &choice{name: name, rank: rank}
		if p.worth(p.judge.node(name)) >= penaltyLeast {
			c.punished = 1
		}
		if !e.isCurrent(e.Reports[name]) {
			c.outdated = 1
		}
		if best == nil || cmp.Or(cmp.Compare(c.rank, best.rank), cmp.Compare(c.punished, best.punished), cmp.Compare(c.outdated, best.outdated),
			cmp.Compare(p.owned[c.name], p.owned[best.name])) < 0 {
			best = c
		}
	}
	if best == nil {
		return ""
	}
	return best.name
}

// candidate reports whether a node, other than the owner, has all that an endpoint
// needs, and how preferred it is.
func (p *pass) candidate(e *Endpoint, name string) (rank int, ok bool) {
	n, s := p.Nodes[name], e.Reports[name]
	if n == nil || name == e.owner() || !e.Members[name] || s.NodeID != n.ID ||
		s.State != cluster.PortStandby && s.State != cluster.PortReady {
		return 0, false
	}
	return e.Failover.Place.Rank(name, n)
}

// unfit says why nothing is given to a node, "" if it is well.
func (p *pass) unfit(name string) string {
	n, is, m := p.Nodes[name], p.nodes[name], p.judge.node(name)
	switch {
	case n.State != cluster.NodeActive:
		return "it is " + string(n.State)
	case !p.holds(ruleTarget):
		return ""
	case p.fenced(name):
		return "it is fenced"
	case !p.alive(name):
		return "it has no live record"
	case is.Class != OK:
		return "it is " + string(is.Class)
	case is.Suspected:
		return "some observers do not hear it"
	case p.worth(m) > 0 && m.barred:
		return "it failed too often lately"
	case !p.stable(m):
		return "it failed lately, and is not well for long enough"
	}
	return ""
}

// noTarget says why an endpoint can go nowhere.
func (p *pass) noTarget(e *Endpoint) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e.Reports)) {
		if _, ok := p.candidate(e, name); ok && len(parts) < most {
			parts = append(parts, name+": "+p.unfit(name))
		}
	}
	if parts == nil && e.Failover.Mode == cluster.ModeVIP {
		return "no other member of the VPC at its places is ready to serve it"
	}
	if parts == nil {
		return "no other node in its places has it attached"
	}
	return "no node can take it (" + strings.Join(parts, "; ") + ")"
}
