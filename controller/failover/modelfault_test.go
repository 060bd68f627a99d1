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
	e := m.store.endpoints[[]string{"e0", "e1", "e2"}[m.rng.IntN(3)]]
	switch m.rng.IntN(17) {
	case 0, 1:
		m.crash(h.name)
		return "crash " + h.name, func() {
			if !h.up {
				m.start(h.name)
			}
		}
	case 2:
		h.frozen = true
		return "freeze " + h.name, func() { h.frozen, h.thawed = false, true; m.wake(h) }
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
		held := *e
		held.Held = true
		m.store.endpoints[e.Name] = &held
		return "hold " + e.Name, func() {
			now := *m.store.endpoints[e.Name]
			now.Held = false
			m.store.endpoints[e.Name] = &now
		}
	case 15:
		clear(m.store.live)
		return "no leases", func() {}
	}
	if m.rng.IntN(2) == 0 {
		m.outage = true
		return "no store", func() {
			m.outage = false
			for _, h := range m.hosts {
				m.wake(h)
			}
			m.elect()
		}
	}
	m.frozenAll(true)
	return "all pause", func() { m.frozenAll(false) }
}

// frozenAll stops some of the agents at once, as a machine under several of them does.
func (m *model) frozenAll(frozen bool) {
	for _, name := range m.names {
		h := m.hosts[name]
		switch {
		case frozen && m.rng.IntN(4) > 0:
			h.frozen = true
		case !frozen && h.frozen:
			h.frozen, h.thawed = false, true
			m.wake(h)
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
	for _, name := range slices.Sorted(maps.Keys(m.store.fences)) {
		m.problem("the fence of %s stays", name)
	}
	for _, e := range m.store.endpoints {
		if m.hosts[e.Own.Node].serves[e.Name] != e.Own.Epoch {
			m.problem("%s is %s's in epoch %d, which does not serve it", e.Name, e.Own.Node, e.Own.Epoch)
		}
	}
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
		if !slices.ContainsFunc(slices.Collect(maps.Values(m.store.endpoints)), func(e *Endpoint) bool { return !m.hosts[e.Own.Node].up }) {
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
	m.lost(m.store.endpoints["e0"].Own.Node)
	if took := m.gone(time.Minute); took > bound {
		m.problem("it took %s to move, want %s", took, bound)
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

// many takes more than half of all, of several datacenters, for a minute and a half.
func (m *model) many() {
	var names []string
	for _, n := range m.names {
		if m.nodes[n].Agent {
			names = append(names, n)
		}
	}
	m.place("e0", names[0])
	m.place("e1", names[len(names)-1])
	m.settle()
	m.mass = m.now
	keep := names[1+m.rng.IntN(len(names)-2)]
	if len(m.in("d1")) == 2 && len(m.in("d2")) == 1 {
		keep = names[1] // the first and the last are of two datacenters
	}
	for len(names) > len(m.nodes)/3+1 {
		i := m.rng.IntN(len(names))
		if n := names[i]; n != keep && n != m.store.endpoints["e0"].Own.Node && n != m.store.endpoints["e1"].Own.Node {
			names = slices.Delete(names, i, i+1)
			continue
		}
		break
	}
	gone := slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return !m.nodes[n].Agent || n == keep })
	if all := len(gone) + 1; all > 3 && m.rng.IntN(2) == 0 {
		other := 1 + m.rng.IntN(all-3)
		gone = slices.Delete(gone, other, other+1)
	}
	m.lost(gone...)
	m.run(time.Duration(10+m.rng.IntN(90)) * time.Second)
	if m.rng.IntN(3) == 0 {
		m.elect()
		m.run(30 * time.Second)
	}
}

// liar has one observer say of all others that they are silent, while some do not
// reach the store.
func (m *model) liar() {
	m.settle()
	m.hosts[m.any(false)].lies = true
	for _, h := range m.hosts {
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
		for name, e := range m.store.endpoints {
			h := m.hosts[e.Own.Node]
			h.released[name] = e.Own.Epoch
			m.wake(h)
		}
		m.run(time.Second)
		for _, h := range m.hosts {
			clear(h.released)
			m.wake(h)
		}
		m.run(2 * time.Second)
		if m.rng.IntN(10) == 0 {
			m.elect()
		}
	}
}
