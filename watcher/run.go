package watcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// runner is the thin loop around an Agent: one goroutine calls it, those of the
// mirror, the lease, the writer, the cacher, the socket and the probes do what
// takes time.
type runner struct {
	agent   *Agent
	cfg     Config
	log     *zap.Logger
	mirror  *store.Mirror
	lease   *store.Lease
	writer  *writer
	prompt  *writer // of what others wait for by the tenth of a second
	keeper  *keeper
	watches *observe.Observer // nil: there is no Prober
	cacher  *cacher
	answers chan answer
	asks    chan ask
	ended   chan struct{} // closed when the loop has ended
	own     chan []mvcc.KeyValue
	look    chan struct{} // asks for own at once
	pings   errgroup.Group
	hooks   *hooker
	placed  bool // Moved was called
}

// answer is a probe that was answered.
type answer struct {
	probe Probe
	rtt   time.Duration
}

// Run works until ctx ends; all that it started has ended when it returns, and
// the host's network stays as it is.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{
		agent:   a,
		cfg:     a.cfg,
		log:     a.log,
		mirror:  store.NewMirror(store.MirrorConfig{Store: a.cfg.Store, Log: a.log.Named("mirror")}),
		lease:   store.NewLease(a.cfg.Store, a.cfg.LeaseTTL),
		writer:  newWriter(a.cfg.Store, a.log),
		prompt:  newWriter(a.cfg.Store, a.log),
		keeper:  newKeeper(a.cfg.Store, a.cfg.Node, a.gater, a.log),
		cacher:  newCacher(a.cfg.Cache, a.save),
		answers: make(chan answer, probeBudget),
		asks:    make(chan ask),
		ended:   make(chan struct{}),
		own:     make(chan []mvcc.KeyValue),
		look:    make(chan struct{}, 1),
		hooks:   newHooker(a.cfg.Hooks, a.log),
	}
	if a.cfg.Prober != nil {
		var err error
		if r.watches, err = observe.New(observe.Config{Node: a.cfg.Node, NodeID: a.cfg.NodeID, Store: a.cfg.Store, Open: a.cfg.Prober, Log: a.log}); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return r.mirror.Run(ctx) })
	g.Go(func() error { return r.lease.Run(ctx) })
	g.Go(func() error { r.writer.run(ctx); return nil })
	g.Go(func() error { r.prompt.run(ctx); return nil })
	g.Go(func() error { r.keeper.run(ctx); return nil })
	if r.watches != nil {
		g.Go(func() error { return r.watches.Run(ctx) })
	}
	saving, end := context.WithCancel(context.WithoutCancel(ctx)) // the last pass is saved, too
	defer end()
	g.Go(func() error { r.cacher.run(saving); return nil })
	if r.cfg.Socket != "" {
		g.Go(func() error { return r.serve(ctx) })
	}
	g.Go(func() error { r.readOwn(ctx); return nil })
	g.Go(func() error {
		defer end()
		defer close(r.ended)
		err := r.loop(ctx)
		if b := a.Unsaved(); b != nil {
			r.cacher.put(b)
		}
		return err
	})
	err := g.Wait()
	return errors.Join(err, r.pings.Wait(), r.hooks.wait())
}

// loop waits for whatever concerns the host and lets the agent decide.
func (r *runner) loop(ctx context.Context) error {
	if r.cfg.Check != nil {
		r.mirror.Follow(r.agent.gatherer.follow(r.mirror.Pull())...)
		if err := r.cfg.Check(ctx); err != nil {
			return err
		}
	}
	resync := r.cfg.Now().Add(r.cfg.Resync)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	full, look, still := true, true, false
	var own []mvcc.KeyValue
	var asked Input // questions, and who is gone
	var hears <-chan struct{}
	if l, can := r.cfg.Driver.(hostops.Listener); can {
		hears = l.Hears()
	}
	for {
		var e Effects
		if look {
			select {
			case <-r.cfg.Driver.Changed():
				still = false
			default:
			}
			in := r.input(full)
			r.agent.desk.take(&asked)
			in.Still, in.Own, in.Questions, in.Gone, in.Hooked = still, own, asked.Questions, asked.Gone, asked.Hooked
			asked = Input{}
			e = r.agent.Step(ctx, in)
			still = true
		} else {
			e = r.agent.Prove(r.cfg.Now())
		}
		full, look, own = false, true, nil
		next := earliest(e.Next, resync)
		if unsent := r.do(ctx, e); unsent {
			next = r.cfg.Now()
		}
		if e.Again {
			continue
		}
		r.cfg.Alive()
		if r.cfg.AliveEvery > 0 {
			next = earliest(next, r.cfg.Now().Add(r.cfg.AliveEvery))
		}
		timer.Reset(next.Sub(r.cfg.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-r.mirror.Changed():
		case <-r.cfg.Driver.Changed():
			still = false
		case <-hears:
		case <-r.lease.Changed():
		case <-r.cacher.done:
		case <-r.keeper.changed:
		case own = <-r.own:
		case c := <-r.agent.desk.calls:
			r.agent.desk.admit(&asked, c)
		case h := <-r.hooks.results:
			asked.Hooked = append(asked.Hooked, h)
		case id := <-r.agent.desk.gone:
			r.agent.desk.dismiss(&asked, id)
		case a := <-r.answers:
			r.agent.Answered(r.cfg.Now(), a.probe, a.rtt, nil)
			look = false
		case q := <-r.asks:
			body, err := q.of(ctx)
			q.reply <- reply{body, err}
			look, still = false, false // it may have taken the driver's events
		case <-timer.C:
			look = false
		}
		r.takeAnswers()
		if now := r.cfg.Now(); !now.Before(resync) {
			resync, full, look = now.Add(r.cfg.Resync), true, true
		}
	}
}

// ownRetry is how long readOwn waits after a failure.
const ownRetry = 5 * time.Second

// readOwn reads this node's own records when asked, and from time to time, not
// at the same moment as all other nodes.
func (r *runner) readOwn(ctx context.Context) {
	wait := r.cfg.Resync
	for {
		t := time.NewTimer(wait*3/4 + rand.N(wait/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-r.look:
			t.Stop()
		case <-t.C:
		}
		wait = r.cfg.Resync
		keys, err := ReadOwn(ctx, r.cfg.Store, r.cfg.Node)
		if err != nil {
			r.log.Debug("cannot read own records", zap.Error(err)) // the mirror says more, and tries
			wait = min(wait, ownRetry)
			continue
		}
		select {
		case r.own <- keys:
		case <-ctx.Done():
		}
	}
}

func (r *runner) input(full bool) Input {
	in := Input{Now: r.cfg.Now(), View: r.mirror.Pull(), Full: full, Saved: r.cacher.settled(), SaveErr: r.cacher.problem()}
	in.Kept = r.keeper.carried()
	if id, ok := r.lease.ID(); ok {
		in.Live = id
	}
	return in
}

// do hands effects to those who carry them out. unsent: the agent was told of a
// probe that could not be sent.
func (r *runner) do(ctx context.Context, e Effects) (unsent bool) {
	if (e.Moved || !r.placed) && r.cfg.Moved != nil {
		r.cfg.Moved(r.agent.memory.Underlay)
	}
	r.placed = true
	if e.Follow != nil {
		r.mirror.Follow(e.Follow...)
	}
	if e.Observe != nil && r.watches != nil {
		r.watches.Observe(*e.Observe)
	}
	if e.Keep != nil {
		r.keeper.keep(*e.Keep)
	}
	for _, w := range e.Writes {
		if l, is := w.Record.(*cluster.Live); is {
			l.Counter, l.Grant = r.keeper.said() // put on another lease it is no sign of life
		}
		if w.Key == cluster.KeyFenceStatus(r.cfg.Node) || strings.HasPrefix(w.Key, cluster.PrefixStatus(r.cfg.Node)+"macs/") {
			r.prompt.put(w)
			continue
		}
		r.writer.put(w)
	}
	r.agent.desk.give(e.Answers)
	if e.Cache != nil {
		r.cacher.put(e.Cache)
	}
	for _, p := range e.Probes {
		if err := r.probe(p); err != nil {
			r.agent.Answered(r.cfg.Now(), p, 0, err)
			unsent = true
		}
	}
	for _, o := range e.Hooks {
		r.hooks.start(ctx, o)
	}
	for _, o := range e.Pings {
		r.ping(ctx, o)
	}
	if e.Look {
		wake(r.look)
	}
	return unsent
}

// takeAnswers takes the answers that wait: before the agent looks which probes
// have not been answered in time.
func (r *runner) takeAnswers() {
	for {
		select {
		case a := <-r.answers:
			r.agent.Answered(r.cfg.Now(), a.probe, a.rtt, nil)
		default:
			return
		}
	}
}
