package watcher

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// Agent is the host agent. It decides: Step, Prove and Answered take what
// happened and return what is to be done, with no goroutine, no clock and no
// I/O but the host's driver. Run feeds them from a store; a simulation feeds
// them from a queue of events. It is for one goroutine at a time.
type Agent struct {
	cfg   Config
	log   *zap.Logger
	host  *hostops.Host
	gater hostops.Gater // nil: this host cannot shut ports by itself

	memory   *memory
	gatherer gatherer
	links    *links
	reports  map[string]*report // by VPC
	pinged   map[string]string  // by VPC: the ping request last seen
	sought   map[string]string  // by VPC: the find request last seen
	casters  map[string]*caster // by VPC, of those with a multicast group
	greetAt  time.Time          // when a group is due to be greeted; zero: never

	fences        fences
	gate          gate
	orders        int64 // of programs of workloads, so far
	duty          duty
	hold          string              // why no records count
	underlay      []string            // problems of the underlay
	loadErr       error               // of the cache, until it holds what the records say
	cached        bool                // the cache was to be written since the records were read
	cacheAt       time.Time           // when a change that waits is to be in the cache; zero: none waits
	saveErr       error               // of the cache
	host0         hostops.Report      // of the last look at the host
	settled       bool                // then all was in place, and nothing is being taken down
	reasons       map[string]string   // by VPC, of desire
	repairs       map[string]int      // by VPC, since the start
	node          *cluster.NodeStatus // as last reported
	live          mvcc.LeaseID        // that live/<node> was last put on
	lists         int                 // of hosts/<me>/, to notice a store that was restored
	follow        []string
	nextReport    time.Time
	waiters       []*waiter                          // questions that are not answered
	unanswered    map[portID]bool                    // attachments that no question has been answered about
	told          map[portID]*cluster.EndpointStatus // as last reported
	requests      map[portID]cluster.Request         // as last written
	announcements []announcement                     // of workloads
	portsAt       time.Time                          // when endpoints need a pass; zero: when something happens
	listening     []string                           // bridges that are listened to
	listenAt      time.Time                          // when claims need a pass; zero: when something happens
	claimed       map[macID]cluster.MACStatus        // as last reported
	drops         map[string]map[string]uint64       // by device and reason, when last counted; nil: never
	floods        map[cluster.VNI]uint64             // frames over the flood limit, when last counted
	storms        map[cluster.VNI]bool               // whether there were more than the time before
	countedAt     time.Time                          // then
	joining       bool                               // some VPC is ready and has not said so
	incarnate     string
	started       time.Time

	save func(path string, b []byte) error // the cache file
	desk *desk                             // of Run, for clients

	now time.Time // of the step under way
	out Effects   // of the step under way
}

// Input is what a pass decides from.
type Input struct {
	Now  time.Time
	View *store.View // of the prefixes that Effects.Follow last named
	Full bool        // read the host anew instead of trusting its events
	// Still says that the host's driver has told of no change since the last
	// step: then the host is not looked at, unless there is something to do.
	Still bool
	Live  mvcc.LeaseID // lease for live/<node>; 0: none yet
	// Kept is the last Keeping.Order of which a renewal has committed, and moved the
	// gate.
	Kept int64
	// Saved says that the cache file holds all that Effects.Cache ever was, or
	// cannot: SaveErr says why.
	Saved   bool
	SaveErr error
	// Own is what the store holds of this node's own records, as ReadOwn read
	// it; nil: nobody looked. It is worth a look as often as the host is.
	Own []mvcc.KeyValue
	// Questions are new ones of clients, and Gone those, by ID, whose client does
	// not wait any more.
	Questions []Question
	Gone      []int64
	Hooked    []HookResult // what came of Effects.Hooks, of this step or earlier ones
}

// Effects is what a step wants to be done, beside what it did to the host.
type Effects struct {
	Follow []string // the prefixes to watch from now on; nil: as before
	Writes []Write  // to the store; a later one of a key takes the place of an earlier one
	Cache  *Content // of the cache file from now on; nil: as before
	Keep   *Keeping // how the live record is renewed from now on; nil: as before
	// Observe is whom to observe from now on, nil: as before.
	Observe *observe.Duty
	Probes  []Probe // echo requests to be sent; Answered takes the answers
	Pings   []PingOrder
	// Hooks are programs to be run, in no order. Each is answered by a HookResult.
	Hooks []HookOrder
	// Answers are for questions, of this step or earlier ones.
	Answers []Answer
	// Moved says that the underlay changed: connections from an address that
	// this host has no more lead nowhere.
	Moved bool
	// Again: Step is to be called at once, a decision of Prove's changed what the
	// host should carry.
	Again bool
	// Look asks for Input.Own soon: the store may have lost what was reported.
	Look bool
	// Next is when to call Prove at the latest, the zero time: never.
	Next time.Time
}

// Write is one record of this node to be put, or deleted if Record is nil.
type Write struct {
	Key    string
	Record cluster.Record
	Lease  mvcc.LeaseID // 0: none
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
		cfg:      cfg,
		log:      cfg.Log,
		host:     host,
		gatherer: gatherer{node: cfg.Node},
		links:    newLinks(cfg.Rand),
		reports:  map[string]*report{},
		pinged:   map[string]string{},
		sought:   map[string]string{},
		casters:  map[string]*caster{},
		repairs:  map[string]int{},

		unanswered: map[portID]bool{},
		told:       map[portID]*cluster.EndpointStatus{},
		requests:   map[portID]cluster.Request{},
		claimed:    map[macID]cluster.MACStatus{},

		incarnate: fmt.Sprintf("%016x", cfg.Rand.Uint64()),
		started:   cfg.Now(),
		save:      saveCache,
		desk:      newDesk(),
	}
	a.gater, _ = cfg.Driver.(hostops.Gater)
	switch {
	case len(cfg.Cached) > 0:
		a.memory, a.loadErr = decodeCache(cfg.Cache, cfg.Cached, cfg.Node, cfg.NodeID)
	case cfg.Cached != nil:
		a.memory = &memory{VPCs: map[string]*vpc{}}
	default:
		a.memory, a.loadErr = loadCache(cfg.Cache, cfg.Node, cfg.NodeID)
	}
	if a.loadErr != nil {
		a.log.Warn("starting without the last known good state", zap.Error(a.loadErr))
	}
	return a, nil
}

// Step makes the host equal to what the records say, as far as they count, and
// reports.
func (a *Agent) Step(ctx context.Context, in Input) Effects {
	a.now, a.out = in.Now, Effects{}
	a.saveErr = in.SaveErr
	if in.Saved {
		a.memory.keep(in.SaveErr != nil)
		for _, w := range a.waiters {
			w.kept = true
		}
		if a.cached && in.SaveErr == nil {
			a.loadErr = nil
		}
	}
	if f := a.gatherer.follow(in.View); !slices.Equal(f, a.follow) {
		a.out.Follow, a.follow = f, f
	}
	records := a.gatherer.gather(in.View)
	hold, changed := a.memory.absorb(records, a.cfg.NodeID, a.cfg.Node)
	if hold != a.hold {
		a.log.Warn("holding", zap.String("reason", hold))
		a.hold = hold
	}
	changed = max(changed, more(a.absorbFences(in.View, records)), more(a.absorbVIPs(in.View, records)), more(a.endLingering()), more(a.absorbEndpoints(in.View)))
	if in.Full && hold == "" && records.synced && !a.memory.Left {
		changed = max(changed, more(a.sweep(in.View)))
	}
	a.takeGrants(in.Kept)
	changed = max(changed, more(a.ask(ctx, in)), more(a.shutPorts(ctx)), more(a.moveWorkloads(in)))
	look := in.Full || !in.Still || !a.settled
	if look || !a.portsAt.IsZero() && !a.now.Before(a.portsAt) {
		changed = max(changed, more(a.lookAtTargets(ctx)))
	}
	if look {
		changed = max(changed, more(a.findUnderlay(ctx)))
	}
	if heard := a.listen(ctx); look || heard || changed != changedNothing {
		changed = max(changed, more(a.reconcile(ctx, in.Full)))
		a.out.Again = a.listen(ctx) || a.out.Again // ports may be gone, or have spoken
	}
	if in.Full && hold == "" && records.synced && !a.memory.Left {
		changed = max(changed, more(a.adopt(ctx, records)))
	}
	changed = max(changed, more(a.forget(records)))
	if a.answer(in.View) {
		changed = max(changed, more(a.reconcile(ctx, false)), changedMore)
	}
	a.lookAtGate(ctx)
	a.reportFences()
	a.announce(ctx)
	if in.Own != nil {
		changed = max(changed, more(a.compareOwn(in.View, in.Own)))
	}
	a.remember(changed)
	if in.Full || changed == changedMore { // round trip times move without being news, links lose their tunnels
		for _, r := range a.reports {
			r.moved = true
		}
	}
	if in.Full {
		a.countRefused()
		a.count(ctx)
	}
	a.report(in.View, in.Live)
	a.duties(records, in.Live)
	a.request()
	a.reportPorts()
	a.reportMACs()
	a.portsAt = a.portsNext()
	a.orderPings(records)
	a.find(ctx, records)
	a.greet()
	a.nextReport = a.reportVPCs()
	a.probe()
	return a.out
}

// Prove is the part of a pass that its time calls for.
func (a *Agent) Prove(now time.Time) Effects {
	a.now, a.out = now, Effects{}
	a.greet()
	if !a.nextReport.IsZero() && !now.Before(a.nextReport) {
		a.nextReport = a.reportVPCs()
	}
	a.remember(changedNothing)
	if due := earliest(a.portsAt, a.listenAt); !due.IsZero() && !now.Before(due) {
		a.out.Again = true
	}
	a.probe()
	return a.out
}

// Answered takes what came of a probe: the round trip time, or why it could not
// be sent. One that is not answered in time the agent itself holds for lost.
// Prove must be called afterwards, once for any number of them.
func (a *Agent) Answered(now time.Time, p Probe, rtt time.Duration, err error) {
	a.outcome(now, p, rtt, err)
}

// outcome tells the schedule what came of a probe, and has it reported if that
// is news.
func (a *Agent) outcome(now time.Time, p Probe, rtt time.Duration, err error) {
	changed := a.links.answer(now, p, rtt, err != nil)
	if changed = a.links.blame(p, err) || changed; !changed {
		return
	}
	link := a.links.known[p.id]
	l := link.report()
	a.log.Info("link is "+string(l.State), zap.String("vpc", p.id.vpc), zap.String("peer", l.Peer),
		zap.Float64("rtt_ms", l.RTT), zap.String("reason", l.Reason), zap.Int("probes", link.asked))
	if r := a.reports[p.id.vpc]; r != nil && r.written != nil && !r.joining() && !r.moved {
		if !news(r.written, l) {
			return
		}
		r.moved = true
	}
	switch known := a.links.count[cluster.LinkUnknown] == 0; {
	case a.joining && !known: // the first report waits for all, or for its time
	case a.joining, a.nextReport.IsZero(), a.nextReport.After(now.Add(reportCoalesce)):
		a.nextReport = now
	} // else the report that is planned says it too
}

// write wants a record of ours to be put, or deleted if r is nil.
func (a *Agent) write(key string, r cluster.Record, lease mvcc.LeaseID) {
	a.out.Writes = append(a.out.Writes, Write{key, r, lease})
}

// probe counts what was not answered in time, and wants the probes sent that are
// due.
func (a *Agent) probe() {
	for p, ok := a.links.lost(a.now); ok; p, ok = a.links.lost(a.now) {
		a.outcome(a.now, p, 0, hostops.ErrNoAnswer)
	}
	a.out.Probes = a.links.due(a.now)
	a.out.Next = earliest(earliest(a.links.again(a.now), a.nextReport), earliest(earliest(a.greetAt, a.cacheAt), earliest(a.portsAt, a.listenAt)))
}

// reconcile makes the kernel equal to memory and reports whether what is to be
// taken down changed.
func (a *Agent) reconcile(ctx context.Context, full bool) (changed bool) {
	if a.memory.leaving() {
		if state, err := a.cfg.Driver.Observe(ctx, full); err == nil { // else the pass below fails, too
			changed = a.memory.seek(state)
		}
	}
	desired, reasons := a.memory.desire(a.cfg.Node)
	a.keep(ctx, full, desired)
	a.cast(desired)
	a.reasons = reasons
	a.host0 = a.host.Reconcile(ctx, desired, full)
	a.host0.Applied = nil // nobody asks, and of a mesh there are thousands
	for name, n := range a.host0.Repaired {
		a.repairs[name] += n
	}
	for name, v := range a.memory.VPCs {
		if r := a.reports[name]; v.confirmed && v.enforce(a.host0.Own[name]) && r != nil {
			r.moved = true
		}
	}
	a.links.set(a.now, a.targets(desired))
	a.settled = len(a.underlay)+len(a.host0.Problems) == 0 && allReady(a.host0.Ready) && !a.memory.leaving()
	if !a.memory.leaving() {
		return changed
	}
	state, err := a.cfg.Driver.Observe(ctx, false)
	if err != nil {
		return changed // the report says so already
	}
	return a.memory.see(state) || changed
}

// keep lets no peer be dropped that the host has, for VPCs of which no records
// have been read since the start: the cache may lack the newest.
func (a *Agent) keep(ctx context.Context, full bool, d hostops.Desired) {
	var state *hostops.State
	for i, v := range d.VPCs {
		if a.memory.VPCs[v.Name].confirmed {
			continue
		}
		if state == nil {
			s, err := a.cfg.Driver.Observe(ctx, full)
			if err != nil {
				return // and nothing will be done
			}
			state = &s
		}
		d.VPCs[i] = state.Keep(v)
		a.memory.VPCs[v.Name].relearn(*state, v.Name)
	}
}

// adopt takes what the host carries into memory, see memory.adopt.
func (a *Agent) adopt(ctx context.Context, r records) (found bool) {
	state, err := a.cfg.Driver.Observe(ctx, false)
	return err == nil && a.memory.adopt(state, r.vpcs)
}

func allReady(vpcs map[string]bool) bool {
	for _, ready := range vpcs {
		if !ready {
			return false
		}
	}
	return true
}

// targets are the links that should answer, each once.
func (a *Agent) targets(d hostops.Desired) iter.Seq[target] {
	return func(yield func(target) bool) {
		for _, v := range d.VPCs {
			m, twice := a.memory.VPCs[v.Name], map[string]bool{}
			for _, t := range v.Tunnels {
				for _, p := range t.Peers {
					if !m.confirmed && m.Members[p.Node] == nil || len(v.Tunnels) > 1 && twice[p.Node] {
						continue
					}
					if len(v.Tunnels) > 1 {
						twice[p.Node] = true
					}
					if !yield(target{linkID{v.Name, p.Node}, p.VTEP, v.MTU}) {
						return
					}
				}
			}
		}
	}
}

// forget drops VPCs that were taken down and are assigned no more, with their
// status record, and reports whether there were any.
func (a *Agent) forget(r records) (changed bool) {
	for name, v := range a.memory.VPCs {
		if _, told := r.vpcs[name]; told || !r.synced || !v.Leaving || !v.gone {
			continue
		}
		delete(a.memory.VPCs, name)
		delete(a.reports, name)
		delete(a.repairs, name)
		a.write(cluster.KeyVPCStatus(a.cfg.Node, name), nil, 0)
		a.write(cluster.KeyPingResult(a.cfg.Node, name), nil, 0)
		a.write(cluster.KeyFindResult(a.cfg.Node, name), nil, 0)
		changed = true
	}
	return changed
}

// remember wants memory to be kept, a change of peers among others that follow
// it: peers come in swarms, and a file for each would cost more than the change.
func (a *Agent) remember(changed change) {
	if changed == changedPeers && a.cacheAt.IsZero() {
		a.cacheAt = a.now.Add(cacheCoalesce + time.Duration(a.cfg.Rand.Int64N(int64(cacheCoalesce/2))))
	}
	if changed == changedMore || !a.cacheAt.IsZero() && !a.now.Before(a.cacheAt) {
		a.out.Cache = a.content()
	}
}

// Unsaved is what the cache file should hold and no Effects.Cache has said yet,
// nil if there is nothing: for whoever ends the agent's work.
func (a *Agent) Unsaved() *Content {
	if a.cacheAt.IsZero() {
		return nil
	}
	return a.content()
}

// content is the cache file's.
func (a *Agent) content() *Content {
	a.cacheAt = time.Time{}
	a.cached = a.memory.ClusterID != ""
	return &Content{cacheFile{cacheVersion, a.cfg.Node, a.cfg.NodeID, a.memory.clone()}}
}

// earliest is the earlier of two times; the zero time is never.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
