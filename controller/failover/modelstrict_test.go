package failover

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// What the model takes away beside the leader's rules.
const (
	modelOwn  rule = 1 << (30 + iota) // an owner's renewal compares its own records
	modelLive                         // a grant compares the old owner's live record
)

// strictness is what models have in which some endpoints are exclusive strict: clocks
// run at rates of their own.
type strictness struct{ skew float64 }

func (s *strictness) rate(rng *rand.Rand) float64 {
	if s == nil {
		return 1
	}
	if rng.IntN(2) == 0 { // as wrong as can be
		return 1 - s.skew + 2*s.skew*float64(rng.IntN(2))
	}
	return 1 - s.skew + 2*s.skew*rng.Float64()
}

// granted is what a host may let pass by its gate.
type granted struct {
	rate   float64       // of its clock
	shut   time.Duration // of the model: when its kernel shuts the gate
	order  []guard       // what a renewal compares
	proved map[string]int64
}

// guard is an own record that a renewal wants to be as it is.
type guard struct {
	endpoint string
	own      *cluster.EndpointOwn
}

// beStrict makes two endpoints strict, and has clocks run wrong.
func (m *model) beStrict(seed uint64, skew float64) {
	m.strict = &strictness{skew}
	rng := rand.New(rand.NewPCG(seed, 2))
	for _, h := range m.hosts {
		h.granted.rate = m.strict.rate(rng)
	}
	m.leader.rate, m.next.rate = m.strict.rate(rng), m.strict.rate(rng)
	for _, name := range []string{"e0", "e1"} {
		e := *m.store.endpoints[name]
		f := *e.Failover
		f.Exclusive = cluster.ExclusiveStrict
		e.Failover = &f
		m.store.endpoints[name] = &e
	}
	m.changed()
}

// renew is a keepalive in a strict world: it counts if no fence stands, and what the
// host is granted has not changed.
func (m *model) renew(h *host) {
	n, boot, sent := m.nodes[h.name], h.boot, m.now
	order := slices.Clone(h.granted.order)
	owns := slices.ContainsFunc(m.movers, func(e string) bool { return m.store.endpoints[e].Own.Node == h.name })
	m.send(h, func() {
		l := m.store.live[h.name]
		m.store.renewed[h.name] = m.now
		name := "b" + string(rune('0'+boot))
		refused := has(m.store.fences, h.name) || slices.ContainsFunc(order, func(g guard) bool {
			return m.store.endpoints[g.endpoint].Own != g.own && m.off&modelOwn == 0
		})
		if l != nil && l.BootID == name && (!owns || refused) {
			return
		}
		if !refused {
			h.counter++
			h.kept = m.now
		}
		m.store.live[h.name] = &cluster.Live{NodeID: n.ID, BootID: name, Incarnation: "i", Counter: h.counter, Grant: m.t.Grant.Milliseconds()}
		if !refused && len(order) > 0 {
			m.after(m.delay(), func() { m.opens(h, boot, sent, order) })
		}
	})
}

// opens is what a host does when it hears of its grant: if it is frozen, later.
func (m *model) opens(h *host, boot int, sent time.Duration, order []guard) {
	switch {
	case h.boot != boot || !h.up:
		return
	case h.frozen:
		m.after(5*time.Millisecond, func() { m.opens(h, boot, sent, order) })
		return
	}
	late := time.Duration(m.rng.Int64N(int64(100 * time.Millisecond)))
	h.granted.shut = sent + time.Duration(float64(m.t.OwnGrant())/h.granted.rate) + late
	if h.granted.proved == nil {
		h.granted.proved = map[string]int64{}
	}
	for _, g := range order {
		h.granted.proved[g.endpoint] = g.own.Epoch
	}
	m.wake(h)
	m.checkOpen()
}

// order is what a host's renewals compare from now on: after it has shut what is
// another's.
func (m *model) order(h *host) {
	if m.strict == nil {
		return
	}
	var order []guard
	for _, name := range m.movers {
		if e := m.store.endpoints[name]; e.strict() && e.Own.Node == h.name && e.Own.To == "" && !h.drops[h.name] {
			order = append(order, guard{name, e.Own})
		}
	}
	if !slices.Equal(order, h.granted.order) {
		h.granted.order = order
		m.renew(h)
	}
}

// open lists the hosts by which frames of an endpoint pass, whoever runs there.
func (m *model) open(e string) (names []string) {
	for _, name := range m.names {
		h := m.hosts[name]
		if _, serves := h.serves[e]; serves && h.up && m.now < h.granted.shut {
			names = append(names, name)
		}
	}
	return names
}

// checkOpen: of a strict endpoint two hosts are never open at once. Between two looks
// hosts only shut.
func (m *model) checkOpen() {
	for _, e := range m.movers {
		if open := m.open(e); m.store.endpoints[e].strict() && len(open) > 1 {
			m.problem("%s is open at %v", e, open)
		}
	}
}

func (m *model) handOver(list []Handover) {
	for _, h := range list {
		e := m.store.endpoints[h.Endpoint]
		if e.Own.Epoch != h.Epoch || e.Held || e.Own.To != "" || has(m.store.fences, h.To) {
			continue
		}
		m.note("%s: %s is to hand it to %s: %s", h.Endpoint, h.From, h.To, h.Why)
		now, own := *e, *e.Own
		own.To = h.To
		now.Own = &own
		m.store.endpoints[e.Name] = &now
	}
}

// drain has a node hand over what it has.
func (m *model) drain(name string, yes bool) {
	n := *m.nodes[name]
	n.State = cluster.NodeActive
	if yes {
		n.State = cluster.NodeDraining
	}
	m.nodes[name] = &n
}

// strictFault is one of those that matter to who is granted what.
func (m *model) strictFault() (what string, end func()) {
	h := m.hosts[m.store.endpoints[m.movers[m.rng.IntN(2)]].Own.Node]
	if h == nil {
		return m.fault()
	}
	switch m.rng.IntN(10) {
	case 0, 1, 2:
		h.frozen = true
		return "freeze " + h.name, func() { m.thaw(h) }
	case 3:
		h.stuck = true
		return h.name + " applies nothing", func() { h.stuck = false; m.wake(h) }
	case 4, 5:
		h.cut = true
		return "no store for " + h.name, func() { h.cut = false; m.wake(h) }
	case 6:
		m.drain(h.name, true)
		return "drain " + h.name, func() { m.drain(h.name, false) }
	}
	return m.fault()
}

// strictFaults is faults, most of them of owners, that last longer than a grant. In the
// end all is served again.
func (m *model) strictFaults() {
	m.settle()
	last := m.now
	for range 2 + m.rng.IntN(6) {
		m.after(time.Duration(m.rng.Int64N(int64(20*time.Second))), func() {
			what, end := m.strictFault()
			m.note("%s", what)
			m.track()
			m.changed()
			length := time.Duration(m.rng.Int64N(int64(3 * m.t.Grant)))
			last = max(last, m.now+length)
			m.after(length, func() { m.note("no more: %s", what); end(); m.track(); m.changed() })
		})
	}
	m.run(20 * time.Second)
	m.run(last - m.now + time.Millisecond)
	for _, name := range m.names {
		m.wake(m.hosts[name])
	}
	m.run(4*m.t.Silence() + 4*m.t.Keepalive + 3*m.t.Grant + 20*time.Second)
	for _, e := range m.movers {
		own := m.store.endpoints[e].Own
		if m.store.endpoints[e].strict() && !slices.Equal(m.open(e), []string{own.Node}) {
			m.problem("%s is %s's in epoch %d, to be handed to %q, and open at %v", e, own.Node, own.Epoch, own.To, m.open(e))
		}
	}
}

// strictCrash takes a host that owns a strict endpoint; it is served elsewhere in time,
// and not before.
func (m *model) strictCrash() {
	m.settle()
	m.run(m.length())
	bound := 10 * time.Second
	if m.t == cluster.ProfileFast.Timings() {
		bound = 3600 * time.Millisecond
	}
	from, start := m.store.endpoints["e0"].Own.Node, m.now
	m.lost(from)
	for m.now-start < time.Minute && (len(m.open("e0")) == 0 || m.store.endpoints["e0"].Own.Node == from) {
		m.run(10 * time.Millisecond)
	}
	if took := m.now - start; took > bound+bound/100 { // by the leader's clock
		m.problem("it took %s until %s was served again, want %s", took, "e0", bound)
	}
}

// strictThaw freezes an owner until about the moment at which another gets what it had.
// What reads its records goes on later than what renews.
func (m *model) strictThaw() {
	m.settle()
	m.run(m.length())
	h := m.hosts[m.store.endpoints["e0"].Own.Node]
	h.frozen = true
	until := h.kept + m.t.GrantWait() + time.Duration(m.rng.Int64N(int64(4*m.most)))
	m.run(until - m.now)
	h.frozen, h.thawed, h.stuck = false, true, true
	m.keepalive(h)
	m.run(time.Second)
	h.stuck = false
	m.wake(h)
	m.run(2 * m.t.Grant)
}

// TestTooMuchSkew: clocks that are wrong by more than is promised for are seen to do
// harm, in some world: so those that are not wrong by more are seen not to.
func TestTooMuchSkew(t *testing.T) {
	t.Parallel()
	for seed := uint64(1); seed < 400; seed++ {
		m := newModel(seed, sites[seed%uint64(len(sites))], seed%2 == 0, 0)
		m.beStrict(seed, 0.2)
		m.strictFaults()
		if len(m.problems) > 0 {
			return
		}
	}
	t.Error("clocks that are wrong by a fifth do no harm in 400 worlds")
}
