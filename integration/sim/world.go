package sim

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// Config is how large and how bad a world is. The zero value is what the tests
// run.
type Config struct {
	Seed    uint64
	Nodes   int           // at the beginning; default 3
	Trouble time.Duration // how long it lasts, by the world's clock; default a minute
	Quiet   bool          // no faults and no mistakes: only the operator
	// Gentle leaves only what must cost members no frame: faults of the control
	// plane, of agents and of their ways to it; wishes that take nobody out of a
	// VPC. Then it is held to that.
	Gentle bool
	Trace  func(string) // what happens, line by line; nil: nobody wants to know
}

// World is one cluster.
type World struct {
	queue
	cfg  Config
	ctx  context.Context
	rand *rand.Rand
	kv   *mvcc.Memory
	net  *fake.Network

	lists   store.Lists        // of the views
	seen    int64              // the revision up to which what follows is right
	answers map[string]answer  // to those who read lists, by prefix
	touched map[string][]int64 // revisions that changed something, by prefix; of a quiet world
	claims  claims
	claimed map[string]string // by key: of claims

	nodes      []*node // in the order of joining, those that left too
	candidates []*candidate
	vacated    int // how often one ended the lead of another
	followers  []*follower
	follows    map[string][]*follow // of followers, by prefix
	addresses  int
	had        map[netip.Addr]string // whose underlay address it is or was

	operator operator
	services *services // nil: none

	trouble   float64 // how likely what may go wrong goes wrong
	loss      float64 // of a request or an answer
	down      bool    // the store
	snapshots []*mvcc.State

	problems []string
}

var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// New makes a cluster with its first nodes and two candidates.
func New(cfg Config) *World {
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	return newWorld(cfg)
}

// newWorld is New with no node unless cfg says so.
func newWorld(cfg Config) *World {
	if cfg.Trouble == 0 {
		cfg.Trouble = time.Minute
	}
	w := &World{cfg: cfg, ctx: context.Background(), rand: rand.New(rand.NewPCG(cfg.Seed, 0)), net: fake.NewLargeNetwork(), follows: map[string][]*follow{}, touched: map[string][]int64{}, had: map[netip.Addr]string{}}
	w.kv = mvcc.NewMemory(mvcc.Config{Now: w.time})
	w.operator = operator{w: w, wishes: map[string]cluster.Record{}, store: store.New(w.kv, cluster.Identity{Role: cluster.Operator})}
	w.operator.put(cluster.KeyConfig, &cluster.Config{Cluster: "sim", ID: "c1", Era: 1, UnderlayPort: 4789,
		VNIs: cluster.VNIRange{First: 100, Last: 199}, Encryption: "none"})
	for range cfg.Nodes {
		w.operator.addNode()
	}
	for _, name := range []string{"a", "b"} {
		w.candidates = append(w.candidates, w.newCandidate(name))
	}
	w.tick()
	return w
}

// Run lives through the trouble, rests, and returns what is wrong then, or was
// wrong at any time.
func (w *World) Run() []string {
	if !w.cfg.Quiet {
		w.trouble, w.loss = w.rand.Float64(), w.rand.Float64()/20
		w.in(w.upTo(3*time.Second), w.fault)
	}
	if w.cfg.Gentle {
		w.after = (&frames{w: w, up: map[[3]string]bool{}}).check
	}
	w.in(w.upTo(time.Second), w.operator.act)
	w.run(w.cfg.Trouble)
	w.rest()
	w.check()
	return w.problems
}

// rest ends all trouble and gives everything the time it needs: longer than a
// quarantine, a resync and the longest backoff.
func (w *World) rest() {
	w.trace("rest")
	w.trouble, w.loss = 0, 0
	w.mend()
	w.operator.resting = true
	w.run(w.now + 30*time.Second)
	for range 3 { // what was held needs the operator's word, which may need another
		w.operator.putBack()
		w.run(w.now + 100*time.Second)
	}
}

// tick lets leases end.
func (w *World) tick() {
	w.in(500*time.Millisecond, func() {
		before := w.kv.Revision()
		w.kv.Tick()
		if w.kv.Revision() != before {
			w.written()
		}
		w.tick()
	})
}

func (w *World) time() time.Time { return epoch.Add(w.now) }

func (w *World) chance(p float64) bool { return p > 0 && w.rand.Float64() < p }

func (w *World) upTo(d time.Duration) time.Duration {
	return time.Duration(w.rand.Int64N(int64(d) + 1))
}

// written is called after every new revision.
func (w *World) written() {
	events := w.news()
	for _, e := range events {
		w.trace("  %d %s %s", e.KV.ModRevision, cluster.Short(e.KV.Key), cmp.Or(string(e.KV.Value), "deleted"))
	}
	w.neverTwice(events)
	if w.services != nil && w.services.judge != nil {
		w.services.judge.written(events)
	}
	if w.trouble > 0 { // any feed may lose its contact now
		for _, f := range w.followers {
			f.written()
		}
		return
	}
	touched := map[string]bool{}
	for _, e := range events {
		for _, prefix := range prefixes(e) {
			touched[prefix] = true
		}
	}
	for prefix := range ordered(touched) {
		list := slices.DeleteFunc(w.follows[prefix], func(x *follow) bool { return x.over || x.of.ended })
		if len(list) > 0 {
			w.follows[prefix] = list
		} else {
			delete(w.follows, prefix)
		}
		for _, x := range list {
			x.of.expect(x)
		}
	}
}

// prefixes are those that an event's key is of.
func prefixes(e mvcc.Event) []string {
	list := []string{e.KV.Key}
	for i, c := range e.KV.Key {
		if c == '/' {
			list = append(list, e.KV.Key[:i+1])
		}
	}
	return list
}

// news is what happened to the store since it was last called.
func (w *World) news() []mvcc.Event {
	resp := w.kv.Poll(mvcc.WatchRequest{Key: "\x00", End: "\x00", From: w.seen + 1}, 0)
	if resp.Err != nil {
		w.answers, w.claims = nil, nil
	}
	w.seen = w.kv.Revision()
	for _, e := range resp.Events {
		for _, prefix := range prefixes(e) {
			delete(w.answers, prefix)
			if w.cfg.Quiet {
				w.touched[prefix] = append(w.touched[prefix], e.KV.ModRevision)
			}
		}
	}
	return resp.Events
}

// answer is one to a reader of a list.
type answer struct {
	to   mvcc.RangeRequest
	resp mvcc.RangeResponse
}

// list answers a request for the present content of a prefix. What nobody wrote
// to since it was last asked for is not read again.
func (w *World) list(r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	if a, ok := w.answers[r.Key]; ok && a.to == r && w.kv.Revision() == w.seen {
		a.resp.Revision = w.seen
		return a.resp, nil
	}
	resp, err := w.kv.Range(w.ctx, r)
	if err == nil && resp.Revision == w.seen && r.End == mvcc.PrefixEnd(r.Key) {
		if w.answers == nil {
			w.answers = map[string]answer{}
		}
		w.answers[r.Key] = answer{r, resp}
	}
	return resp, err
}

// poll is what a watch of a feed has to tell. In a quiet world, where nothing is
// lost or compacted, revisions that are no news for it are passed over.
func (w *World) poll(f *store.Feed, most int) mvcc.WatchResponse {
	r := f.Watch()
	if w.cfg.Quiet {
		revisions := w.touched[f.Prefix()]
		if i, _ := slices.BinarySearch(revisions, r.From); i < len(revisions) {
			r.From = revisions[i]
		} else {
			r.From = max(r.From, w.seen+1)
		}
	}
	return w.kv.Poll(r, most)
}

func (w *World) trace(format string, args ...any) {
	if w.cfg.Trace != nil {
		w.cfg.Trace(fmt.Sprintf("%9.3f  ", w.now.Seconds()) + fmt.Sprintf(format, args...))
	}
}

// fail notes what must not be.
func (w *World) fail(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.trace("WRONG: %s", text)
	if len(w.problems) < 20 {
		w.problems = append(w.problems, fmt.Sprintf("at %.3f s: %s", w.now.Seconds(), text))
	}
}

func pick[T any](w *World, list []T) T { return list[w.rand.IntN(len(list))] }
