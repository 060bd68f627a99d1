package failover

import (
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// crowd is faults to endpoints of which two are apart, and a third is a VIP, while hosts
// may have one or two of them. In the end all is served, as it was at first.
func (m *model) crowd() {
	for i, name := range m.movers {
		e := *m.store.endpoints[name]
		e.Failover = &cluster.Failover{Mode: cluster.ModeVIP, Place: cluster.Place{"all"}}
		if i > 0 {
			e.Failover = &cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}, Apart: "g"}
		}
		m.store.endpoints[name] = &e
	}
	var at []string // each begins elsewhere
	for _, name := range m.names {
		n := *m.nodes[name]
		n.Capacity = 1 + m.rng.IntN(2)
		if m.nodes[name] = &n; n.Agent {
			at = append(at, name)
		}
	}
	m.rng.Shuffle(len(at), func(i, j int) { at[i], at[j] = at[j], at[i] })
	for i, name := range m.movers {
		m.place(name, at[i])
	}
	m.changed()
	m.faults()
}

// checkCrowded holds a node that is given an endpoint to what it may have.
func (m *model) checkCrowded(e *Endpoint, to string) {
	n := m.nodes[to]
	if n == nil {
		return
	}
	has := 1
	for _, name := range m.movers {
		o := m.store.endpoints[name]
		if name == e.Name || o.Own.Node != to {
			continue
		}
		has++
		if e.Failover.Apart != "" && o.Failover.Apart == e.Failover.Apart {
			m.problem("%s goes to %s, which has %s", e.Name, to, name)
		}
	}
	if n.Capacity > 0 && has > n.Capacity {
		m.problem("%s goes to %s, which has %d then, and may have %d", e.Name, to, has, n.Capacity)
	}
}

// giveUp is an operator's word that a host is lost.
func (m *model) giveUp(name string) {
	n := *m.nodes[name]
	n.GivenUp = &cluster.GivenUp{At: cluster.At(m.view(m.leader).Now)}
	if l := m.store.live[name]; l != nil {
		n.GivenUp.Incarnation, n.GivenUp.Counter = l.Incarnation, l.Counter
	}
	m.nodes[name], m.given[name] = &n, true
	m.note("give up %s", name)
	m.changed()
}

// word has an operator give up a host in safe mode: what it has moves, and nothing else.
// Then all come back, by which the word is over, and are lost again.
func (m *model) word() {
	m.given = map[string]bool{}
	m.settle()
	name := m.store.endpoints["e0"].Own.Node
	var gone []string
	for _, dc := range m.datacenters() { // one of each place, so some observers are sure
		for _, n := range m.in(dc) {
			if m.nodes[n].Agent && (n == name || dc != m.nodes[name].Datacenter) {
				gone = append(gone, n)
				break
			}
		}
	}
	held := m.rng.IntN(4) == 0
	m.hold("e0", held)
	m.mass = m.now
	m.lost(gone...)
	m.run(m.t.Hold + m.t.Silence() + 5*time.Second)
	m.giveUp(name)
	m.run(10 * time.Second)
	if own := m.store.endpoints["e0"].Own; (own.Node == name) != held {
		m.problem("e0 is at %q, 10 s after %s was given up; held: %v", own.Node, name, held)
	}
	for _, n := range gone {
		m.start(n)
		m.note("start %s", n)
	}
	m.track()
	m.changed()
	m.run(2 * time.Minute)
	delete(m.given, name)
	m.own(m.store.endpoints["e0"], name, nil)
	m.changed()
	m.run(20 * time.Second)
	m.mass = m.now
	m.lost(gone...)
	m.run(30 * time.Second)
}
