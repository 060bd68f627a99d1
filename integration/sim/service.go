package sim

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// services is a world in which endpoints move by themselves: two datacenters of two
// nodes, a witness in a third, one VPC, and some endpoints that are attached on every
// node.
type services struct {
	w         *World
	names     []string // of endpoints
	observers []*observer
	cuts      map[[2]string]bool // between underlays, from and to
	strict    map[string]bool    // endpoints that are exclusive strict
	gates     int                // how often some gate was moved
	judge     *acceptance
}

const (
	servicesVPC = "vpc1"
	servicesVNI = cluster.VNI(150)
)

// found makes it, and waits until all endpoints are served.
func (w *World) found() *services {
	s := &services{w: w, cuts: map[[2]string]bool{}, strict: map[string]bool{}}
	w.services = s
	for _, dc := range []string{"dc1", "dc1", "dc2", "dc2"} {
		w.operator.names++
		n := w.newNode(fmt.Sprintf("n%d", w.operator.names))
		n.can = nil
		n.host.SetClock(w.clock())
		w.nodes = append(w.nodes, n)
		w.operator.put(cluster.KeyNode(n.name), &cluster.Node{ID: n.id, Datacenter: dc, State: cluster.NodeActive, Agent: true})
	}
	// Who leads is held for dead with its node, and may live.
	w.candidates[0].name, w.candidates[1].name = w.nodes[0].name, w.nodes[2].name
	w.operator.put(cluster.KeyNode("w"), &cluster.Node{ID: "id-w", Datacenter: "dc3", State: cluster.NodeActive})
	w.operator.put(cluster.KeyVPCSpec(servicesVPC), &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.SelectAll, VNI: servicesVNI,
		PeerNetwork: netip.MustParsePrefix("10.100.0.0/24"), Network: cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}, Learning: cluster.LearnStatic})
	for i, place := range []cluster.Place{{"dc=dc1", "dc=dc2"}, {"dc=dc2", "dc=dc1"}, {"n2", "n3", "all"}, {"dc=dc1", "dc=dc2"}, {"all"}} {
		name := fmt.Sprintf("s%d", i+1)
		s.names = append(s.names, name)
		f := cluster.Failover{Mode: cluster.ModeStateless, Place: place}
		if i >= 3 {
			f.Exclusive, s.strict[name] = cluster.ExclusiveStrict, true
		}
		w.operator.put(cluster.KeyEndpointSpec(servicesVPC, name), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true,
			Failover: f, Created: cluster.At(w.time())})
	}
	for _, n := range w.nodes {
		s.rooms(n)
		s.start(n)
		s.observers = append(s.observers, s.newObserver(n.name, n))
	}
	s.observers = append(s.observers, s.newObserver("w", nil))
	w.run(w.now + time.Minute)
	s.judge = newAcceptance(s)
	return s
}

// rooms makes the namespaces of a node's workloads, which its kernel has not.
func (s *services) rooms(n *node) {
	for _, name := range s.names {
		if _, err := n.host.NewRoom(name); err != nil {
			s.w.fail("room %s of %s: %v", name, n.name, err)
		}
	}
}

// attach asks an agent that was just started for each endpoint, until it is attached.
func (s *services) attach(n *node) {
	for _, name := range s.names {
		if !n.attached[name] {
			s.ask(n, name, 0)
		}
	}
}

func (s *services) ask(n *node, endpoint string, d time.Duration) {
	n.later(d, func() {
		n.questions++
		n.asked[n.questions] = endpoint
		n.in.Questions = append(n.in.Questions, watcher.Question{ID: n.questions,
			Attach: &local.AttachRequest{VPC: servicesVPC, Endpoint: endpoint, Netns: "/run/rooms/" + endpoint}})
		n.wake()
	})
}

// answered takes an agent's answers.
func (s *services) answered(n *node, answers []watcher.Answer) {
	for _, a := range answers {
		if a.Attached != nil {
			n.attached[n.asked[a.ID]] = true
			continue
		}
		s.w.trace("%s refuses %s: %s", n.name, n.asked[a.ID], a.Refusal.Text)
		s.ask(n, n.asked[a.ID], time.Second)
	}
}

// reaches reports whether a packet from one node comes to another, and the answer
// back. The witness is cut from nobody.
func (s *services) reaches(from string, to *node) bool {
	return !to.off && !s.cuts[[2]string{from, to.name}] && !s.cuts[[2]string{to.name, from}]
}

// cut loses what one node sends another, for a time.
func (s *services) cut(from, to *node, d time.Duration) {
	key := [2]string{from.name, to.name}
	if from == to || s.cuts[key] {
		return
	}
	s.cuts[key] = true
	s.w.in(d, func() { delete(s.cuts, key) })
}

// observer sees as package observe does which of its targets answer.
type observer struct {
	s       *services
	name    string
	node    *node // nil: the witness
	link    *link
	store   *store.Store
	missed  map[string]int
	counter int64
	said    bool // that somebody is silent
	last    time.Duration
}

func (s *services) newObserver(name string, n *node) *observer {
	o := &observer{s: s, name: name, node: n, link: &link{w: s.w}, missed: map[string]int{}}
	if n != nil {
		o.link = &n.link
	}
	o.store = store.New(o.link, cluster.Identity{Role: cluster.Agent, Name: name})
	s.w.in(s.w.upTo(time.Second), o.look)
	return o
}

// look asks all targets once.
func (o *observer) look() {
	t := cluster.ProfileDefault.Timings()
	o.s.w.in(t.Probe, o.look)
	if o.node != nil && (o.node.agent == nil || o.node.frozen) {
		return
	}
	if o.s.w.now > o.last+2*t.Probe { // it was late: what it missed is its own fault
		clear(o.missed)
	}
	o.last = o.s.w.now
	v := &cluster.Verdicts{NodeID: "id-" + o.name}
	nodes := map[string]*cluster.Node{}
	for _, n := range append(slices.Clone(o.s.w.nodes), &node{name: "w"}) {
		nodes[n.name] = o.s.w.operator.wishes[cluster.KeyNode(n.name)].(*cluster.Node)
	}
	for _, n := range o.s.w.nodes {
		if !slices.Contains(cluster.ObserversOf(n.name, nodes), o.name) {
			continue
		}
		kernel := o.s.reaches(o.name, n)
		agent := kernel && n.agent != nil && !n.frozen
		if o.missed[n.name]++; agent {
			o.missed[n.name] = 0
		}
		if o.missed[n.name] >= t.Misses {
			v.Suspects = append(v.Suspects, cluster.Suspect{Node: n.name, Kernel: kernel})
		}
	}
	if len(v.Suspects) == 0 && !o.said {
		return
	}
	o.said = len(v.Suspects) > 0
	o.counter++
	v.Counter = o.counter
	var c store.Change
	store.Set(&c, cluster.KeyVerdicts(o.name), v, nil, 0)
	o.s.w.in(o.s.w.upTo(20*time.Millisecond), func() {
		if _, err := o.store.Commit(o.s.w.ctx, c); err != nil {
			o.said = true // once more, if it was the last word
		}
	})
}

// keep renews a node's live record as its agent orders.
func (n *node) keep(k watcher.Keeping) {
	n.keeping++
	n.renewLive(k, n.keeping, 0)
}

func (n *node) renewLive(k watcher.Keeping, order int, d time.Duration) {
	if k.Every == 0 {
		return
	}
	n.later(d, func() {
		if n.keeping != order {
			return
		}
		until := n.driver.Uptime() + k.Grant
		n.w.in(n.w.upTo(20*time.Millisecond), func() { n.commitLive(k, until) })
		n.renewLive(k, order, k.Every)
	})
}

// commitLive is a renewal at the store; its answer comes to the agent later, if at all.
func (n *node) commitLive(k watcher.Keeping, until time.Duration) {
	if n.agent == nil {
		return
	}
	for _, c := range k.Renewals(n.name, n.counter+1) {
		n.counter++
		if _, err := n.store.Commit(n.w.ctx, c); err != nil {
			return // the next comes soon
		}
	}
	n.later(n.w.upTo(20*time.Millisecond), func() {
		if k.Grant > 0 {
			if err := n.driver.SetGate(until); err != nil {
				n.w.fail("gate of %s: %v", n.name, err)
			}
			n.w.services.gates++
		}
		n.kept = k.Order
		n.wake()
	})
}

// clock is one that nobody sets, and that is wrong by up to 1 %.
func (w *World) clock() func() time.Duration {
	rate, from := 1+0.01*(2*w.rand.Float64()-1), w.upTo(time.Hour)
	if w.chance(0.5) {
		rate = 1 + 0.01*float64(1-2*w.rand.IntN(2))
	}
	return func() time.Duration { return from + time.Duration(float64(w.now)*rate) }
}

// drain has a node hand over what it has, for a time.
func (s *services) drain(n *node, d time.Duration) {
	is := *s.w.operator.wishes[cluster.KeyNode(n.name)].(*cluster.Node)
	if is.State != cluster.NodeActive {
		return
	}
	s.w.trace("%s is drained for %s", n.name, d)
	var state func(to cluster.NodeState)
	state = func(to cluster.NodeState) {
		if s.w.down {
			s.w.in(time.Second, func() { state(to) })
			return
		}
		now := is
		now.State = to
		s.w.operator.put(cluster.KeyNode(n.name), &now)
	}
	state(cluster.NodeDraining)
	s.w.in(d, func() { state(cluster.NodeActive) })
}

// move is an operator's word that an endpoint is to be at a node.
func (s *services) move(name string, to *node) {
	own, key := s.judge.last[name], cluster.KeyEndpointSpec(servicesVPC, name)
	if own == nil || own.Node == to.name || s.w.down {
		return
	}
	s.w.trace("%s is to move to %s", name, to.name)
	spec := *s.w.operator.wishes[key].(*cluster.EndpointSpec)
	spec.Failover.MoveTo = cluster.InEpoch{Node: to.name, Epoch: own.Epoch}
	s.w.operator.put(key, &spec)
}

// powerOff takes a node's power for a time.
func (s *services) powerOff(n *node, d time.Duration) {
	if n.off {
		return
	}
	s.w.trace("power of %s fails for %s", n.name, d)
	n.kill()
	n.host.PowerCycle()
	n.off = true
	s.judge.forget(n)
	s.w.in(d, func() { s.boot(n) })
}

func (s *services) boot(n *node) {
	if !n.off {
		return
	}
	s.w.trace("%s boots", n.name)
	n.off, n.frozen = false, false
	n.boots++
	s.rooms(n)
	s.start(n)
}

// start runs a node's agent, and has all attached.
func (s *services) start(n *node) {
	if n.agent == nil {
		n.start()
		s.attach(n)
	}
}

// freeze stops a node's agent, and nothing of its kernel, for a time.
func (s *services) freeze(n *node, d time.Duration) {
	if n.agent == nil || n.frozen {
		return
	}
	s.w.trace("agent of %s freezes for %s", n.name, d)
	n.frozen = true
	s.w.in(d, func() { n.frozen = false })
}

// fault lets something go wrong from time to time.
func (s *services) fault() {
	w := s.w
	if w.operator.resting {
		return
	}
	w.in(w.upTo(8*time.Second), s.fault)
	n, m, c := pick(w, w.nodes), pick(w, w.nodes), pick(w, w.candidates)
	d := w.upTo(40 * time.Second)
	switch w.rand.IntN(14) {
	case 0, 1:
		s.powerOff(n, d)
	case 2:
		s.freeze(n, d)
	case 3:
		w.trace("agent of %s crashes", n.name)
		unsaved := n.cache != nil
		n.kill()
		w.in(d, func() {
			if unsaved {
				s.judge.forget(n)
			}
			if !n.off {
				s.start(n)
			}
		})
	case 4:
		w.trace("%s loses the store", n.name)
		n.link.cut = true
		w.in(d, func() { n.link.cut = false })
	case 5:
		w.trace("cut from %s to %s for %s", n.name, m.name, d)
		s.cut(n, m, d)
	case 6:
		w.trace("%s is cut from %s for %s", n.name, m.name, d)
		s.cut(n, m, d)
		s.cut(m, n, d)
	case 7:
		s.cutOff(pick(w, []string{"dc1", "dc2"}), d, w.chance(0.5))
	case 8:
		w.trace("datacenter of %s loses its power for %s", n.name, d)
		for _, x := range s.in(n) {
			s.powerOff(x, d)
		}
	case 9:
		w.trace("%s crashes", c)
		c.crash()
	case 10:
		w.trace("%s freezes for %s", c, d)
		c.frozen = true
		w.in(d, func() { c.frozen = false; c.wake() })
	case 11:
		w.trace("the store is down for %s", d)
		w.setDown(true)
		w.in(d, func() { w.setDown(false) })
	case 12:
		s.drain(n, d)
	case 13:
		s.move(pick(w, s.names), m)
	}
}

// in lists the nodes of a node's datacenter.
func (s *services) in(n *node) (list []*node) {
	dc := s.datacenter(n)
	for _, x := range s.w.nodes {
		if s.datacenter(x) == dc {
			list = append(list, x)
		}
	}
	return list
}

func (s *services) datacenter(n *node) string {
	return s.w.operator.wishes[cluster.KeyNode(n.name)].(*cluster.Node).Datacenter
}

// cutOff cuts a datacenter from the other, and from the store and the witness, if all
// is so.
func (s *services) cutOff(dc string, d time.Duration, all bool) {
	s.w.trace("%s is cut off for %s, from the store: %v", dc, d, all)
	for _, n := range s.w.nodes {
		if s.datacenter(n) != dc {
			continue
		}
		for _, m := range s.w.nodes {
			if s.datacenter(m) != dc {
				s.cut(n, m, d)
				s.cut(m, n, d)
			}
		}
		if all {
			n.link.cut = true
			key := [2]string{"w", n.name}
			s.cuts[key] = true
			s.w.in(d, func() { n.link.cut = false; delete(s.cuts, key) })
		}
	}
}

// mend ends everything that lasts.
func (s *services) mend() {
	clear(s.cuts)
	for _, n := range s.w.nodes {
		s.boot(n)
		s.start(n)
		n.frozen = false
	}
}

// Services runs a world in which endpoints move by themselves, and returns what is
// wrong, or was at any time, how often endpoints moved, and how often a candidate ended
// the lead of another.
func Services(cfg Config) (problems []string, moves, vacated int) {
	w := newWorld(cfg)
	s := w.found()
	w.after = s.judge.check
	if !cfg.Quiet {
		w.in(w.upTo(3*time.Second), s.fault)
	}
	w.run(w.now + w.cfg.Trouble)
	w.trace("rest")
	w.operator.resting = true
	s.mend()
	w.mend()
	w.run(w.now + 4*time.Minute)
	s.judge.atRest()
	return w.problems, s.judge.moves, w.vacated
}

// ofOwn reads an event of an endpoint's own record; nil: it is another's.
func ofOwn(e mvcc.Event) (endpoint string, own *cluster.EndpointOwn) {
	k, err := cluster.ParseKey(e.KV.Key)
	if err != nil || k.Kind != cluster.KindOwn || e.Deleted {
		return "", nil
	}
	r, err := cluster.Decode(e.KV.Key, e.KV.Value)
	if err != nil {
		return "", nil
	}
	return k.Name, r.(*cluster.EndpointOwn)
}
