package sim

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/watcher"
)

// node is a host with its agent, and what the agent's loop owns in the product.
type node struct {
	w    *World
	name string
	id   string
	host *fake.Host
	skew time.Duration // of its clock; a process that runs does not see it jump
	link link
	disk *watcher.Content // the cache file; nil: there is none
	can  []string         // how its host carries frames; nil: in all ways
	lie  netip.Addr       // what it says its underlay address is; zero: the truth
	off  bool             // it has no power
	// frozen stops its agent, and leaves the kernel as it is.
	frozen   bool
	boots    int
	attached map[string]bool  // endpoints, as far as clients know
	asked    map[int64]string // by question

	// Of the agent that runs; nil agent: none does.
	agent   *watcher.Agent
	driver  *fake.Driver
	since   time.Duration // the clock's skew when it started
	life    int           // counts agents, so that what was planned for one ends with it
	store   *store.Store
	follow  *follower
	cache   *watcher.Content // not saved yet
	pending map[string]watcher.Write
	sending bool
	lease   mvcc.LeaseID
	awake   bool
	timer   int
	passes  int           // of all agents so far
	full    time.Duration // when the host is to be read anew
	look    bool          // own records are to be read

	in        watcher.Input // questions that were not put yet
	questions int64
	keeping   int   // orders to renew the live record
	kept      int64 // the last of them that was carried out
	counter   int64
}

const resync = time.Minute

func (w *World) newNode(name string) *node {
	n := &node{w: w, name: name, id: "id-" + name, link: link{w: w}, skew: w.upTo(time.Hour), attached: map[string]bool{}, asked: map[int64]string{}}
	if !w.cfg.Quiet && w.chance(0.25) {
		n.can = []string{cluster.CanP2P}
	}
	n.host = w.net.NewHost(hostops.Address{Device: "u0", Prefix: n.nextAddress(), MTU: 1500, Up: true})
	return n
}

// nextAddress is an underlay address that nobody ever had.
func (n *node) nextAddress() netip.Prefix {
	n.w.addresses++
	a := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", n.w.addresses))
	n.w.had[a] = n.name
	return netip.PrefixFrom(a, 64)
}

func (n *node) now() time.Time { return n.w.time().Add(n.since) }

// later plans do for this agent's life only.
func (n *node) later(d time.Duration, do func()) {
	life := n.life
	n.w.in(d, func() { n.when(life, do) })
}

// thawCheck is how often what a frozen agent would have done is tried again.
const thawCheck = 50 * time.Millisecond

// when does what is due as soon as this agent is not frozen.
func (n *node) when(life int, do func()) {
	switch {
	case n.agent == nil || n.life != life:
	case n.frozen:
		n.w.in(thawCheck, func() { n.when(life, do) })
	default:
		do()
	}
}

// start runs an agent, unless one runs.
func (n *node) start() {
	if n.agent != nil || n.off {
		return
	}
	n.life++
	n.since = n.skew
	var err error
	if n.driver, err = n.host.Open(); err != nil {
		n.w.fail("open host of %s: %v", n.name, err)
		return
	}
	cached := []byte{}
	if n.disk != nil {
		if cached, err = n.disk.Encode(); err != nil {
			n.w.fail("read cache of %s: %v", n.name, err)
			return
		}
	}
	underlay := watcher.UnderlaySpec{Device: "u0"}
	if n.lie.IsValid() {
		underlay = watcher.UnderlaySpec{Bind: n.underlay(), Advertise: n.lie}
	}
	n.store = store.New(&n.link, cluster.Identity{Role: cluster.Agent, Name: n.name})
	n.agent, err = watcher.New(watcher.Config{
		Node: n.name, NodeID: n.id, Store: n.store, Driver: n.driver, Underlay: []watcher.UnderlaySpec{underlay},
		Cache: "memory", Cached: cached, BootID: fmt.Sprint("boot-", n.boots), OS: "sim", Version: "sim", Capabilities: n.can, Now: n.now, Rand: rand.New(rand.NewPCG(n.w.rand.Uint64(), 1)),
	})
	if err != nil {
		n.w.fail("start agent of %s: %v", n.name, err)
		return
	}
	n.cache, n.pending, n.sending, n.lease, n.awake, n.full = nil, map[string]watcher.Write{}, false, 0, false, 0
	n.in, n.keeping, n.kept = watcher.Input{}, n.keeping+1, 0
	n.follow = n.w.newFollower(&n.link, n.store, n.wake)
	n.renew(0)
	n.wake()
}

// kill ends the agent: what it had not written is lost, the kernel stays.
func (n *node) kill() {
	if n.agent == nil {
		return
	}
	n.follow.end()
	n.agent, n.cache = nil, nil
	if err := n.driver.Close(); err != nil {
		n.w.fail("close driver of %s: %v", n.name, err)
	}
}

// say has the agent report another address than it has, or the truth: zero.
func (n *node) say(a netip.Addr) {
	if n.lie != a {
		n.lie = a
		n.kill()
		n.start()
	}
}

// powerCycle starts an empty kernel.
func (n *node) powerCycle() {
	n.kill()
	n.host.PowerCycle()
	n.boots++
	n.start()
}

// renew keeps the lease of live/<node>.
func (n *node) renew(d time.Duration) {
	n.later(d, func() {
		const ttl = 15 * time.Second
		defer n.renew(ttl / 3)
		if n.lease == 0 {
			id, _, err := n.link.Grant(n.w.ctx, ttl)
			if err == nil {
				n.lease = id
				n.wake()
			}
			return
		}
		if _, err := n.link.KeepAlive(n.w.ctx, n.lease); errors.Is(err, mvcc.ErrLeaseNotFound) {
			n.lease = 0
		}
	})
}

func (n *node) wake() {
	if n.agent == nil || n.awake {
		return
	}
	n.awake = true
	n.later(n.w.upTo(3*time.Millisecond), func() {
		n.awake = false
		n.step()
	})
}

func (n *node) step() {
	n.passes++
	still := true
	select {
	case <-n.driver.Changed():
		still = false
	default:
	}
	full := n.w.now >= n.full
	if full {
		n.full, n.look = n.w.now+resync, true
		n.later(resync, n.wake)
	}
	in := watcher.Input{Questions: n.in.Questions, Now: n.now(), View: n.follow.view, Full: full, Still: still, Live: n.lease, Kept: n.kept, Saved: n.cache == nil}
	n.in = watcher.Input{}
	if n.look {
		own, err := watcher.ReadOwn(n.w.ctx, n.store, n.name)
		if err == nil {
			in.Own, n.look = own, false
		} else {
			n.later(n.w.upTo(5*time.Second), n.wake)
		}
	}
	n.do(n.agent.Step(n.w.ctx, in))
}

// do carries effects out, in its own time.
func (n *node) do(e watcher.Effects) {
	if e.Follow != nil {
		n.follow.follow(e.Follow)
	}
	if e.Keep != nil {
		n.keep(*e.Keep)
	}
	if len(e.Answers) > 0 {
		n.w.services.answered(n, e.Answers)
	}
	for _, w := range e.Writes {
		n.pending[w.Key] = w
	}
	n.send(n.w.upTo(10 * time.Millisecond))
	if e.Cache != nil {
		n.cache = e.Cache
		n.later(n.w.upTo(200*time.Millisecond), func() {
			if n.cache != nil {
				n.disk, n.cache = n.cache, nil
				n.wake()
			}
		})
	}
	if e.Look {
		n.look = true
		n.wake()
	}
	n.probe(e.Probes)
	n.timer++
	if e.Again { // the step says what is next
		n.wake()
	} else if !e.Next.IsZero() {
		timer := n.timer
		n.later(e.Next.Sub(n.now()), func() {
			if n.timer == timer {
				n.do(n.agent.Prove(n.now()))
			}
		})
	}
}

// send writes what waits, as much as one transaction takes.
func (n *node) send(d time.Duration) {
	if n.sending || len(n.pending) == 0 {
		return
	}
	n.sending = true
	n.later(d, func() {
		n.sending = false
		batch := n.pending
		n.pending = map[string]watcher.Write{}
		var c store.Change
		for _, key := range slices.Sorted(maps.Keys(batch)) {
			batch[key].AddTo(&c)
		}
		_, err := n.store.Commit(n.w.ctx, c)
		switch {
		case err == nil:
			return
		case errors.Is(err, cluster.ErrInvalid):
			n.w.fail("report of %s is refused: %v", n.name, err)
			return
		case errors.Is(err, mvcc.ErrLeaseNotFound): // the next lease brings it again
			maps.DeleteFunc(batch, func(_ string, v watcher.Write) bool { return v.Lease != 0 })
		}
		for key, v := range batch {
			if _, newer := n.pending[key]; !newer {
				n.pending[key] = v
			}
		}
		n.send(n.w.upTo(time.Second))
	})
}

func (n *node) probe(probes []watcher.Probe) {
	for _, p := range probes {
		d, answered := time.Second, false
		err := n.driver.Send(p.Echo(), func(rtt time.Duration) { d, answered = rtt, true })
		if err == nil && !answered {
			err = hostops.ErrNoAnswer
		}
		n.later(d, func() {
			n.agent.Answered(n.now(), p, d, err)
			n.do(n.agent.Prove(n.now()))
		})
	}
}

// underlay is the node's present underlay address.
func (n *node) underlay() netip.Addr {
	return n.host.State().Others["u0"].Addresses[0].Addr()
}
