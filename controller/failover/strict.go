package failover

import (
	"fmt"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// shutAt is when a node's kernel has shut its strict endpoints for certain, if nothing
// more was granted to it than this leader has seen: the length of the grant, as the node
// said it, after its counter was last seen to move.
func (p *pass) shutAt(name string) time.Time {
	return p.Now.Add(p.grantWait(name) - p.silence(name))
}

// grantWait is how long a grant of a node lasts for certain.
func (p *pass) grantWait(name string) time.Duration {
	grant := max(cluster.MostGrant(), p.Timings.Grant)
	if b := p.judge.lives[name]; b != nil && b.grant > 0 {
		grant = b.grant
	}
	return cluster.GrantWait(grant)
}

// gated reports whether a node has said that an endpoint's port shuts by itself.
func (p *pass) gated(e *Endpoint, name string) bool {
	s, n := e.Reports[name], p.Nodes[name]
	return s != nil && n != nil && s.NodeID == n.ID && s.Gated
}

// timed waits until the owner of a strict endpoint has shut it by itself.
func (p *pass) timed(e *Endpoint, owner string, c cause) cause {
	if !p.gated(e, owner) {
		return cause{why: owner + " is fenced, and has not said that its kernel shuts it: once that surely serves it no more, meshvpc endpoint move --force"}
	}
	if at := p.shutAt(owner); !p.due(at) {
		return cause{why: fmt.Sprintf("%s is fenced; its kernel has shut it in %s at the latest", owner, seconds(at.Sub(p.Now)))}
	}
	c.live = true
	return c
}

// dark reports whether the owner of a strict endpoint has shut it by itself, and is not
// down: its agent is, or it does not reach the store. All else that it has is served. One
// that has been the owner for less than a grant may just not have been granted anything
// yet: who owns nothing counts nothing.
func (p *pass) dark(e *Endpoint, owner string) bool {
	is, known := p.nodes[owner]
	given := p.judge.endpoints[e.id()].since.Add(p.grantWait(owner))
	return known && is.Class != Down && is.Class != Isolated && p.gated(e, owner) && p.holds(ruleTime) && p.due(p.shutAt(owner)) && p.due(given)
}

// absent reports whether a node that is no member any more serves a strict endpoint no
// more: it reports nothing of it, or was removed, by which nothing is granted to it, and
// what was is over.
func (p *pass) absent(e *Endpoint, owner string) bool {
	n := p.Nodes[owner]
	if n != nil && n.State != cluster.NodeLeft {
		return e.Reports[owner] == nil
	}
	since := p.judge.endpoints[e.id()].strangerSince
	over := p.due(since.Add(cluster.GrantWait(max(cluster.MostGrant(), p.Timings.Grant))))
	return over && (n == nil || p.due(p.shutAt(owner)))
}

// targetOf is the node that an endpoint goes to, none of but: the one that it is being
// handed to, if that is well.
func (p *pass) targetOf(e *Endpoint, but []string) string {
	if e.Own.To != "" && e.Reports[e.Own.To] != nil && !slices.Contains(but, e.Own.To) {
		if _, ok := p.chooser.candidate(e, e.Own.To); ok && p.unfit(e.Own.To) == "" {
			return e.Own.To
		}
	}
	return p.target(e, but)
}

// handOver has a strict endpoint's owner shut it, unless something forbids that now.
func (p *pass) handOver(e *Endpoint, to, why string) bool {
	switch no := p.forbids(e); {
	case no != "":
		p.wait(e, no)
	case to == "":
		p.wait(e, p.chooser.Why(e, nil))
	default:
		p.out.Handovers = append(p.out.Handovers, Handover{VPC: e.VPC, Endpoint: e.Name, From: e.owner(), To: to, Era: e.Own.Era, Epoch: e.Own.Epoch, Why: why})
		return true
	}
	return false
}
