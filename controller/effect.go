package controller

import (
	"fmt"
	"strings"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// effect is one transaction, with its reason in change.Why.
type effect struct {
	group  string // those of one group build on each other, in order
	change store.Change
	claims []*allocator.Claim
}

func (e *effect) settle(revision int64, err error) {
	for _, c := range e.claims {
		c.Settle(revision, err)
	}
}

// plan gathers the writes of one VPC: a head that must be first, and units of
// which each is whole by itself. Those of links come after all others.
type plan struct {
	group string
	head  unit
	units []unit
	links []unit
}

// unit is what must be written together, mostly a node's part in a VPC.
type unit struct {
	change store.Change
	claims []*allocator.Claim
	verb   string // "admit"
	object string // "gold-hoster-01"
}

func (u *unit) empty() bool { return u.change.Ops() == 0 }

// claim adds a claimed value to the unit.
func (u *unit) claim(c *allocator.Claim) {
	c.AddTo(&u.change)
	u.claims = append(u.claims, c)
}

func (p *plan) add(u unit) {
	if !u.empty() {
		p.units = append(p.units, u)
	}
}

func (p *plan) addLink(u unit) {
	if !u.empty() {
		p.links = append(p.links, u)
	}
}

// empty reports whether the plan writes nothing.
func (p *plan) empty() bool { return p.head.empty() && len(p.units) == 0 && len(p.links) == 0 }

// effects cuts the plan into transactions; those of links are apart, for the
// rest of other VPCs comes before them.
func (p *plan) effects() (first, links []effect) {
	units := p.units
	if !p.head.empty() {
		units = append([]unit{p.head}, units...)
	}
	return p.batches(units), p.batches(p.links)
}

// batches packs whole units into as few transactions as hold them.
func (p *plan) batches(units []unit) []effect {
	var out []effect
	for len(units) > 0 {
		e, n := effect{group: p.group}, 0
		for n < len(units) && (n == 0 || e.change.Fits(units[n].change)) {
			e.change.Add(units[n].change)
			e.claims = append(e.claims, units[n].claims...)
			n++
		}
		e.change.Why = p.group + ": " + why(units[:n])
		out = append(out, e)
		units = units[n:]
	}
	return out
}

// why says what units do, each verb once: "admit a, b; repoint c".
func why(units []unit) string {
	var (
		verbs   []string
		objects = map[string][]string{}
	)
	for _, u := range units {
		if _, ok := objects[u.verb]; !ok {
			verbs = append(verbs, u.verb)
		}
		objects[u.verb] = append(objects[u.verb], u.object)
	}
	for i, v := range verbs {
		verbs[i] = strings.TrimSpace(v + " " + some(objects[v], ", "))
	}
	return strings.Join(verbs, "; ")
}

// some joins the first of many.
func some(list []string, sep string) string {
	const most = 8
	if n := len(list) - most; n > 0 {
		return fmt.Sprintf("%s%sand %d more", strings.Join(list[:most], sep), sep, n)
	}
	return strings.Join(list, sep)
}
