package sim

import (
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller"
)

const leaderTTL = 10 * time.Second

// candidate is a controller: the leader while it is elected. Frozen, it keeps
// its lead in mind while its lease runs out.
type candidate struct {
	w      *World
	name   string
	link   link
	store  *store.Store
	follow *follower
	lead   *controller.Leader
	memory *controller.Memory
	lease  mvcc.LeaseID
	until  time.Duration // its lease lasts, by its own count
	term   int           // counts its leads, so that what was planned for one ends with it
	awake  bool          // a pass is planned
	looks  int           // of a candidate that does not lead: only the last plans another
	frozen bool
}

func (w *World) newCandidate(name string) *candidate {
	c := &candidate{w: w, name: name, link: link{w: w}}
	c.store = store.New(&c.link, cluster.Identity{Role: cluster.Controller})
	c.start()
	c.campaign()
	return c
}

func (c *candidate) start() {
	c.follow = c.w.newFollower(&c.link, c.store, c.wake)
	c.follow.follow([]string{cluster.Root})
	c.memory = controller.NewMemory()
}

// crash forgets everything; the lease runs out by itself.
func (c *candidate) crash() {
	c.lose()
	c.follow.end()
	c.start()
}

func (c *candidate) lose() {
	c.lead, c.lease = nil, 0
	c.term++
}

// campaign tries to become the leader from time to time.
func (c *candidate) campaign() {
	c.w.in(c.w.upTo(3*time.Second), func() {
		defer c.campaign()
		if c.lead != nil || c.frozen {
			return
		}
		keys, _, err := c.store.Read(c.w.ctx, cluster.KeyLeader)
		if err != nil || len(keys) > 0 && keys[0].Lease != 0 {
			return
		}
		if len(keys) > 0 { // nobody's: no lease would ever end it
			var ch store.Change
			ch.Remove(cluster.KeyLeader, keys[0].ModRevision)
			_, err := c.store.Commit(c.w.ctx, ch)
			c.w.trace("%s clears the leader's key: %v", c, err)
			return
		}
		id, ttl, err := c.link.Grant(c.w.ctx, leaderTTL)
		if err != nil {
			return
		}
		sent := c.w.now
		var ch store.Change
		store.PutLeased(&ch, store.Item[*cluster.Leader]{Key: cluster.KeyLeader}, &cluster.Leader{Name: c.name, Since: cluster.At(c.w.time())}, id)
		rev, err := c.store.Commit(c.w.ctx, ch)
		if err != nil {
			return
		}
		c.term++
		c.lease, c.until = id, sent+ttl-ttl/20
		c.lead = controller.NewLeader(c.store.WithFence(cluster.KeyLeader, rev), zap.NewNop(), c.w.time, c.memory)
		c.renew(c.term)
		c.wake()
	})
}

func (c *candidate) renew(term int) {
	c.w.in(leaderTTL/3, func() {
		if c.term != term {
			return
		}
		defer c.renew(term)
		if c.frozen {
			return
		}
		sent := c.w.now
		ttl, err := c.link.KeepAlive(c.w.ctx, c.lease)
		switch {
		case err == nil:
			c.until = sent + ttl - ttl/20
		case errors.Is(err, mvcc.ErrLeaseNotFound), c.w.now >= c.until:
			c.lose()
		}
	})
}

func (c *candidate) wake() {
	if c.awake {
		return
	}
	c.awake = true
	d := 2 * time.Millisecond // of one that watches; it adds no chance to a world's story
	if c.lead != nil {
		d = c.w.upTo(3 * time.Millisecond)
	}
	c.w.in(d, func() {
		c.awake = false
		c.pass()
	})
}

func (c *candidate) pass() {
	switch {
	case c.frozen:
		return
	case c.lead == nil:
		c.watch()
		return
	}
	term := c.term
	again, ok := c.lead.Pass(c.w.ctx, c.follow.view)
	if c.lead.Retired() {
		c.lose()
		return
	}
	for _, q := range c.lead.Questions() {
		c.ask(q, term)
	}
	if ok {
		c.w.in(again, func() {
			if c.term == term {
				c.wake()
			}
		})
	}
}

// watch is a look of a candidate that does not lead.
func (c *candidate) watch() {
	now := c.memory
	vacate, again, ok := now.Watch(c.follow.view, c.w.time())
	if vacate.Ops() > 0 {
		c.w.in(20*time.Millisecond, func() {
			_, err := c.store.Commit(c.w.ctx, vacate)
			c.w.trace("%s: %s: %v", c, vacate.Why, err)
			if err == nil {
				c.w.vacated++
			}
			now.Vacated(err, c.w.time())
		})
	}
	if ok {
		c.looks++
		look := c.looks
		c.w.in(again, func() {
			if c.looks == look {
				c.wake()
			}
		})
	}
}

// ask puts a question to who is at the address when it arrives.
func (c *candidate) ask(q controller.Question, term int) {
	c.w.in(c.w.upTo(50*time.Millisecond), func() {
		err := c.w.answer(q)
		wait := c.w.upTo(50 * time.Millisecond)
		if err != nil {
			wait = 2 * time.Second
		}
		c.w.in(wait, func() { c.take(q, err, term) })
	})
}

// take gives the leader an answer, when it is not frozen any more.
func (c *candidate) take(q controller.Question, err error, term int) {
	switch {
	case c.term != term:
	case c.frozen:
		c.w.in(time.Second, func() { c.take(q, err, term) })
	default:
		c.lead.Answer(q, err)
		c.wake()
	}
}

// answer is nil if the node's agent runs and its host has the address.
func (w *World) answer(q controller.Question) error {
	for _, n := range w.nodes {
		if n.name == q.Node && n.agent != nil && n.underlay() == q.Address && !w.chance(w.loss) {
			return nil
		}
	}
	return errors.New("no answer")
}

func (c *candidate) String() string { return fmt.Sprintf("candidate %s", c.name) }
