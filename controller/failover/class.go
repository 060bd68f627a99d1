package failover

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// votes are what the sure observers of a node say, each list sorted.
type votes struct {
	observers []string
	hears     []string // its agent answers them
	mute      []string // its kernel answers, its agent does not
	no        []string // neither
}

func (v *votes) sure() int { return len(v.hears) + len(v.mute) + len(v.no) }

// suspected are the nodes that some verdict that speaks names.
func (p *pass) suspected() map[string]bool {
	named := map[string]bool{}
	for observer := range p.Verdicts {
		if v, speaks := p.verdict(observer); speaks {
			for _, s := range v.Suspects {
				named[s.Node] = true
			}
		}
	}
	return named
}

// vote collects what the observers of a node say of it.
func (p *pass) vote(name string) *votes {
	v := &votes{observers: p.judge.observersOf(name, p.Nodes)}
	for _, o := range v.observers {
		said, speaks := p.verdict(o)
		switch {
		case said == nil, !speaks && p.unheard(o):
			continue
		}
		i := slices.IndexFunc(said.Suspects, func(s cluster.Suspect) bool { return s.Node == name })
		switch {
		case i < 0 || said.Suspects[i].Agent:
			v.hears = append(v.hears, o)
		case said.Suspects[i].Kernel:
			v.mute = append(v.mute, o)
		default:
			v.no = append(v.no, o)
		}
	}
	return v
}

// unheard reports whether an observer that says nothing cannot be believed to be well:
// others that speak, in places enough, do not hear its agent.
func (p *pass) unheard(observer string) bool {
	if known, ok := p.quiet[observer]; ok {
		return known
	}
	var by []string
	for _, o := range p.judge.observersOf(observer, p.Nodes) {
		if v, speaks := p.verdict(o); speaks && slices.ContainsFunc(v.Suspects, func(s cluster.Suspect) bool {
			return s.Node == observer && !s.Agent
		}) {
			by = append(by, o)
		}
	}
	p.quiet[observer] = p.places(observer, by) >= minPlaces
	return p.quiet[observer]
}

// places counts the datacenters that observers are in. A witness in the node's own
// counts as one more: it is no part of what that datacenter's hosts share.
func (p *pass) places(target string, observers []string) int {
	own := p.Nodes[target].Datacenter
	seen := map[string]bool{}
	for _, o := range observers {
		n := p.Nodes[o]
		if !n.Agent && n.Datacenter == own {
			seen["witness "+n.Datacenter] = true
			continue
		}
		seen["dc "+n.Datacenter] = true
	}
	return len(seen)
}

// outside are the observers that are not in the node's own datacenter.
func (p *pass) outside(target string, observers []string) []string {
	own := p.Nodes[target].Datacenter
	return slices.DeleteFunc(slices.Clone(observers), func(o string) bool { return p.Nodes[o].Datacenter == own })
}

// judgeNode says which class a node is of.
func (p *pass) judgeNode(name string, named bool) Judgement {
	if !named {
		j := Judgement{Class: OK, Evidence: "nobody misses it"}
		if !p.alive(name) {
			j.Evidence = "no observer misses it, but it has no live record: its agent has not reached the store"
		}
		return j
	}
	v := p.vote(name)
	p.votes[name] = v
	j := Judgement{Class: p.classOf(name, v), Suspected: len(v.mute)+len(v.no) > 0, Evidence: p.evidence(name, v)}
	return j
}

// classOf is DESIGN's table; the first that fits holds.
func (p *pass) classOf(name string, v *votes) Class {
	far, near := p.outside(name, v.no), len(v.no)
	near -= len(far)
	heardNear := len(v.hears) - len(p.outside(name, v.hears))
	late := p.late(name) || !p.holds(ruleKeepalive)
	all := len(v.no) == v.sure()
	switch silent := p.silent(name, v) && (heardNear == 0 || heardNear < near); {
	case len(v.no)+len(v.mute) == 0:
		return OK
	case silent && late:
		return Down
	case silent && all:
		return Isolated
	case len(v.mute) > 0 && atLeast(len(v.mute)+len(v.no), v.sure()):
		return AgentDown
	case p.placeMisses(v):
		return LinkSplit
	}
	return OK
}

// silent reports whether observers enough, in places enough, hear nothing of a node.
func (p *pass) silent(name string, v *votes) bool {
	enough := atLeast(len(v.no), v.sure()) || !p.holds(ruleShare) && len(v.no) > 0
	return enough && (p.places(name, v.no) >= minPlaces || !p.holds(rulePlaces))
}

// atLeast reports whether n are two thirds of all, and not none.
func atLeast(n, all int) bool { return n > 0 && 3*n >= 2*all }

// placeMisses reports whether all sure observers of some datacenter hear nothing.
func (p *pass) placeMisses(v *votes) bool {
	misses := map[string]bool{}
	for _, o := range v.no {
		misses[p.Nodes[o].Datacenter] = true
	}
	for _, o := range slices.Concat(v.hears, v.mute) {
		misses[p.Nodes[o].Datacenter] = false
	}
	for _, m := range misses {
		if m {
			return true
		}
	}
	return false
}

// evidence is one sentence about a node that somebody suspects.
func (p *pass) evidence(name string, v *votes) string {
	since := p.judge.node(name).suspectedSince
	if since.IsZero() {
		since = p.Now
	}
	text := fmt.Sprintf("%d of %d sure observers (%s) have not heard it", len(v.no), v.sure(), p.whoIn(v.no))
	if len(v.no) == 0 {
		text = fmt.Sprintf("%d of %d sure observers (%s) hear its kernel and not its agent", len(v.mute), v.sure(), p.whoIn(v.mute))
	} else if len(v.mute) > 0 {
		text += fmt.Sprintf(", %d more (%s) hear its kernel only", len(v.mute), p.whoIn(v.mute))
	}
	if len(v.no)+len(v.mute) == 0 {
		return fmt.Sprintf("%d of %d sure observers hear it", len(v.hears), v.sure())
	}
	text += " for " + seconds(p.Now.Sub(since)+p.Timings.Silence())
	if unsure := len(v.observers) - v.sure(); unsure > 0 {
		text += fmt.Sprintf(" (%d others are unsure or silent themselves)", unsure)
	}
	switch {
	case !p.alive(name):
		text += "; it has no live record"
	case p.late(name):
		text += "; its last keepalive is " + seconds(p.silence(name)) + " old"
	default:
		text += "; its keepalive is fresh"
	}
	return text
}

// most is how many names a sentence has.
const most = 6

// whoIn names observers by place: "a and b in skynet, witness in third".
func (p *pass) whoIn(observers []string) string {
	by := map[string][]string{}
	var dcs []string
	for i, o := range observers {
		dc := p.Nodes[o].Datacenter
		if i == most {
			dcs = append(dcs, "")
			break
		}
		if by[dc] == nil {
			dcs = append(dcs, dc)
		}
		by[dc] = append(by[dc], o)
	}
	var parts []string
	for _, dc := range dcs {
		if dc == "" {
			parts = append(parts, fmt.Sprintf("%d more", len(observers)-most))
			continue
		}
		parts = append(parts, strings.Join(by[dc], " and ")+" in "+dc)
	}
	return strings.Join(parts, ", ")
}
