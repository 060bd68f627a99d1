package observe

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Config is what New needs.
type Config struct {
	Node   string                                // required: this node's name
	NodeID string                                // of the node's record; "": as its record says
	Store  *store.Store                          // required: writes as the agent of Node
	Open   func(log *zap.Logger) (Prober, error) // nil: the function Open
	Log    *zap.Logger                           // nil: none
}

// Duty is whom to observe, and how.
type Duty struct {
	Scopes  []*Scope // none: nobody
	Timings cluster.FailoverTimings
}

// Observer observes as it is told.
type Observer struct {
	cfg    Config
	log    *zap.Logger
	mirror *store.Mirror
	writer *writer
	kick   chan struct{}

	mu   sync.Mutex
	duty Duty

	// Run's alone.
	judge  judge
	prober Prober
	period time.Duration
	heard  *round
	began  time.Time
	lasts  time.Duration // the round under way; 0: none is
	said   bool          // that no socket can be had
}

// round is what came of one round, so far.
type round struct {
	mu    sync.Mutex
	heard map[string]Heard
}

// New checks cfg and starts nothing.
func New(cfg Config) (*Observer, error) {
	if err := cluster.CheckNodeName(cfg.Node); err != nil {
		return nil, fmt.Errorf("make observer: %w", err)
	}
	if cfg.Store == nil || cfg.Store.As() != (cluster.Identity{Role: cluster.Agent, Name: cfg.Node}) {
		return nil, errors.New("make observer: want a store that writes as the agent of " + cfg.Node)
	}
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Open == nil {
		cfg.Open = Open
	}
	log := cfg.Log.Named("observe")
	return &Observer{cfg: cfg, log: log, kick: make(chan struct{}, 1), writer: newWriter(cfg.Store, cfg.Node, log),
		mirror: store.NewMirror(store.MirrorConfig{Store: cfg.Store, Log: log.Named("mirror")})}, nil
}

// Observe tells what to do from now on. It does not wait, and is safe for concurrent
// use.
func (o *Observer) Observe(d Duty) {
	o.mu.Lock()
	o.duty = d
	o.mu.Unlock()
	select {
	case o.kick <- struct{}{}:
	default:
	}
}

// Run observes until ctx ends; all that it started has ended when it returns nil.
func (o *Observer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.mirror.Run(ctx) })
	g.Go(func() error { o.writer.run(ctx); return nil })
	g.Go(func() error { defer o.stop(); o.loop(ctx); return nil })
	return g.Wait()
}

func (o *Observer) loop(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-o.kick:
			o.retarget()
		case <-o.mirror.Changed():
			o.retarget()
		case <-timer.C:
			if o.lasts != 0 {
				o.tick(time.Now())
			}
		}
		switch {
		case o.lasts != 0:
			timer.Reset(time.Until(o.began.Add(o.lasts)))
		default:
			timer.Stop()
		}
	}
}

// retarget finds out whom to observe.
func (o *Observer) retarget() {
	o.mu.Lock()
	d := o.duty
	o.mu.Unlock()
	if len(d.Scopes) == 0 {
		o.mirror.Follow()
		o.mirror.Pull()
		o.watch("", d.Timings, "", nil)
		return
	}
	o.mirror.Follow(cluster.PrefixNodes)
	view := o.mirror.Pull()
	if !view.Synced(cluster.PrefixNodes) {
		return // as before
	}
	nodes := map[string]*cluster.Node{}
	for it := range store.Below[*cluster.Node](view, cluster.PrefixNodes) {
		nodes[strings.TrimPrefix(it.Key, cluster.PrefixNodes)] = it.Value
	}
	me := nodes[o.cfg.Node]
	if me == nil || o.cfg.NodeID != "" && me.ID != o.cfg.NodeID {
		o.watch("", d.Timings, "", nil)
		return
	}
	o.watch(me.Datacenter, d.Timings, me.ID, TargetsOf(o.cfg.Node, nodes, d.Scopes))
}

// watch observes targets from now on.
func (o *Observer) watch(dc string, t cluster.FailoverTimings, id string, targets []Target) {
	if !slices.EqualFunc(targets, o.judge.targets, func(a, b Target) bool { return a.Node == b.Node }) {
		names := make([]string, len(targets))
		for i, t := range targets {
			names[i] = t.Node
		}
		o.log.Info("observing", zap.Strings("nodes", names))
	}
	o.judge.watch(dc, t.Misses, targets)
	if len(targets) == 0 {
		if o.stop() {
			o.writer.rest()
		}
		return
	}
	o.writer.as(id)
	o.period = t.Probe
	if o.lasts == 0 { // at moments that are not the same for all
		o.began, o.lasts, o.heard = time.Now(), rand.N(o.period)+1, &round{}
		o.judge.fresh = 0
	}
}

// stop asks nobody any more, and reports whether it did.
func (o *Observer) stop() (did bool) {
	did = o.lasts != 0
	o.lasts, o.heard = 0, nil
	if o.prober != nil {
		o.prober.Close()
		o.prober = nil
	}
	return did
}

// tick ends a round, judges, and begins the next.
func (o *Observer) tick(now time.Time) {
	if o.prober != nil {
		late := tardy(o.began, now, o.lasts, o.period)
		if late {
			o.log.Warn("late: what was seen until now does not count", zap.Duration("by", now.Sub(o.began)-o.lasts))
		}
		o.judge.blind = o.prober.Blind()
		o.writer.offer(offer{o.judge.round(late, o.heard.all()), now, o.period})
	} else {
		o.open()
	}
	o.heard = &round{heard: map[string]Heard{}}
	o.began, o.lasts = now, o.period*9/10+rand.N(o.period/5)
	if o.prober != nil {
		o.prober.Round(o.judge.targets, o.heard.add)
	}
}

// open opens the sockets, or tries it again in the next round.
func (o *Observer) open() {
	p, err := o.cfg.Open(o.cfg.Log)
	if err == nil {
		o.prober = p
		return
	}
	if !o.said {
		o.said = true
		o.log.Error("cannot observe other nodes, will retry", zap.Error(err))
	}
}

func (r *round) add(node string, kernel bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.heard[node]
	h.Kernel, h.Agent = h.Kernel || kernel, h.Agent || !kernel
	r.heard[node] = h
}

// all is what came by now. What comes later is in vain.
func (r *round) all() map[string]Heard {
	r.mu.Lock()
	defer r.mu.Unlock()
	heard := r.heard
	r.heard = map[string]Heard{}
	return heard
}
