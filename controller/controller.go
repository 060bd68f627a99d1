package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Config configures a Controller.
type Config struct {
	Store *store.Store     // required; writes as cluster.Controller, no fence
	Name  string           // required: the candidate's name in the leader's record
	Ask   AskFunc          // required: whether a node is where it says
	Log   *zap.Logger      // nil: none
	TTL   time.Duration    // of the leader's lease; default what the failover profile says
	Now   func() time.Time // dates records and counts quarantine; default time.Now
	// Alive is called by the loop, whether this candidate leads or not, before it
	// waits, after each of the leader's writes, and at least every AliveEvery; 0:
	// only when something happened. A loop that is stuck does not call it. nil:
	// nobody is told.
	Alive      func()
	AliveEvery time.Duration
	// Alarm is told at once of what a person should know now: fences, moves that
	// nobody asked for, safe mode. It must not wait. nil: nobody is told.
	Alarm func(cluster.Change)
}

// Waits after a failure: the first, and the longest.
const (
	backoffFirst = 50 * time.Millisecond
	backoffMost  = 5 * time.Second
	// awaitMost is how long the loop waits for its own writes to appear before
	// it asks the store how far it is.
	awaitMost = 2 * time.Second
)

// A leader that has a reason to yields to another server, not often, and does not
// stand again before that one can be elected. If it is not, so be it.
const (
	yieldEvery = 10 * time.Minute
	yieldFor   = 2 * time.Second
)

// Controller is a candidate, and the leader when it is elected.
type Controller struct {
	cfg     Config
	mirror  *store.Mirror
	yielded time.Time // when this one did, the loop's
}

// New checks the configuration and starts nothing.
func New(cfg Config) (*Controller, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("new controller: no store")
	case cfg.Store.As().Role != cluster.Controller:
		return nil, fmt.Errorf("new controller: the store writes as the %s", cfg.Store.As())
	case cfg.Name == "":
		return nil, errors.New("new controller: no name")
	case cfg.Ask == nil:
		return nil, errors.New("new controller: nothing to ask nodes by")
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	cfg.Log = cfg.Log.Named("controller")
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Alive == nil {
		cfg.Alive = func() {}
	}
	if cfg.Alarm == nil {
		cfg.Alarm = func(cluster.Change) {}
	}
	mirror := store.NewMirror(store.MirrorConfig{Store: cfg.Store, Log: cfg.Log, Now: cfg.Now})
	mirror.Follow(cluster.Root)
	return &Controller{cfg: cfg, mirror: mirror}, nil
}

// Run stands for election, leads, and stands again, until ctx ends; then it
// resigns, so that another can take over at once. What it started has ended
// when it returns nil. It may be called once.
func (c *Controller) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	terms := make(chan *term)
	wg.Go(func() { _ = c.mirror.Run(ctx) }) // returns nil always
	wg.Go(func() { c.campaign(ctx, terms) })
	c.loop(ctx, terms)
	return nil
}

// term is the time that this candidate leads.
type term struct {
	*store.Leadership
	pause  time.Duration      // before it stands again, set before giveUp
	giveUp context.CancelFunc // ends it early
}

// campaign hands over a term each time that the candidate is elected.
func (c *Controller) campaign(ctx context.Context, terms chan<- *term) {
	wait := backoffFirst
	for ctx.Err() == nil {
		l, err := store.Campaign(ctx, c.cfg.Store, c.cfg.Name, c.ttl, c.cfg.Now)
		if err != nil {
			if ctx.Err() == nil {
				c.cfg.Log.Warn("cannot stand for election, will retry", zap.Duration("in", wait), zap.Error(err))
				store.Sleep(ctx, wait)
				wait = min(2*wait, backoffMost)
			}
			continue
		}
		wait = backoffFirst
		end, giveUp := context.WithCancel(ctx)
		t := &term{Leadership: l, giveUp: giveUp}
		select {
		case terms <- t:
			select {
			case <-l.Done():
			case <-end.Done():
			}
		case <-ctx.Done():
		}
		gaveUp := end.Err() != nil
		giveUp()
		c.resign(ctx, l)
		if gaveUp && t.pause > 0 {
			store.Sleep(ctx, t.pause)
		}
	}
}

// ttl is how long the lease of a leader is to be, which the failover profile says.
func (c *Controller) ttl(ctx context.Context) time.Duration {
	if c.cfg.TTL != 0 {
		return c.cfg.TTL
	}
	it, err := store.Get[*cluster.Config](ctx, c.cfg.Store, cluster.KeyConfig)
	if err != nil {
		return cluster.ProfileDefault.LeaderLease() // the loop sees whether that is so
	}
	return it.Value.Failover.LeaderLease()
}

// outlived reports whether the failover profile asks for a lease of another length
// than the leader has.
func (c *Controller) outlived(view *store.View, t *term) bool {
	it, ok := store.At[*cluster.Config](view, cluster.KeyConfig)
	return ok && c.cfg.TTL == 0 && it.Value.Failover.LeaderLease() != t.TTL()
}

// yield ends a term for another server's.
func (c *Controller) yield(t *term, to string) {
	c.cfg.Log.Info("another server leads better: nothing that can move is in its datacenter", zap.String("name", to))
	c.yielded, t.pause = c.cfg.Now(), yieldFor
	t.giveUp()
}

// vacate ends the lead of another, which may be elected anew if it is there after all.
func (c *Controller) vacate(ctx context.Context, change store.Change) error {
	_, err := c.cfg.Store.WithTimeout(vacateWithin).Commit(ctx, change)
	if ctx.Err() == nil {
		c.cfg.Log.Warn(change.Why, zap.Error(err))
	}
	return err
}

// resign is bounded, for the store may be gone: then the lease ends by itself.
func (c *Controller) resign(ctx context.Context, l *store.Leadership) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if err := l.Resign(ctx); err != nil {
		c.cfg.Log.Warn("cannot resign, the lease will end by itself", zap.Error(err))
	}
}

// loop feeds the leader. It pulls the mirror while another leads, too, so that
// the view is at hand.
func (c *Controller) loop(ctx context.Context, terms <-chan *term) {
	var (
		lead  *Leader
		lease *term
		ended <-chan struct{}
		asks  = newAsking(c.cfg.Ask)

		memory  = NewMemory()
		vacated = make(chan error, 1)
		under   sync.WaitGroup
	)
	defer under.Wait()
	defer asks.under.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var alive <-chan time.Time
	if c.cfg.AliveEvery > 0 {
		t := time.NewTicker(c.cfg.AliveEvery)
		defer t.Stop()
		alive = t.C
	}
	for {
		view := c.mirror.Pull()
		timer.Stop()
		if lead != nil {
			if d, ok := lead.Pass(ctx, view); ok {
				timer.Reset(d)
			}
			if lead.Retired() || c.outlived(view, lease) {
				lease.giveUp()
			} else if to := lead.Yields(); to != "" && c.cfg.Now().Sub(c.yielded) >= yieldEvery {
				c.yield(lease, to)
			}
			asks.put(ctx, lead)
		} else {
			vacate, d, ok := memory.Watch(view, c.cfg.Now())
			if ok {
				timer.Reset(d)
			}
			if vacate.Ops() > 0 {
				under.Go(func() { vacated <- c.vacate(ctx, vacate) })
			}
		}
		c.cfg.Alive()
		select {
		case <-ctx.Done():
			return
		case <-c.mirror.Changed():
		case <-timer.C:
		case a := <-asks.answers:
			asks.take(a, lead)
		case <-asks.timer.C:
			asks.give(lead)
		case err := <-vacated:
			memory.Vacated(err, c.cfg.Now())
		case <-alive:
		case t := <-terms:
			c.cfg.Log.Info("leading", zap.String("name", c.cfg.Name))
			lead, lease, ended = NewLeader(t.Store, c.cfg.Log, c.cfg.Now, memory), t, t.Done()
			lead.alive, lead.alarm = c.cfg.Alive, c.cfg.Alarm
		case <-ended:
			c.cfg.Log.Info("leading no more", zap.String("name", c.cfg.Name))
			lead, lease, ended = nil, nil, nil
		}
	}
}

func newState() *state {
	return &state{alloc: allocator.New(), confirm: newConfirmations(), memory: NewMemory()}
}
