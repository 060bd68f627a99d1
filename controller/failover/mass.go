package failover

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// loss is what is lost at once. Draining nodes are no part of it, nor is what was lost
// long ago and needs nothing.
type loss struct {
	base map[string][]string // nodes that count, by datacenter
	lost map[string][]string // of them; only datacenters that lost some
	all  int
	gone int
	// whole is the datacenter that is given up as one.
	whole string
}

// weigh decides how much may be done.
func (p *pass) weigh() {
	p.loss = p.count()
	why := p.excess()
	if !p.holds(ruleMass) {
		why = ""
	}
	switch {
	case p.collecting():
		p.out.Mode = ModeCollecting
		p.out.Why = fmt.Sprintf("the leader collects evidence for %s", seconds(p.judge.began.Add(p.Timings.Silence()+p.Timings.Keepalive).Sub(p.Now)))
		return
	case why != "":
		p.judge.safeWhy = why
		p.judge.safeUntil = p.Now.Add(p.Timings.Silence() + p.Timings.Keepalive)
	}
	switch dc := p.partial(); {
	case p.holds(ruleMass) && !p.due(p.judge.safeUntil):
		p.out.Mode, p.out.Why = ModeSafe, "nothing is moved: "+p.judge.safeWhy
		if why == "" {
			p.out.Why = "nothing is moved yet: it was so until just now that " + p.judge.safeWhy
		}
	case p.loss.whole != "":
		p.out.Mode, p.out.Why = ModeDatacenter, p.wholeWords()
	case dc != "":
		p.out.Mode = ModePartial
		p.out.Why = fmt.Sprintf("%s lost %s: one node in %s is given up", dc, p.loss.of(dc), partialPause)
	default:
		p.out.Mode = ModeNormal
		if p.loss.gone > 0 {
			dcs := slices.Sorted(maps.Keys(p.loss.lost))
			for i, dc := range dcs {
				dcs[i] += " lost " + p.loss.of(dc)
			}
			p.out.Why = strings.Join(dcs, ", ")
		}
	}
}

// of names what a datacenter lost: "1 of 3 nodes (a)".
func (l *loss) of(dc string) string {
	names := l.lost[dc]
	if len(names) > most {
		names = append(slices.Clone(names[:most]), fmt.Sprintf("%d more", len(l.lost[dc])-most))
	}
	return fmt.Sprintf("%d of %d nodes (%s)", len(l.lost[dc]), len(l.base[dc]), strings.Join(names, ", "))
}

// count finds what is lost. A loss counts for a minute after it was dealt with, or
// longer, until that is so; in safe mode it does not become old.
func (p *pass) count() *loss {
	l := &loss{base: map[string][]string{}, lost: map[string][]string{}}
	for _, name := range p.names {
		m, n := p.judge.node(name), p.Nodes[name]
		f := p.judge.fences[name]
		lost := !m.silentSince.IsZero() || f != nil
		if lost && m.lostSince.IsZero() {
			m.began = m.heard
		}
		mark(&m.lostSince, lost, p.Now)
		m.old = m.old && lost
		if lost && !m.old && p.Now.After(p.judge.safeUntil) && (f != nil || !p.movable(name)) {
			since := m.lostSince
			if f != nil {
				since = f.seen
			}
			m.old = p.due(since.Add(massWindow))
		}
		if n.State != cluster.NodeActive || m.old {
			continue
		}
		l.all++
		l.base[n.Datacenter] = append(l.base[n.Datacenter], name)
		if lost {
			l.gone++
			l.lost[n.Datacenter] = append(l.lost[n.Datacenter], name)
		}
	}
	return l
}

// excess says why more is lost than may be acted on, "" if it is not. It finds the
// datacenter that is lost as a whole, too.
func (p *pass) excess() string {
	l := p.loss
	wholes := p.wholes()
	switch {
	case len(wholes) > 1:
		return fmt.Sprintf("%d datacenters are silent at once (%s)", len(wholes), strings.Join(wholes, ", "))
	case len(wholes) == 1:
		if why := p.unexplained(wholes[0]); why != "" {
			return why
		}
		l.whole = wholes[0]
	case l.gone > 1 && 2*l.gone > l.all:
		return fmt.Sprintf("%d of %d nodes are lost, and they are no whole datacenter (%s)", l.gone, l.all, p.lossWords())
	}
	if a, b := p.atOnce(); a != "" {
		return fmt.Sprintf("%s and %s lost nodes at the same time (%s)", a, b, p.lossWords())
	}
	return ""
}

func (p *pass) lossWords() string {
	var parts []string
	for _, dc := range slices.Sorted(maps.Keys(p.loss.lost)) {
		parts = append(parts, dc+": "+p.loss.of(dc))
	}
	return strings.Join(parts, "; ")
}

// wholes are the datacenters of several nodes of which all are silent, and since when.
func (p *pass) wholes() (dcs []string) {
	for _, dc := range slices.Sorted(maps.Keys(p.loss.base)) {
		names := p.loss.base[dc]
		if len(names) < 2 || slices.ContainsFunc(names, func(n string) bool { return p.judge.node(n).silentSince.IsZero() }) {
			continue
		}
		dcs = append(dcs, dc)
		if _, ok := p.judge.whole[dc]; !ok {
			p.judge.whole[dc] = p.Now
		}
	}
	maps.DeleteFunc(p.judge.whole, func(dc string, _ time.Time) bool { return !slices.Contains(dcs, dc) })
	return dcs
}

// unexplained says why a datacenter that is silent is not taken for lost.
func (p *pass) unexplained(dc string) string {
	var all, well int
	for other, names := range p.loss.base {
		if other != dc {
			all, well = all+len(names), well+len(names)-len(p.loss.lost[other])
		}
	}
	if 100*well < healthyShare*all {
		return fmt.Sprintf("all of %s is silent, and of the %d nodes elsewhere only %d are well, less than %d %%", dc, all, well, healthyShare)
	}
	for _, name := range p.loss.base[dc] {
		far := p.outside(name, p.votes[name].no)
		if p.places(name, far) < minPlaces {
			return fmt.Sprintf("all of %s is silent, but only %s says so: that may be the way there", dc, p.whoIn(far))
		}
	}
	return ""
}

// atOnce finds two datacenters that lost nodes within the time that a whole one is
// waited for. Of a loss that this leader did not see begin only one that asks for
// something counts.
func (p *pass) atOnce() (string, string) {
	type event struct {
		at time.Time
		dc string
	}
	var events []event
	for dc, names := range p.loss.lost {
		for _, name := range names {
			m := p.judge.node(name)
			if f := p.judge.fences[name]; m.began || f == nil && p.movable(name) {
				events = append(events, event{m.lostSince, dc})
			}
		}
	}
	slices.SortFunc(events, func(a, b event) int {
		if c := a.at.Compare(b.at); c != 0 {
			return c
		}
		return strings.Compare(a.dc, b.dc)
	})
	for i := 1; i < len(events); i++ {
		a, b := events[i-1], events[i]
		if a.dc != b.dc && b.at.Sub(a.at) <= p.Timings.Hold+p.Timings.Silence() {
			return min(a.dc, b.dc), max(a.dc, b.dc)
		}
	}
	return "", ""
}

// partial is the first datacenter that is partly lost, "" for none.
func (p *pass) partial() string {
	for _, dc := range slices.Sorted(maps.Keys(p.loss.lost)) {
		if p.partly(dc) {
			return dc
		}
	}
	return ""
}

func (p *pass) partly(dc string) bool {
	n := len(p.loss.lost[dc])
	return dc != p.loss.whole && n > 1 && 100*n >= partialShare*len(p.loss.base[dc])
}

// wholeWords says what is waited for.
func (p *pass) wholeWords() string {
	dc := p.loss.whole
	since := p.judge.whole[dc]
	text := fmt.Sprintf("all %d nodes of %s are silent for %s", len(p.loss.base[dc]), dc, seconds(p.Now.Sub(since)+p.Timings.Silence()))
	if left := since.Add(p.Timings.Hold).Sub(p.Now); left > 0 {
		text += "; it is given up in " + seconds(left)
	}
	return text
}

// allows reports whether a node may be given up now, as far as what is lost with it
// goes; what does not says why.
func (p *pass) allows(name string) (ok bool, why string) {
	dc := p.Nodes[name].Datacenter
	switch {
	case p.out.Mode == ModeCollecting:
		return false, p.out.Why
	case p.givenUp(name):
		return true, ""
	case p.out.Mode == ModeSafe:
		return false, p.out.Why
	case !p.holds(ruleMass):
		return true, ""
	case dc == p.loss.whole:
		return p.due(p.judge.whole[dc].Add(p.Timings.Hold)) || !p.holds(ruleHoldDown), p.wholeWords()
	case p.partly(dc):
		return p.due(p.judge.paused["fence "+dc]), p.out.Why
	}
	return true, ""
}
