package failover

import (
	"maps"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// track keeps when which pairs did not hear each other. A moment in between does not
// end that: a probe may have missed it.
func (m *model) track() {
	for _, a := range m.names {
		for _, b := range m.names {
			key := [2]string{a, b}
			s, broken := m.broken[key], !m.hears(a, b)
			switch {
			case broken && !s.on && (s.to == 0 || m.now-s.to > m.t.Probe):
				s = span{m.now, m.now, true}
			case broken || s.on:
				s.to, s.on = m.now, broken
			}
			m.broken[key] = s
		}
	}
}

// fault begins something that goes wrong, and says how it ends.
func (m *model) fault() (what string, end func()) {
	h := m.hosts[m.any(true)]
	other := m.any(true)
	dcs := m.datacenters()
	i := m.rng.IntN(len(dcs))
	a, b := dcs[i], dcs[(i+1+m.rng.IntN(len(dcs)-1))%len(dcs)]
	e := m.store.endpoints[m.movers[m.rng.IntN(3)]]
	switch m.rng.IntN(19) {
	case 0, 1:
		m.crash(h.name)
		return "crash " + h.name, func() {
			if !h.up {
				m.start(h.name)
			}
		}
	case 2:
		h.frozen = true
		return "freeze " + h.name, func() { m.thaw(h) }
	case 3, 4:
		h.cut = true
		return "no store for " + h.name, func() { h.cut = false; m.wake(h) }
	case 5:
		m.data[h.name] = true
		return "no data of " + h.name, func() { delete(m.data, h.name) }
	case 6, 7:
		m.data[h.name], h.cut = true, true
		return "isolate " + h.name, func() { delete(m.data, h.name); h.cut = false; m.wake(h) }
	case 8:
		return m.cutPair(h.name, other, h.cut)
	case 9, 10:
		return m.cutPair(a, b, m.rng.IntN(2) == 0)
	case 11:
		m.elect()
		return "another leader", func() {}
	case 12:
		l := m.leader
		l.frozen = true
		return "the leader sleeps", func() { l.frozen = false; m.soon() }
	case 13:
		h.stuck = true
		return h.name + " applies nothing", func() { h.stuck = false; m.wake(h) }
	case 14:
		m.hold(e.Name, true)
		return "hold " + e.Name, func() { m.hold(e.Name, false) }
	case 15:
		clear(m.store.live)
		return "no leases", func() {}
	case 16:
		l := m.next
		l.frozen = true
		return "who watches sleeps", func() { l.frozen = false; m.soon() }
	case 17:
		l := m.deafen()
		return "who watches hears nothing", func() { l.stale, l.behind = nil, true; m.soon() }
	}
	if m.rng.IntN(2) == 0 {
		m.outage = true
		return "no store", func() {
			m.outage = false
			for _, name := range m.names {
				m.wake(m.hosts[name])
			}
			m.elect()
		}
	}
	m.frozenAll(true)
	return "all pause", func() { m.frozenAll(false) }
}

// hold is an operator's word, by which what was counted before is forgotten.
func (m *model) hold(name string, held bool) {
	delete(m.moves, name)
	e := *m.store.endpoints[name]
	e.Held = held
	m.store.endpoints[name] = &e
}

// thaw lets an agent that was frozen go on.
func (m *model) thaw(h *host) {
	h.frozen, h.thawed, h.thawedAt = false, true, m.now
	m.wake(h)
}

// frozenAll stops some of the agents at once, as a machine under several of them does.
func (m *model) frozenAll(frozen bool) {
	for _, name := range m.names {
		h := m.hosts[name]
		switch {
		case frozen && m.rng.IntN(4) > 0:
			h.frozen = true
		case !frozen && h.frozen:
			m.thaw(h)
		}
	}
}

// cutPair cuts hosts or datacenters from each other, or in one direction.
func (m *model) cutPair(a, b string, both bool) (string, func()) {
	m.cuts[[2]string{a, b}] = true
	if both {
		m.cuts[[2]string{b, a}] = true
	}
	return "cut " + a + " " + b, func() { delete(m.cuts, [2]string{a, b}); delete(m.cuts, [2]string{b, a}) }
}

func (m *model) any(agent bool) string {
	for {
		if n := m.names[m.rng.IntN(len(m.names))]; !agent || m.nodes[n].Agent {
			return n
		}
	}
}

// length of a fault: some are as short as what the leader may not see.
func (m *model) length() time.Duration {
	most := 4 * m.t.Silence()
	if m.rng.IntN(2) == 0 {
		most = 12 * time.Second
	}
	return time.Duration(m.rng.Int64N(int64(most)))
}

// settled lets a leader collect evidence and all hosts read what is there.
func (m *model) settle() { m.run(m.t.Silence() + 2*m.t.Keepalive + time.Second) }

// faults lets several things go wrong, then nothing, and looks whether all is served.
func (m *model) faults() {
	m.settle()
	m.mischief()
	for _, name := range slices.Sorted(maps.Keys(m.store.fences)) {
		m.problem("the fence of %s stays", name)
	}
	for _, e := range m.store.endpoints {
		if !m.served(e) {
			m.problem("%s is %s's in epoch %d, which does not serve it", e.Name, e.Own.Node, e.Own.Epoch)
		}
	}
}

// served reports whether an endpoint has an owner, which serves it.
func (m *model) served(e *Endpoint) bool {
	h := m.hosts[e.Own.Node]
	return h != nil && h.serves[e.Name] == e.Own.Epoch
}

// mischief lets several things go wrong, then nothing.
func (m *model) mischief() {
	last := m.now
	for range 1 + m.rng.IntN(7) {
		m.after(time.Duration(m.rng.Int64N(int64(15*time.Second))), func() {
			what, end := m.fault()
			m.note("%s", what)
			m.track()
			m.changed()
			length := m.length()
			last = max(last, m.now+length)
			m.after(length, func() { m.note("no more: %s", what); end(); m.track(); m.changed() })
		})
	}
	m.run(15 * time.Second)
	m.run(last - m.now + time.Millisecond)
	m.run(4*m.t.Silence() + 4*m.t.Keepalive + 10*time.Second)
}

// lost crashes hosts at once.
func (m *model) lost(names ...string) {
	for _, n := range names {
		m.crash(n)
		m.note("crash %s", n)
	}
	m.track()
	m.changed()
}

// gone says how long it takes until no endpoint is at a host that crashed.
func (m *model) gone(most time.Duration) time.Duration {
	start := m.now
	for m.now-start < most {
		m.run(10 * time.Millisecond)
		if !slices.ContainsFunc(slices.Collect(maps.Values(m.store.endpoints)), func(e *Endpoint) bool { return !e.Held && e.Own.Node != "" && !m.hosts[e.Own.Node].up }) {
			break
		}
	}
	return m.now - start
}

// crashes takes one host that owns something.
func (m *model) crashes() {
	m.settle()
	m.run(m.length())
	bound := 5 * time.Second
	if m.t == cluster.ProfileFast.Timings() {
		bound = 1500 * time.Millisecond
	}
	if m.rng.IntN(2) == 0 {
		m.hold("e1", true)
	}
	m.lost(m.store.endpoints["e0"].Own.Node)
	if took := m.gone(time.Minute); took > bound {
		m.problem("it took %s to move, want %s", took, bound)
	}
}

// leaders has the leader go with a host, or while it is being given up.
func (m *model) leaders() {
	m.settle()
	m.lost(m.store.endpoints["e0"].Own.Node)
	m.after(time.Duration(m.rng.Int64N(int64(m.t.Keepalive+m.t.Silence()))), m.elect)
	bound := 5 * time.Second
	if m.t == cluster.ProfileFast.Timings() {
		bound = 1500 * time.Millisecond
	}
	most := bound + 2*(m.t.Silence()+m.t.Keepalive)
	took := m.gone(time.Minute)
	if m.leader.warm {
		most = bound
	}
	if took > most {
		m.problem("it took %s to move, want %s", took, most)
	}
}

// in are the nodes of a datacenter.
func (m *model) in(dc string) []string {
	return slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return m.nodes[n].Datacenter != dc })
}

// datacenter takes all of the first, which has several hosts.
func (m *model) datacenter() {
	m.place("e0", m.in("d1")[0])
	m.settle()
	m.run(m.length())
	bound := 15 * time.Second
	if m.t == cluster.ProfileFast.Timings() {
		bound = 4 * time.Second
	}
	m.whole, m.wholeAt = "d1", m.now
	m.lost(m.in("d1")...)
	if took := m.gone(time.Minute); took > bound {
		m.problem("it took %s to move, want %s", took, bound)
	}
}

// place has an endpoint begin at a node.
func (m *model) place(name, node string) {
	e := *m.store.endpoints[name]
	own := *e.Own
	own.Node = node
	e.Own = &own
	m.store.endpoints[name] = &e
}

// part takes some of a datacenter.
func (m *model) part() {
	names := m.in("d1")
	for i, e := range []string{"e0", "e1", "e2"} {
		m.place(e, names[i%2])
	}
	m.settle()
	m.lost(names[:len(names)-1]...)
	if took := m.gone(2 * time.Minute); took > partialPause+2*m.t.Keepalive+5*time.Second {
		m.problem("it took %s to move", took)
	}
}

// many takes hosts of several datacenters at once, for a minute and a half.
func (m *model) many() {
	m.settle()
	gone := []string{m.store.endpoints["e0"].Own.Node}
	agents := slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return !m.nodes[n].Agent || n == gone[0] })
	m.rng.Shuffle(len(agents), func(i, j int) { agents[i], agents[j] = agents[j], agents[i] })
	most := 1 + m.rng.IntN(len(agents)-1)
	for i, n := range agents {
		if far := m.nodes[n].Datacenter != m.nodes[gone[0]].Datacenter; far && len(gone) == 1 || i < most && len(gone) < len(agents) {
			gone = append(gone, n)
		}
	}
	if !slices.ContainsFunc(gone, func(n string) bool { return m.nodes[n].Datacenter != m.nodes[gone[0]].Datacenter }) {
		return
	}
	m.mass = m.now
	m.lost(gone...)
	m.run(time.Duration(10+m.rng.IntN(80)) * time.Second)
	if m.rng.IntN(3) == 0 {
		if 2*len(gone) <= len(agents)+1 {
			m.mass = 0 // another leader does not know that it was at once
		}
		m.elect()
		m.run(30 * time.Second)
	}
}

// liar has one observer say of all others that they are silent, while some do not
// reach the store.
func (m *model) liar() {
	m.settle()
	m.hosts[m.any(false)].lies = true
	for _, name := range m.names {
		h := m.hosts[name]
		h.cut = m.rng.IntN(2) == 0 && !h.lies
	}
	m.run(20 * time.Second)
	if len(m.fences) > 0 {
		m.problem("one liar has %v fenced", m.fences)
	}
}

// flaps has owners give up what they get.
func (m *model) flaps() {
	m.settle()
	for range 60 {
		for _, name := range m.movers {
			if own := m.store.endpoints[name].Own; own.Node != "" {
				m.hosts[own.Node].released[name] = own.Epoch
				m.wake(m.hosts[own.Node])
			}
		}
		m.run(time.Second)
		for _, name := range m.names {
			clear(m.hosts[name].released)
			m.wake(m.hosts[name])
		}
		m.run(2 * time.Second)
		if m.rng.IntN(10) == 0 {
			m.elect()
		}
	}
}

// link cuts two datacenters from each other, or in one direction, while there is a
// third that hears both; some hosts do not reach the store.
func (m *model) link() {
	m.settle()
	dcs := m.datacenters()
	i := m.rng.IntN(len(dcs))
	what, _ := m.cutPair(dcs[i], dcs[(i+1)%len(dcs)], m.rng.IntN(3) > 0)
	m.note("%s", what)
	m.track()
	for _, name := range m.names {
		m.hosts[name].cut = m.rng.IntN(2) == 0
	}
	m.run(20 * time.Second)
	if len(m.fences) > 0 {
		m.problem("a cut between two datacenters has %v fenced", m.fences)
	}
}

// few has less than half of the observers of a host not hear it, in two datacenters or
// more; it does not reach the store.
func (m *model) few() {
	m.settle()
	name := m.store.endpoints["e0"].Own.Node
	m.hosts[name].cut = true
	all := slices.Clone(m.observers(name))
	m.rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, o := range all[:(len(all)-1)/2] {
		m.cutPair(name, o, true)
	}
	m.track()
	m.run(20 * time.Second)
	if len(m.fences) > 0 {
		m.problem("less than half do not hear %s, and %v is fenced", name, m.fences)
	}
}

// stale has a host come back when those who did not hear it cannot say so any more,
// and another leader that finds what they said, or hears of it only when it is elected.
func (m *model) stale() {
	m.settle()
	name := m.store.endpoints["e0"].Own.Node
	m.hosts[name].cut, m.data[name] = true, true
	m.track()
	if m.rng.IntN(2) == 0 {
		m.run(2 * m.most)
		m.deafen()
	}
	m.run(m.t.Silence() + 2*m.most)
	for _, o := range m.observers(name) {
		m.hosts[o].cut = true
	}
	delete(m.data, name)
	m.track()
	m.run(time.Second + m.length()/4)
	if m.rng.IntN(2) == 0 {
		m.elect()
	}
	m.run(20 * time.Second)
}

// back has a host come back that reads nothing for a while, and then does.
func (m *model) back() {
	m.settle()
	h := m.hosts[m.store.endpoints["e0"].Own.Node]
	h.cut, m.data[h.name], h.stuck = true, true, true
	m.track()
	m.run(2*m.t.Silence() + 2*m.t.Keepalive)
	h.cut = false
	delete(m.data, h.name)
	m.track()
	m.run(4*m.t.Keepalive + m.length())
	h.stuck = false
	m.wake(h)
	m.run(4*m.t.Keepalive + m.t.Silence())
	if len(m.store.fences) > 0 || len(m.fences) == 0 {
		m.problem("fenced: %v, of which there are still %d", m.fences, len(m.store.fences))
	}
}

// ports has the owner of an endpoint, strict or not, be unable to have its port, for
// longer than a repair takes, or less: then it stays. Whether it can at the next is up to
// chance; where it cannot it comes to no more than three.
func (m *model) ports() {
	m.settle()
	m.run(m.length())
	name := m.movers[m.rng.IntN(len(m.movers))]
	wait := m.t.Silence() + m.t.Keepalive
	start := m.store.endpoints[name].Own
	fail := func(node string, yes bool) {
		m.note("%s: its port fails at %s: %v", name, node, yes)
		m.hosts[node].fails[name] = yes
		m.wake(m.hosts[node])
	}
	fail(start.Node, true)
	if m.rng.IntN(3) == 0 {
		m.run(time.Duration(m.rng.Int64N(int64(wait - 3*m.most))))
		fail(start.Node, false)
		if m.run(wait); m.store.endpoints[name].Own != start {
			m.problem("%s moves, and its port failed for less than %s", name, wait)
		}
		return
	}
	had := []string{start.Node}
	for range 4 {
		m.run(wait + m.t.Grant + 3*m.t.Keepalive)
		if at := m.store.endpoints[name].Own.Node; at != had[len(had)-1] {
			if slices.Contains(had, at) {
				m.problem("%s returns to %s, where its port failed", name, at)
			}
			if had = append(had, at); m.rng.IntN(2) == 0 {
				fail(at, true)
			}
		}
	}
	e := m.store.endpoints[name]
	agents := slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return !m.nodes[n].Agent })
	switch at := m.hosts[e.Own.Node]; {
	case !at.fails[name] && !m.served(e):
		m.problem("%s is at %s, which does not serve it", name, e.Own.Node)
	case at.fails[name] && !e.strict() && len(had) < min(len(agents), maxFailed):
		m.problem("%s stays at %s, which cannot have its port; it was at %v", name, e.Own.Node, had)
	case !e.strict() && len(had) > maxFailed:
		m.problem("%s was at %v", name, had)
	}
}
