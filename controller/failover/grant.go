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
	live     bool // as long as From was granted nothing more
	proof    bool // the owner has ended for certain
	unfenced []string
	failed   bool // the owner's workload did, or its port
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
			but := p.failedFor(e, c)
			if !c.failed && (e.owner() != "" || e.Failover.Workload == "") {
				but = nil // better there than nowhere
			}
			p.give(e, c, p.targetOf(e, but))
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
	if why, may := p.mayRun(e); may {
		return cause{why: why}
	}
	switch {
	case owner == "":
		why := p.given(e)
		return cause{ok: why == "", why: cmp.Or(why, "it had no node")}
	case p.failed(e):
		return cause{ok: true, why: cluster.CleanText("its workload failed at " + owner + ": " + e.Reports[owner].Workload.Reason), failed: true}
	case !e.Members[owner] && (!e.strict() || p.absent(e, owner)):
		return cause{ok: true, why: owner + " is no member of the VPC any more"}
	case n == nil:
		return cause{}
	case p.released(e):
		return cause{ok: true, why: owner + " released it"}
	case e.strict() && !p.fenced(owner) && p.dark(e, owner):
		return cause{ok: true, live: true, why: owner + " has not reached the store for " + seconds(p.silence(owner)) + ", and shut it"}
	case !p.fenced(owner) && e.Own.To != "":
		return cause{why: "waiting for " + owner + " to say that it serves it no more"}
	case !p.fenced(owner) || p.lifting(owner):
		return cause{}
	}
	c := p.barrier(e, owner)
	if e.strict() && c.ok && !c.proof && p.holds(ruleTime) {
		return p.timed(e, owner, c)
	}
	return c
}

// released reports whether the owner says that it ended this very epoch.
func (p *pass) released(e *Endpoint) bool {
	s := p.ofOwner(e)
	return s != nil && s.State == cluster.PortReleased && !s.Workload.MayRun()
}

// barrier waits for the receivers' word that they have the fence, but not for ever.
func (p *pass) barrier(e *Endpoint, owner string) cause {
	f, m := p.Fences[owner], p.judge.node(owner)
	c := cause{ok: true, fence: f.Revision, why: f.Why}
	seen := p.judge.fences[owner].seen
	if m.rebooted.After(seen) {
		c.proof = true
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
	failed := p.failedFor(e, c)
	if c.failed && len(failed) >= maxFailed {
		to = ""
	}
	switch why := p.forbids(e); {
	case why != "":
		p.wait(e, why)
		return
	case to == "" && !c.failed:
		p.wait(e, p.chooser.Why(e, nil))
		return
	case p.judge.granted.since(p.Now.Add(-grantWindow)) >= grantsAtOnce:
		p.due(p.judge.granted[0].Add(grantWindow))
		p.wait(e, fmt.Sprintf("%d endpoints a second are moved", grantsAtOnce))
		return
	}
	g := Grant{VPC: e.VPC, Endpoint: e.Name, From: e.owner(), To: to, Era: e.Own.Era, Epoch: e.Own.Epoch, Fence: c.fence, Live: c.live, Why: c.why}
	changes := len(m.changes) + 1
	if to != "" && e.Failover.MoveTo == (cluster.InEpoch{Node: to, Epoch: e.Own.Epoch}) {
		changes = 0 // an operator asked for it
	}
	if g.From != "" {
		g.Moved = &cluster.Moved{From: g.From, Why: cluster.CleanText(c.why), At: cluster.At(p.Now), Unfenced: c.unfenced, Changes: changes, Failed: failed}
	} else if e.Own.Moved != nil { // another leader is to know how often it changed
		moved := *e.Own.Moved
		moved.Changes = changes
		g.Moved = &moved
	}
	p.judge.granted = append(p.judge.granted, p.Now)
	p.chooser.Move(e, to)
	p.out.Grants = append(p.out.Grants, g)
}

// failedFor are the nodes where a workload or port has failed one after the other, when an
// endpoint has another owner by that cause.
func (p *pass) failedFor(e *Endpoint, c cause) []string {
	failed := slices.Clone(p.failures(e))
	if c.failed && !slices.Contains(failed, e.owner()) {
		failed = append(failed, e.owner())
	}
	return failed
}

// forbids says why no endpoint, or not this one, is moved now.
func (p *pass) forbids(e *Endpoint) string {
	m, given := p.judge.endpoints[e.id()], p.givenUp(e.owner())
	switch {
	case e.Held && p.holds(ruleHeld):
		return "an operator holds it"
	case p.out.Mode == ModeSafe && !given, p.out.Mode == ModeCollecting && !p.first(e):
		return p.out.Why
	case m.frozen && !given && p.holds(ruleChanges):
		return fmt.Sprintf("its node changed %d times in %s; it stays until it was quiet for as long, or somebody moves it", maxChanges, changeWindow)
	}
	return ""
}

// first reports whether nobody has an endpoint, nor says that it serves it: giving it
// to somebody needs no evidence.
func (p *pass) first(e *Endpoint) bool {
	return e.owner() == "" && !slices.ContainsFunc(slices.Collect(maps.Values(e.Reports)), func(s *cluster.EndpointStatus) bool {
		return s.State == cluster.PortReady || s.Workload.MayRun()
	})
}

// movable reports whether a node has an endpoint that could be elsewhere, and may be.
func (p *pass) movable(name string) bool {
	if p.movers == nil {
		p.movers = map[string]bool{}
		for _, e := range p.Endpoints {
			if owner := e.owner(); owner != "" && !p.movers[owner] {
				p.movers[owner] = e.settled() && !e.Failover.Stateful() && !p.stays(e) && !p.released(e) && p.target(e, nil) != ""
			}
		}
	}
	return p.movers[name]
}

// stays reports whether an endpoint is not to be moved, whatever happens.
func (p *pass) stays(e *Endpoint) bool {
	return e.Held && p.holds(ruleHeld) || p.judge.endpoints[e.id()].frozen && !p.givenUp(e.owner()) && p.holds(ruleChanges)
}

// target is the node that an endpoint goes to if it has to leave its own, "" for none,
// and none of but.
func (p *pass) target(e *Endpoint, but []string) string { return p.chooser.Best(e, except(but)) }

// except leaves nodes out; nil, none.
func except(but []string) func(node string) bool {
	if len(but) == 0 {
		return nil
	}
	return func(node string) bool { return !slices.Contains(but, node) }
}

// fitness is why nothing is given to a node, and whether it failed lately.
type fitness struct {
	unfit  string
	failed bool
}

// fit is the fitness of a node in this pass, which is asked for often.
func (p *pass) fit(name string) fitness {
	f, ok := p.fitness[name]
	if !ok {
		f = fitness{p.unfit(name), p.worth(p.judge.node(name)) >= penaltyLeast}
		p.fitness[name] = f
	}
	return f
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
