package failover

import (
	"container/heap"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// model is a whole cluster in one queue of events, from one seed: hosts that observe
// each other and apply what they read after a while, a store, a leader whose view of it
// is late, and another candidate, which watches and may be elected next. It knows the
// truth, so it sees when the leader is wrong.
type model struct {
	rng     *rand.Rand
	t       cluster.FailoverTimings
	ttl     time.Duration // of leases
	now     time.Duration // since the beginning
	queue   events
	seq     int
	most    time.Duration // of any message
	hosts   map[string]*host
	names   []string
	movers  []string // the endpoints
	addrs   map[string][]netip.Addr
	nodes   map[string]*cluster.Node
	observe map[string][]string
	data    map[string]bool    // hosts whose frames go nowhere
	cuts    map[[2]string]bool // hosts or datacenters, from and to, between which nothing passes
	broken  map[[2]string]span // when a pair did not hear each other last

	work  map[string]map[string]*work // by endpoint and host, of those that are started and stopped
	hasty bool                        // hosts say that a workload has ended before it has

	store  *content
	leader *leader
	next   *leader // it watches
	outage bool    // the store takes nothing

	off      rule
	problems []string
	log      []string
	moves    map[string][]time.Duration // automatic changes of owners
	fencedAt map[string]time.Duration   // every fence that was ever committed, the last of each node
	fences   []string                   // all, in order
	mass     time.Duration              // more than can be explained is lost since then; 0: no
	given    map[string]bool            // hosts that an operator gave up, and that have not been back
	whole    string                     // the datacenter that is lost since then as one
	wholeAt  time.Duration
	strict   *strictness // nil: no endpoint is
}

// span is a time, which is not over if it is on.
type span struct {
	from, to time.Duration
	on       bool
}

// content is the store.
type content struct {
	revision  int64
	live      map[string]*cluster.Live
	renewed   map[string]time.Duration
	verdicts  map[string]*cluster.Verdicts
	fences    map[string]Fence
	applied   map[string]*cluster.FenceStatus
	endpoints map[string]*Endpoint
}

// host is a node, or the witness.
type host struct {
	name      string
	up        bool
	frozen    bool // its agent
	thawed    bool // it was until now
	thawedAt  time.Duration
	stuck     bool // its agent applies nothing
	cut       bool // from the store
	lies      bool // it says of all others that they are silent
	boot      int
	counter   int64
	said      *cluster.Verdicts
	spoke     time.Duration // when the last of what it said was committed
	missed    map[string]int
	sent      time.Duration // its writes arrive in order
	epochs    map[string]int64
	serves    map[string]int64 // endpoints whose frames it lets pass, in which epoch
	drops     map[string]bool  // nodes that it takes nothing from
	released  map[string]int64 // endpoints that it gave up, in which epoch
	fails     map[string]bool  // endpoints whose ports it cannot have
	applying  bool
	confirmed int64
	kept      time.Duration // when its last keepalive was committed
	granted   granted
	upSince   time.Duration
	downSince time.Duration
	// fellSilent: its agent was frozen, or its data cut, when it crashed: it was missed before that.
	fellSilent bool
	wasCut     bool // it was cut off when it crashed, so its kernel was missed, too
}

// leader is a candidate: who leads, or who watches.
type leader struct {
	judge  *Judge
	warm   bool          // it watched before it was elected
	behind bool          // see View
	stale  *View         // what one goes by that hears nothing of the store; nil: it does
	offset time.Duration // of its clock
	rate   float64       // of it
	frozen bool
	again  int // of the event that is waited for
	soon   bool
	busy   bool
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

// sites are how clusters are built: hosts by datacenter, "w" is the witness's.
var sites = []map[string]int{
	{"d1": 2, "d2": 1, "w": 1},
	{"d1": 2, "d2": 2, "w": 1},
	{"d1": 3, "d2": 2, "d3": 2},
	{"d1": 4, "d2": 3, "d3": 2, "w": 1},
}

func newModel(seed uint64, site map[string]int, fast bool, off rule) *model {
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), t: cluster.ProfileDefault.Timings(), ttl: 10 * time.Second, most: 40 * time.Millisecond,
		hosts: map[string]*host{}, nodes: map[string]*cluster.Node{}, observe: map[string][]string{}, addrs: map[string][]netip.Addr{}, data: map[string]bool{}, cuts: map[[2]string]bool{}, broken: map[[2]string]span{},
		off: off, moves: map[string][]time.Duration{}, fencedAt: map[string]time.Duration{},
		store: &content{live: map[string]*cluster.Live{}, renewed: map[string]time.Duration{}, verdicts: map[string]*cluster.Verdicts{},
			fences: map[string]Fence{}, applied: map[string]*cluster.FenceStatus{}, endpoints: map[string]*Endpoint{}}}
	if fast {
		m.t, m.ttl, m.most = cluster.ProfileFast.Timings(), 4*time.Second, 20*time.Millisecond
	}
	for dc, n := range site {
		for i := range n {
			name := fmt.Sprintf("%s%c", dc, 'a'+i)
			m.names = append(m.names, name)
			m.nodes[name] = &cluster.Node{ID: name, Datacenter: dc, State: cluster.NodeActive, Agent: dc != "w"}
		}
	}
	slices.Sort(m.names)
	members := map[string]bool{}
	for i, name := range m.names {
		members[name] = m.nodes[name].Agent
		m.addrs[name] = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
		m.hosts[name] = &host{name: name, boot: -1, missed: map[string]int{}, kept: -time.Hour}
		m.start(name)
		m.every(m.t.Probe, func() { m.probe(m.hosts[name]) })
		m.every(m.t.Keepalive, func() { m.keepalive(m.hosts[name]) })
	}
	owners := slices.DeleteFunc(slices.Clone(m.names), func(n string) bool { return !m.nodes[n].Agent })
	for i := range 3 {
		e := &Endpoint{VPC: "v", Name: fmt.Sprintf("e%d", i), Failover: &cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}},
			Own:     &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: owners[m.rng.IntN(len(owners))], Era: 1, Epoch: 1},
			Reports: map[string]*cluster.EndpointStatus{}, Members: members}
		m.store.endpoints[e.Name] = e
		m.movers = append(m.movers, e.Name)
	}
	m.every(time.Second, m.expire)
	m.elect()
	m.changed()
	return m
}

func (m *model) after(d time.Duration, do func()) {
	m.seq++
	heap.Push(&m.queue, event{m.now + d, m.seq, do})
}

// every begins at a moment of its own in the period.
func (m *model) every(period time.Duration, do func()) {
	var again func()
	again = func() { do(); m.after(period, again) }
	m.after(time.Duration(m.rng.Int64N(int64(period))), again)
}

func (m *model) delay() time.Duration {
	return time.Millisecond + time.Duration(m.rng.Int64N(int64(m.most)))
}

// run lets time pass.
func (m *model) run(d time.Duration) {
	end := m.now + d
	for len(m.queue) > 0 && m.queue[0].at <= end {
		e := heap.Pop(&m.queue).(event)
		m.now = e.at
		e.do()
	}
	m.now = end
}

func (m *model) problem(format string, args ...any) {
	m.problems = append(m.problems, m.now.String()+": "+fmt.Sprintf(format, args...))
}

func (m *model) note(format string, args ...any) {
	m.log = append(m.log, m.now.String()+": "+fmt.Sprintf(format, args...))
}

// passes reports whether frames get from one host to another.
func (m *model) passes(a, b string) bool {
	x, y := m.nodes[a].Datacenter, m.nodes[b].Datacenter
	return m.hosts[a].up && m.hosts[b].up && !m.data[a] && !m.data[b] && !m.cuts[[2]string{a, b}] && !m.cuts[[2]string{x, y}]
}

func (m *model) hears(a, b string) bool { return m.passes(a, b) && m.passes(b, a) }

// start boots a host.
func (m *model) start(name string) {
	h := m.hosts[name]
	h.up, h.boot, h.upSince, h.frozen, h.stuck, h.said = true, h.boot+1, m.now, false, false, nil
	clear(h.missed)
	h.granted = granted{rate: m.strict.rate(m.rng)}
	h.epochs, h.serves, h.drops, h.released, h.confirmed = map[string]int64{}, map[string]int64{}, map[string]bool{}, map[string]int64{}, 0
	h.fails = map[string]bool{}
	m.bootWork(h)
	m.keepalive(h)
	m.wake(h)
}

func (m *model) crash(name string) {
	h := m.hosts[name]
	if !h.up {
		return
	}
	h.fellSilent, h.wasCut = h.frozen || m.data[name], m.unheard(name)
	h.up, h.downSince = false, m.now
}

// unheard reports whether most of a host's observers that could say so do not hear it.
func (m *model) unheard(name string) bool {
	sure, deaf := 0, 0
	for _, o := range m.observers(name) {
		if x := m.hosts[o]; x.runs() && !x.lies {
			if sure++; !m.hears(o, name) {
				deaf++
			}
		}
	}
	return atLeast(deaf, sure)
}

func (h *host) runs() bool { return h.up && !h.frozen }

// send writes to the store, if the host gets there.
func (m *model) send(h *host, write func()) {
	if h.cut || m.outage {
		return
	}
	h.sent = max(h.sent, m.now+m.delay())
	m.after(h.sent-m.now, func() {
		if !m.outage {
			write()
			m.changed()
		}
	})
}

func (m *model) keepalive(h *host) {
	n := m.nodes[h.name]
	if !h.runs() || !n.Agent {
		return
	}
	if m.strict != nil {
		m.renew(h)
		return
	}
	owns := slices.ContainsFunc(m.movers, func(e string) bool { return m.store.endpoints[e].Own.Node == h.name })
	boot := fmt.Sprintf("b%d", h.boot)
	m.send(h, func() {
		l := m.store.live[h.name]
		m.store.renewed[h.name] = m.now
		if l == nil || owns || l.BootID != boot {
			h.counter++
			m.store.live[h.name] = &cluster.Live{NodeID: n.ID, BootID: boot, Incarnation: "i", Counter: h.counter}
			h.kept = m.now
		}
	})
}

// expire ends leases.
func (m *model) expire() {
	if m.outage {
		return
	}
	for name, at := range m.store.renewed {
		if m.store.live[name] != nil && m.now-at > m.ttl {
			delete(m.store.live, name)
			m.changed()
		}
	}
}

// probe is one round of an observer. One that was frozen finds answers that it has not
// read, and takes some targets for silent; it knows that it is late.
func (m *model) probe(h *host) {
	if !h.runs() {
		return
	}
	v := &cluster.Verdicts{NodeID: h.name, Unsure: h.thawed}
	var targets []string
	for _, t := range m.names {
		if !slices.Contains(m.observers(t), h.name) {
			continue
		}
		targets = append(targets, t)
		h.missed[t]++
		if m.hears(h.name, t) && !m.hosts[t].frozen && !h.lies {
			h.missed[t] = 0
		}
		if h.missed[t] >= m.t.Misses || h.thawed && m.rng.IntN(2) == 0 {
			v.Suspects = append(v.Suspects, cluster.Suspect{Node: t, Kernel: m.hears(h.name, t) && !h.thawed && !h.lies})
		}
	}
	v.Unsure = v.Unsure || doubtful(targets, v.Suspects, m.nodes) && !h.lies
	h.thawed = false
	if h.said != nil && len(v.Suspects)+len(h.said.Suspects) == 0 && v.Unsure == h.said.Unsure {
		return
	}
	h.counter++
	h.said, v.Counter = v, h.counter
	m.send(h, func() { m.store.verdicts[h.name], h.spoke = v, m.now })
}

// observers of a node are always the same ones here: nodes do not come or go.
func (m *model) observers(t string) []string {
	list, ok := m.observe[t]
	if !ok {
		list = cluster.ObserversOf(t, m.nodes)
		m.observe[t] = list
	}
	return list
}

// wake has a host look at the store.
func (m *model) wake(h *host) {
	if !h.applying && m.nodes[h.name].Agent {
		h.applying = true
		m.after(m.delay(), func() { h.applying = false; m.apply(h) })
	}
}

// apply makes a host as the records say, and has it report.
func (m *model) apply(h *host) {
	if !h.runs() || h.cut || h.stuck || m.outage {
		return
	}
	h.drops = map[string]bool{}
	for name := range m.store.fences {
		h.drops[name] = true
	}
	if now := m.fenceRevision(); h.confirmed != now {
		h.confirmed = now
		m.send(h, func() { m.store.applied[h.name] = &cluster.FenceStatus{NodeID: h.name, Revision: now} })
	}
	for _, name := range m.movers {
		m.applyEndpoint(h, m.store.endpoints[name])
	}
	m.order(h)
}

func (m *model) fenceRevision() (r int64) {
	for _, f := range m.store.fences {
		r = max(r, f.Revision)
	}
	return r
}

func (m *model) applyEndpoint(h *host, e *Endpoint) {
	if e.Own.Epoch < h.epochs[e.Name] {
		m.problem("%s: the epoch of %s falls from %d to %d", h.name, e.Name, h.epochs[e.Name], e.Own.Epoch)
	}
	h.epochs[e.Name] = e.Own.Epoch
	if m.work[e.Name] != nil {
		m.applyWork(h, e)
		return
	}
	s := &cluster.EndpointStatus{NodeID: h.name, State: cluster.PortStandby, Era: e.Own.Era, Epoch: e.Own.Epoch}
	delete(h.serves, e.Name)
	s.Gated = e.strict()
	switch {
	case e.Own.Node == h.name && e.Own.To != "":
		s.State = cluster.PortReleased
	case h.fails[e.Name]:
		s.State = cluster.PortFailed
	case e.strict() && h.granted.proved[e.Name] != e.Own.Epoch:
	case h.released[e.Name] != 0 && h.released[e.Name] >= e.Own.Epoch:
		s.State = cluster.PortReleased
	case e.Own.Node == h.name && !h.drops[h.name]:
		s.State = cluster.PortReady
		h.serves[e.Name] = e.Own.Epoch
		m.checkOpen()
	}
	if old := e.Reports[h.name]; old != nil && reflect.DeepEqual(old, s) {
		return
	}
	m.send(h, func() {
		now := *m.store.endpoints[e.Name]
		now.Reports = maps.Clone(now.Reports)
		now.Reports[h.name] = s
		m.store.endpoints[e.Name] = &now
	})
}

// changed tells of a write.
func (m *model) changed() {
	m.store.revision++
	for _, name := range m.names {
		m.wake(m.hosts[name])
	}
	m.soon()
}

// candidate is one that has seen nothing yet, whose clock is another.
func (m *model) candidate() *leader {
	l := &leader{judge: New(), offset: time.Duration(m.rng.Int64N(int64(50 * time.Minute))), rate: m.strict.rate(m.rng)}
	l.judge.off = m.off &^ (modelOwn | modelLive)
	return l
}

// elect has another lead: who watched, or, half of the times, one that did not.
func (m *model) elect() {
	l := m.next
	if m.next = m.candidate(); l == nil || m.rng.IntN(2) == 0 {
		l = m.candidate()
	} else {
		l.warm, l.frozen, l.stale = true, false, nil
	}
	m.leader, l.behind = l, true
	m.soon()
}

// soon has the candidates look, when the news has come to them.
func (m *model) soon() {
	for _, l := range []*leader{m.leader, m.next} {
		if l != nil && !l.soon && !l.busy && !l.frozen {
			l.soon = true
			m.after(m.delay(), func() { l.soon = false; m.pass(l) })
		}
	}
}

// pass has a candidate decide. What a leader decides is written a moment later, and it
// waits for that.
func (m *model) pass(l *leader) {
	if l != m.leader && l != m.next || l.frozen || l.busy || m.outage {
		return
	}
	v := m.view(l)
	d := l.judge.Decide(v)
	if l == m.leader {
		m.check(v, d)
	}
	if !d.Again.IsZero() {
		l.again++
		turn := l.again
		m.after(time.Duration(float64(d.Again.Sub(v.Now))/l.rate)+time.Microsecond, func() {
			if turn == l.again {
				m.pass(l)
			}
		})
	}
	if l != m.leader || len(d.Fences)+len(d.Lifts)+len(d.Grants)+len(d.Handovers)+len(m.dropped(v)) == 0 {
		return
	}
	l.busy = true
	m.after(m.delay(), func() {
		l.busy = false
		if l == m.leader && !m.outage {
			m.commit(v, d)
			m.changed()
		}
	})
}

func (m *model) view(l *leader) *View {
	now := begin.Add(l.offset + time.Duration(float64(m.now)*l.rate))
	if l.stale != nil {
		v := *l.stale
		v.Now = now
		return &v
	}
	v := &View{Now: now, Behind: l.behind, Timings: m.t, Nodes: m.nodes, Live: maps.Clone(m.store.live), Underlay: m.addrs,
		Verdicts: maps.Clone(m.store.verdicts), Fences: maps.Clone(m.store.fences), Applied: maps.Clone(m.store.applied)}
	for _, name := range m.movers {
		v.Endpoints = append(v.Endpoints, m.store.endpoints[name])
	}
	l.behind = false
	return v
}

// deafen has who watches hear nothing of the store, and look at what it knows.
func (m *model) deafen() *leader {
	l := m.next
	l.stale = m.view(l)
	return l
}

// doubtful reports whether an observer has to take itself for the cause of so many
// silent targets: they are more than half of all, and in more than one datacenter.
func doubtful(targets []string, silent []cluster.Suspect, nodes map[string]*cluster.Node) bool {
	var places []string
	for _, s := range silent {
		if n := nodes[s.Node]; n != nil && !slices.Contains(places, n.Datacenter) {
			places = append(places, n.Datacenter)
		}
	}
	return 2*len(silent) > len(targets) && len(places) > 1
}
