package watcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// Agent is the host agent. One goroutine, Run's, owns everything below.
type Agent struct {
	cfg    Config
	log    *zap.Logger
	mirror *store.Mirror
	lease  *store.Lease
	host   *hostops.Host
	writer *writer
	cacher *cacher

	memory   *memory
	gatherer gatherer
	links    *links
	reports  map[string]*report // by VPC
	pinged   map[string]string  // by VPC: the ping request last seen

	hold       string              // why no records count
	underlay   []string            // problems of the underlay
	cacheErr   error               // of loading
	host0      hostops.Report      // of the last pass
	reasons    map[string]string   // by VPC, of desire
	repairs    map[string]int      // by VPC, since the start
	node       *cluster.NodeStatus // as last reported
	live       mvcc.LeaseID        // that live/<node> was last put on
	lists      int                 // of hosts/<me>/, to notice a store that was restored
	follow     []string
	nextReport time.Time
	incarnate  string
	started    time.Time

	answers chan answer
	asks    chan ask
	pings   errgroup.Group
}

// answer is a probe that came back.
type answer struct {
	probe probe
	rtt   time.Duration
	err   error
}

// New checks cfg and reads the cache; it starts nothing.
func New(cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("make agent: %w", err)
	}
	host, err := hostops.New(hostops.Config{Driver: cfg.Driver, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	a := &Agent{
		cfg:       cfg,
		log:       cfg.Log,
		mirror:    store.NewMirror(store.MirrorConfig{Store: cfg.Store, Log: cfg.Log.Named("mirror")}),
		lease:     store.NewLease(cfg.Store, cfg.LeaseTTL),
		host:      host,
		writer:    newWriter(cfg.Store, cfg.Log),
		cacher:    newCacher(cfg.Cache),
		gatherer:  gatherer{node: cfg.Node},
		links:     newLinks(cfg.Rand),
		reports:   map[string]*report{},
		pinged:    map[string]string{},
		repairs:   map[string]int{},
		incarnate: fmt.Sprintf("%016x", cfg.Rand.Uint64()),
		answers:   make(chan answer, probeBudget),
		asks:      make(chan ask),
	}
	a.memory, a.cacheErr = loadCache(cfg.Cache, cfg.Node, cfg.NodeID)
	if a.cacheErr != nil {
		a.log.Warn("starting without the last known good state", zap.Error(a.cacheErr))
	}
	return a, nil
}

// Run works until ctx ends; all that it started has ended when it returns, and
// the host's network stays as it is.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.started = a.cfg.Now()
	g, ctx := errgroup.WithContext(ctx)
	a.mirror.Follow(a.gatherer.follow(a.mirror.Pull())...)
	g.Go(func() error { return a.mirror.Run(ctx) })
	g.Go(func() error { return a.lease.Run(ctx) })
	g.Go(func() error { a.writer.run(ctx); return nil })
	g.Go(func() error { a.cacher.run(ctx); return nil })
	if a.cfg.Socket != "" {
		g.Go(func() error { return a.serve(ctx) })
	}
	g.Go(func() error { return a.loop(ctx) })
	err := g.Wait()
	return errors.Join(err, a.pings.Wait())
}

// loop waits for whatever concerns the host and makes a pass.
func (a *Agent) loop(ctx context.Context) error {
	resync := a.cfg.Now().Add(a.cfg.Resync)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	full, look := true, true
	for {
		var next time.Time
		if look {
			next = a.pass(ctx, full)
		} else {
			next = a.prove(ctx)
		}
		full, look = false, true
		if next.IsZero() || next.After(resync) {
			next = resync
		}
		timer.Reset(next.Sub(a.cfg.Now()))
		select {
		case <-ctx.Done():
			return nil
		case <-a.mirror.Changed():
		case <-a.cfg.Driver.Changed():
		case <-a.lease.Changed():
		case <-a.cacher.done:
		case r := <-a.answers:
			if a.answered(ctx, r) {
				a.nextReport = a.cfg.Now()
			}
			look = false
		case q := <-a.asks:
			q.reply <- a.reply(ctx, q)
			look = false
		case <-timer.C:
			look = false
		}
		if now := a.cfg.Now(); !now.Before(resync) {
			resync, full, look = now.Add(a.cfg.Resync), true, true
		}
	}
}

// pass makes the host equal to what the records say, as far as they count, and
// reports. It returns when to look again without being woken.
func (a *Agent) pass(ctx context.Context, full bool) (next time.Time) {
	if a.cacher.settled() {
		a.memory.keep()
	}
	view := a.mirror.Pull()
	if f := a.gatherer.follow(view); !slices.Equal(f, a.follow) {
		a.mirror.Follow(f...)
		a.follow = f
	}
	records := a.gatherer.gather(view)
	hold, changed := a.memory.absorb(records, a.cfg.NodeID, a.cfg.Node)
	if hold != a.hold {
		a.log.Warn("holding", zap.String("reason", hold))
		a.hold = hold
	}
	changed = a.findUnderlay(ctx) || changed
	changed = a.reconcile(ctx, full) || changed
	changed = a.forget(records) || changed
	if changed {
		a.remember()
	}
	a.report(view)
	a.answerPings(ctx, records)
	a.nextReport = a.reportVPCs()
	return earliest(a.probe(ctx), a.nextReport)
}

// prove is the part of a pass that a probe or its time calls for.
func (a *Agent) prove(ctx context.Context) (next time.Time) {
	if !a.nextReport.IsZero() && !a.cfg.Now().Before(a.nextReport) {
		a.nextReport = a.reportVPCs()
	}
	return earliest(a.probe(ctx), a.nextReport)
}

// findUnderlay looks for the underlay addresses among the host's own and
// reports whether they changed. What is lost is kept in memory: tunnels stay
// until something better is known.
func (a *Agent) findUnderlay(ctx context.Context) bool {
	addresses, err := a.cfg.Driver.Addresses(ctx)
	if err != nil {
		a.underlay = []string{err.Error()}
		return false
	}
	u, problems := chooseUnderlay(a.cfg.Underlay, a.cfg.Hint(), addresses, a.memory.Underlay)
	a.underlay = problems
	if len(problems) > 0 {
		u = merge(u, a.memory.Underlay)
	}
	if sameUnderlay(u, a.memory.Underlay) {
		return false
	}
	a.log.Info("underlay is", zap.Stringer("address", u))
	a.memory.Underlay = u
	return true
}

// merge fills the families that u lacks from old.
func merge(u, old cluster.Underlay) cluster.Underlay {
	if u.IPv4 == nil {
		u.IPv4 = old.IPv4
	}
	if u.IPv6 == nil {
		u.IPv6 = old.IPv6
	}
	return u
}

func sameUnderlay(a, b cluster.Underlay) bool {
	same := func(x, y *cluster.UnderlayAddress) bool {
		return x == y || x != nil && y != nil && *x == *y
	}
	return same(a.IPv4, b.IPv4) && same(a.IPv6, b.IPv6)
}

// reconcile makes the kernel equal to memory and reports whether what waited
// to be taken down is gone.
func (a *Agent) reconcile(ctx context.Context, full bool) (gone bool) {
	desired, reasons := a.memory.desire(a.cfg.Node)
	a.reasons = reasons
	a.host0 = a.host.Reconcile(ctx, desired, full)
	for name, n := range a.host0.Repaired {
		a.repairs[name] += n
	}
	a.links.set(a.cfg.Now(), a.targets(desired))
	if len(a.memory.Remove) == 0 {
		return false
	}
	state, err := a.cfg.Driver.Observe(ctx, false)
	if err != nil {
		return false // the report says so already
	}
	left := len(a.memory.Remove)
	a.memory.Remove = slices.DeleteFunc(a.memory.Remove, func(v cluster.VNI) bool { return !state.Carries(v) })
	return len(a.memory.Remove) != left
}

// targets are the links that should answer.
func (a *Agent) targets(d hostops.Desired) map[linkID]target {
	ts := map[linkID]target{}
	for _, v := range d.VPCs {
		members := a.memory.VPCs[v.Name].Members
		for _, t := range v.Tunnels {
			for _, p := range t.Peers {
				ts[linkID{v.Name, p.Node}] = target{to: members[p.Node].VTEP, mtu: v.MTU}
			}
		}
	}
	return ts
}

// forget drops VPCs that were taken down and are assigned no more, with their
// status record, and reports whether there were any.
func (a *Agent) forget(r records) (changed bool) {
	for name, v := range a.memory.VPCs {
		if _, told := r.vpcs[name]; told || !r.synced || !v.Leaving || slices.Contains(a.memory.Remove, v.VNI) {
			continue
		}
		delete(a.memory.VPCs, name)
		delete(a.reports, name)
		delete(a.repairs, name)
		a.writer.put(cluster.KeyVPCStatus(a.cfg.Node, name), nil, 0)
		a.writer.put(cluster.KeyPingResult(a.cfg.Node, name), nil, 0)
		changed = true
	}
	return changed
}

// remember hands memory to the cache file.
func (a *Agent) remember() {
	b, err := json.Marshal(cacheFile{cacheVersion, a.cfg.Node, a.cfg.NodeID, a.memory})
	if err != nil {
		a.log.Error("cannot encode the cache", zap.Error(err))
		return
	}
	a.cacher.put(b)
}

// report writes what this node says of itself, when it changed.
func (a *Agent) report(view *store.View) {
	if n := view.Lists(cluster.PrefixHost(a.cfg.Node)); n != a.lists {
		if a.lists != 0 { // the store lost something: say all again
			a.node, a.live = nil, 0
			clear(a.reports)
		}
		a.lists = n
	}
	if a.mute() {
		return
	}
	s := &cluster.NodeStatus{
		NodeID: a.cfg.NodeID, Underlay: a.memory.Underlay, OS: a.cfg.OS, Version: a.cfg.Version,
		Problems: a.problems(view),
	}
	if a.node == nil || !sameNode(s, a.node) {
		own := *s // encoding cleans texts in place, beside the passes
		a.writer.put(cluster.KeyNodeStatus(a.cfg.Node), &own, 0)
		a.node = s
	}
	if id, ok := a.lease.ID(); ok && id != a.live {
		a.writer.put(cluster.KeyLive(a.cfg.Node), &cluster.Live{
			NodeID: a.cfg.NodeID, BootID: a.cfg.BootID, Incarnation: a.incarnate,
		}, id)
		a.live = id
	}
}

// mute reports whether another machine has our name: then its reports stand.
func (a *Agent) mute() bool { return a.hold == holdTaken }

func sameNode(x, y *cluster.NodeStatus) bool {
	return sameUnderlay(x.Underlay, y.Underlay) && x.OS == y.OS && x.Version == y.Version && slices.Equal(x.Problems, y.Problems)
}

// problems lists what concerns the whole host, one line each.
func (a *Agent) problems(view *store.View) []string {
	var ps []string
	if a.hold != "" {
		ps = append(ps, a.hold)
	}
	ps = append(ps, a.underlay...)
	for _, p := range a.host0.Problems {
		if p.VPC == "" {
			ps = append(ps, p.Reason)
		}
	}
	for _, p := range view.Problems() {
		ps = append(ps, fmt.Sprintf("keeping the last good state: %v", p.Err))
	}
	if a.cacheErr != nil {
		ps = append(ps, a.cacheErr.Error())
	}
	if err := a.cacher.problem(); err != nil {
		ps = append(ps, "a reboot without the control plane would bring back an older state: "+err.Error())
	}
	for i, p := range ps {
		ps[i] = cluster.CleanText(p)
	}
	return ps
}

// reportVPCs writes the reports that are due and returns when the next is.
func (a *Agent) reportVPCs() (next time.Time) {
	if a.mute() {
		return time.Time{}
	}
	now := a.cfg.Now()
	byVPC := a.linksByVPC()
	for _, name := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
		if a.host0.Ready[name] && !a.memory.VPCs[name].kept {
			continue // ready means that a reboot brings it back: soon
		}
		r := a.reports[name]
		if r == nil {
			r = &report{}
			a.reports[name] = r
		}
		s := a.status(name, byVPC[name])
		write, again := r.due(s, now)
		if write {
			s.At = cluster.At(now)
			own := *s // as in report
			a.writer.put(cluster.KeyVPCStatus(a.cfg.Node, name), &own, 0)
			r.wrote(s, now)
		}
		next = earliest(next, again)
	}
	return next
}

// status is the present state of one VPC here.
func (a *Agent) status(name string, links []cluster.Link) *cluster.VPCStatus {
	v := a.memory.VPCs[name]
	s := &cluster.VPCStatus{
		NodeID: a.cfg.NodeID, State: cluster.HostMember, Ready: a.host0.Ready[name],
		VNI: v.VNI, MTU: v.MTU, Repairs: a.repairs[name], Links: links, Ports: a.host0.Ports[name],
	}
	if mine := v.Members[a.cfg.Node]; mine != nil {
		s.VTEP = mine.VTEP
	}
	switch {
	case v.Leaving && slices.Contains(a.memory.Remove, v.VNI):
		s.Ready, s.Reason = false, "taking it down"
	case v.Leaving:
		return &cluster.VPCStatus{NodeID: a.cfg.NodeID, State: cluster.HostLeft}
	case a.hold != "":
		s.State, s.Reason = cluster.HostHolding, a.hold
	case v.hold != "":
		s.State, s.Reason = cluster.HostHolding, v.hold
	case a.reasons[name] != "":
		s.Ready, s.Reason = false, a.reasons[name]
	}
	for _, p := range a.host0.Problems {
		if s.Reason == "" && (p.VPC == name || p.VPC == "") {
			s.Reason = p.Reason
		}
	}
	s.Reason = cluster.CleanText(s.Reason)
	return s
}

func (a *Agent) linksByVPC() map[string][]cluster.Link {
	out := map[string][]cluster.Link{}
	for id, l := range a.links.all {
		out[id.vpc] = append(out[id.vpc], l.report())
	}
	for _, ls := range out {
		slices.SortFunc(ls, func(x, y cluster.Link) int { return strings.Compare(x.Peer, y.Peer) })
	}
	return out
}

// earliest is the earlier of two times; the zero time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
