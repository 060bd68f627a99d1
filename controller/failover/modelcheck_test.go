package failover

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// check looks at a decision beside what it was made from.
func (m *model) check(v *View, d *Decision) {
	if d.Mode == ModeSafe && (slices.ContainsFunc(d.Fences, func(f NewFence) bool { return !m.given[f.Node] }) || slices.ContainsFunc(d.Grants, func(g Grant) bool { return !m.given[g.From] })) {
		m.problem("in safe mode: %+v, %+v", d.Fences, d.Grants)
	}
	for _, g := range d.Grants {
		e := m.endpointIn(v, g.Endpoint)
		_, fenced := v.Fences[g.To]
		switch {
		case g.To == "" && e.Failover.Workload != "" && !e.Held:
		case e.Held:
			m.problem("%s is held, and goes to %s", g.Endpoint, g.To)
		case fenced, v.Nodes[g.To].State != cluster.NodeActive, v.Live[g.To] == nil:
			m.problem("%s goes to %s, which is fenced, drained or gone", g.Endpoint, g.To)
		case g.Era != e.Own.Era || g.Epoch != e.Own.Epoch || g.From != e.Own.Node:
			m.problem("%+v does not say what it was made from", g)
		case g.Fence != 0 && g.Fence != v.Fences[g.From].Revision:
			m.problem("%s moves by a fence that is not there", g.Endpoint)
		}
	}
}

func (m *model) endpointIn(v *View, name string) *Endpoint {
	return v.Endpoints[slices.IndexFunc(v.Endpoints, func(e *Endpoint) bool { return e.Name == name })]
}

// commit writes a decision, each part if what it was made from is so still.
func (m *model) commit(v *View, d *Decision) {
	for _, f := range d.Fences {
		if !has(m.store.fences, f.Node) {
			m.checkFence(f.Node)
			m.note("fence %s: %s", f.Node, f.Why)
			m.store.fences[f.Node] = Fence{&f.Fence, m.store.revision + 1}
			m.fencedAt[f.Node], m.fences = m.now, append(m.fences, f.Node)
		}
	}
	for _, l := range d.Lifts {
		if m.store.fences[l.Node].Revision == l.Revision && m.store.live[l.Node] != nil {
			m.checkLift(l.Node)
			m.note("lift %s", l.Node)
			delete(m.store.fences, l.Node)
		}
	}
	m.handOver(d.Handovers)
	for _, g := range d.Grants {
		e := m.store.endpoints[g.Endpoint]
		said := e.Reports[g.From] != m.endpointIn(v, g.Endpoint).Reports[g.From]
		if g.Live && v.Live[g.From] != m.store.live[g.From] && m.off&modelLive == 0 {
			continue
		}
		if e.Own.Epoch != g.Epoch || e.Held || has(m.store.fences, g.To) || g.To != "" && m.store.live[g.To] == nil || said && m.work[g.Endpoint] != nil || g.Fence != 0 && m.store.fences[g.From].Revision != g.Fence {
			continue
		}
		m.checkGrant(v, e, g)
		m.note("%s: %s to %s: %s", g.Endpoint, g.From, g.To, g.Why)
		m.own(e, g.To, g.Moved)
	}
	for _, e := range m.dropped(v) {
		if m.store.endpoints[e.Name].Own == e.Own && m.store.endpoints[e.Name].Reports[e.Own.Node] == e.Reports[e.Own.Node] {
			m.note("%s: %s released it, and no other node can have it", e.Name, e.Own.Node)
			m.own(m.store.endpoints[e.Name], "", nil)
		}
	}
}

// dropped are the endpoints that their owners released: the controller takes one that
// goes to no other node from it, so that it may have it again.
func (m *model) dropped(v *View) (list []*Endpoint) {
	for _, e := range v.Endpoints {
		if s := e.Reports[e.Own.Node]; s != nil && s.State == cluster.PortReleased && e.isCurrent(s) && !s.Workload.MayRun() {
			list = append(list, e)
		}
	}
	return list
}

func has[V any](in map[string]V, name string) bool { _, ok := in[name]; return ok }

func (m *model) own(e *Endpoint, node string, moved *cluster.Moved) {
	now, own := *e, *e.Own
	own.Node, own.To, own.State, own.Epoch = node, "", cluster.OwnAssigned, own.Epoch+1
	if node == "" {
		own.State = cluster.OwnUnplaced
	}
	if moved != nil {
		own.Moved = moved
	}
	now.Own = &own
	m.store.endpoints[e.Name] = &now
}

// checkFence compares a fence with the truth: a host that is up or crashed when it was cut
// off already, is given up only if observers enough, in two places, have not had it for a
// while, and it did not reach the store.
func (m *model) checkFence(name string) {
	h := m.hosts[name]
	dc := m.nodes[name].Datacenter
	if m.given[name] && !h.up {
		return
	}
	if m.mass > 0 {
		m.problem("%s is fenced, and more is lost than can be explained", name)
	}
	if dc == m.whole && m.now-m.wholeAt < m.t.Hold+m.t.Silence()-m.t.Probe {
		m.problem("%s is fenced %s after all of %s was lost", name, m.now-m.wholeAt, dc)
	}
	if n := len(m.fences); m.pause() && n > 0 && m.now-m.fencedAt[m.fences[n-1]] < partialPause {
		m.problem("%s is fenced %s after %s", name, m.now-m.fencedAt[m.fences[n-1]], m.fences[n-1])
	}
	if !h.up && !h.wasCut {
		least := max(m.t.Confirm, m.t.Probe)
		if !h.fellSilent {
			least += m.t.Silence() - m.t.Probe
		}
		if gone := m.now - h.downSince; gone < least {
			m.problem("%s is fenced %s after it crashed", name, gone)
		}
		return
	}
	if m.now-h.upSince < 3*m.most {
		return // it came back just now, which no leader can know yet
	}
	if m.now-h.kept < m.t.Keepalive {
		m.problem("%s is fenced, and reached the store %s ago", name, m.now-h.kept)
	}
	m.track()
	places, deaf, sure := map[string]bool{}, 0, 0
	least := max(m.t.Confirm, m.t.Probe) - 2*m.most - m.t.Probe
	if !h.frozen && m.now-h.thawedAt > m.t.Silence() { // else its agent may have been missed for long
		least += m.t.Silence() - m.t.Probe
	}
	for _, o := range m.observers(name) {
		x := m.hosts[o]
		if !x.runs() && m.now-x.spoke > freshPeriods*m.t.Probe+2*m.most || x.lies || m.deaf(o) {
			continue
		}
		sure++
		s, ok := m.broken[[2]string{name, o}]
		if !ok {
			s = m.broken[[2]string{o, name}]
		}
		if ok = s.to > 0 && m.now-s.to < 4*m.t.Probe+4*m.most && s.to-s.from >= least; ok {
			deaf++
			places[m.nodes[o].Datacenter] = true
		}
	}
	if 2*deaf < sure || len(places) < 2 {
		m.problem("%s is up and fenced; %d of %d do not hear it, in %d places", name, deaf, sure, len(places))
	}
}

// pause reports whether one datacenter is partly lost.
func (m *model) pause() bool {
	for _, dc := range m.datacenters() {
		all, gone := 0, 0
		for n, node := range m.nodes {
			if node.Datacenter == dc && node.Agent {
				all++
				if !m.hosts[n].up && m.now-m.hosts[n].downSince < massWindow {
					gone++
				}
			}
		}
		if gone > 1 && gone < all && 100*gone >= partialShare*all {
			return true
		}
	}
	return false
}

func (m *model) datacenters() (dcs []string) {
	for _, n := range m.names {
		dcs = append(dcs, m.nodes[n].Datacenter)
	}
	slices.Sort(dcs)
	return slices.Compact(dcs)
}

// deaf reports whether a host has not heard most of those that are up, in several
// datacenters, for as long as it takes to suspect them: it is at fault itself, and says
// so. One that has missed them for less suspects none of them yet.
func (m *model) deaf(name string) bool {
	up, silent, places := 0, 0, map[string]bool{}
	for _, t := range m.names {
		if t == name || !m.hosts[t].up || !slices.Contains(m.observers(t), name) {
			continue
		}
		s := m.broken[[2]string{name, t}]
		if up++; s.on && m.now-s.from >= m.t.Silence() {
			silent++
			places[m.nodes[t].Datacenter] = true
		}
	}
	return 2*silent > up && len(places) > 1
}

// checkGrant compares a change of the owner with the truth.
func (m *model) checkGrant(v *View, e *Endpoint, g Grant) {
	if m.mass > 0 && !m.given[g.From] {
		m.problem("%s moves, and more is lost than can be explained", e.Name)
	}
	m.checkCrowded(e, g.To)
	to := m.hosts[g.To]
	if to != nil && !to.up && m.now-to.downSince > m.t.Silence()+2*m.t.Probe+2*m.most && !m.unseen(g.To) {
		m.problem("%s goes to %s, which crashed %s ago", e.Name, g.To, m.now-to.downSince)
	}
	m.moves[e.Name] = append(m.moves[e.Name], m.now)
	if n := len(m.moves[e.Name]); n > maxChanges && m.now-m.moves[e.Name][n-1-maxChanges] < changeWindow {
		m.problem("%s moves for the 6th time in %s", e.Name, m.now-m.moves[e.Name][n-1-maxChanges])
	}
	if g.Fence == 0 {
		return
	}
	early := float64(m.now-m.fencedAt[g.From])*m.leader.rate < float64(m.t.Barrier)
	if from := m.hosts[g.From]; from.up && from.upSince > from.downSince && from.upSince+2*m.most > m.fencedAt[g.From] {
		if epoch, serves := from.serves[e.Name]; serves {
			m.problem("%s moves as %s was booted anew, which serves it in epoch %d", e.Name, g.From, epoch)
		}
		return // frames of before the boot are over
	}
	for _, r := range m.names {
		named := g.Moved != nil && slices.Contains(g.Moved.Unfenced, r)
		switch {
		case !m.nodes[r].Agent || r == g.From || has(v.Fences, r):
		case !named && m.hosts[r].runs() && !m.hosts[r].drops[g.From] && !m.cutOff(r):
			m.problem("%s moves while %s takes frames of %s, and nobody says so", e.Name, r, g.From)
		case named && early && v.Live[r] != nil:
			m.problem("%s moves %s after the fence, and %s has not confirmed it", e.Name, m.now-m.fencedAt[g.From], r)
		}
	}
}

// cutOff reports whether a host was not heard by most lately: what it takes frames of
// nobody here knows.
func (m *model) cutOff(name string) bool {
	n := 0
	for _, o := range m.names {
		s := m.broken[[2]string{name, o}]
		if s.to > 0 && m.now-s.to < 5*time.Second {
			n++
		}
	}
	return n >= 2
}

// unseen reports whether most who would say that a host is silent are frozen, or are
// unsure.
func (m *model) unseen(name string) bool {
	absent := 0
	for _, o := range m.observers(name) {
		if x := m.hosts[o]; !x.runs() || x.said != nil && x.said.Unsure {
			absent++
		}
	}
	return 2*absent > len(m.observers(name))
}

// checkLift: what comes back does not serve what was moved.
func (m *model) checkLift(name string) {
	for e, epoch := range m.hosts[name].serves {
		if own := m.store.endpoints[e].Own; m.hosts[name].up && own.Epoch != epoch {
			m.problem("the fence of %s is lifted, which serves %s in epoch %d; %s has it in %d", name, e, epoch, own.Node, own.Epoch)
		}
	}
}
