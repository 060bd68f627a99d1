package observe

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a store and an observer on it, in a bubble.
type bench struct {
	t    *testing.T
	kv   *mvcc.Memory
	o    *Observer
	stop func()

	mu      sync.Mutex
	silent  map[string]Heard // who does not answer, agent or kernel
	rounds  int
	open    int           // probers
	freeze  time.Duration // of the next round
	stopped bool          // the store: commits wait until they are given up
}

// Round implements Prober.
func (b *bench) Round(targets []Target, heard func(string, bool)) {
	var freeze time.Duration
	defer func() { time.Sleep(freeze) }() // of the bubble's clock
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rounds++
	freeze, b.freeze = b.freeze, 0
	for _, t := range targets {
		if !b.silent[t.Node].Agent {
			heard(t.Node, false)
		}
		if !b.silent[t.Node].Kernel {
			heard(t.Node, true)
		}
	}
}

func (b *bench) Blind() bool { return false }
func (b *bench) Close()      { b.set(func() { b.open-- }) }

func (b *bench) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// stuck is a store that answers no commit while it is stopped.
type stuck struct {
	*mvcc.Memory
	b *bench
}

func (s stuck) Txn(ctx context.Context, r mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	var stopped bool
	s.b.set(func() { stopped = s.b.stopped })
	if stopped {
		<-ctx.Done()
		return mvcc.TxnResponse{}, mvcc.ErrUnavailable
	}
	return s.Memory.Txn(ctx, r)
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, kv: mvcc.NewMemory(mvcc.Config{})}
	for name, n := range town() {
		b.put(cluster.KeyNode(name), n, cluster.Operator)
	}
	return b
}

func (b *bench) put(key string, r cluster.Record, as cluster.Role) {
	b.t.Helper()
	var c store.Change
	store.Set(&c, key, r, nil, 0)
	id := cluster.Identity{Role: as}
	if as == cluster.Agent {
		id.Name = "w"
	}
	if _, err := store.New(b.kv, id).Commit(b.t.Context(), c); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) start() {
	b.t.Helper()
	o, err := New(Config{Node: "w", Store: store.New(stuck{b.kv, b}, cluster.Identity{Role: cluster.Agent, Name: "w"}),
		Open: func(*zap.Logger) (Prober, error) { b.set(func() { b.open++ }); return b, nil }})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan error, 1)
	go func() { done <- o.Run(ctx) }()
	b.o = o
	b.stop = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}

// all observes everybody with a profile.
func (b *bench) all(p cluster.Profile) {
	b.o.Observe(Duty{Scopes: []*Scope{scopeOf("all", "", "a0", "a1", "a2", "b0", "b1", "b2")}, Timings: p.Timings()})
}

func (b *bench) settle(d time.Duration) {
	time.Sleep(d) // of the bubble's clock
	synctest.Wait()
}

// verdict is what the store has, and its counter; "none": nothing.
func (b *bench) verdict() (string, int64) {
	it, err := store.Get[*cluster.Verdicts](b.t.Context(), store.New(b.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyVerdicts("w"))
	if err != nil {
		return "none", 0
	}
	if it.Value.NodeID != "id-w" {
		b.t.Errorf("verdicts %+v", it.Value)
	}
	return say(*it.Value), it.Value.Counter
}

func (b *bench) want(when, want string) (counter int64) {
	b.t.Helper()
	got, counter := b.verdict()
	if got != want {
		b.t.Errorf("%s: verdicts %q, want %q", when, got, want)
	}
	return counter
}

func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

var off = Heard{true, true}

func TestObserver(t *testing.T) {
	for _, p := range []cluster.Profile{cluster.ProfileDefault, cluster.ProfileFast} {
		t.Run(string(p), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				b, timings := newBench(t), p.Timings()
				b.start()
				defer func() { b.stop() }()
				b.settle(time.Minute)
				b.want("nothing to do", "none")
				b.all(p)
				b.settle(timings.Silence() * 2)
				before := b.want("all are well", "")
				b.settle(10 * time.Minute)
				if n := b.want("ten quiet minutes", "") - before; n != 0 {
					t.Errorf("%d verdicts in ten quiet minutes", n)
				}
				b.set(func() { b.silent = map[string]Heard{"b1": off, "a2": {Agent: true}} })
				b.settle(timings.Silence() + timings.Probe*5/4)
				before = b.want("two are silent", "a2/kernel b1")
				b.settle(20 * timings.Probe)
				if n := b.want("later", "a2/kernel b1") - before; n < 18 || n > 22 {
					t.Errorf("counter moved by %d in 20 periods", n)
				}
				b.set(func() { b.silent = nil })
				b.settle(timings.Probe * 5 / 2)
				before = b.want("both are back", "")
				b.settle(time.Minute)
				if n := b.want("later", "") - before; n != 0 {
					t.Errorf("%d verdicts in a quiet minute", n)
				}
			})
		})
	}
}

// TestObserverWakesUp: what a loop that stood still had seen before is not said after.
func TestObserverWakesUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		defer func() { b.stop() }()
		b.all(cluster.ProfileFast)
		b.settle(5 * time.Second)
		b.set(func() { b.silent = map[string]Heard{"b1": off} })
		b.settle(5 * time.Second)
		b.want("before", "b1")
		b.set(func() { b.freeze, b.silent = time.Hour, nil })
		b.settle(time.Hour + 250*time.Millisecond)
		b.want("as it wakes up", "unsure")
		b.settle(2 * time.Second)
		b.want("later", "")
	})
}

// TestObserverWritesNothingLate: while the store stands still, verdicts are dropped,
// and what is said then is what is so then.
func TestObserverWritesNothingLate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		b.start()
		defer func() { b.stop() }()
		b.all(cluster.ProfileFast)
		b.settle(5 * time.Second)
		b.set(func() { b.stopped, b.silent = true, map[string]Heard{"b1": off} })
		b.settle(5 * time.Second)
		b.want("store stands still", "")
		at := b.kv.Revision()
		b.set(func() { b.silent = nil })
		b.settle(time.Second)
		b.set(func() { b.stopped = false })
		b.settle(time.Second)
		b.want("store goes on", "")
		if n := b.kv.Revision() - at; n > 1 {
			t.Errorf("%d writes, want one at most", n)
		}
	})
}

// TestObserverEnds: with nobody to observe nothing is asked, and what was said is taken
// back; another life goes on with the counter.
func TestObserverEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		b.put(cluster.KeyVerdicts("w"), &cluster.Verdicts{NodeID: "id-w", Counter: 1000, Suspects: []cluster.Suspect{{Node: "a1"}}}, cluster.Agent)
		b.start()
		b.all(cluster.ProfileFast)
		b.settle(5 * time.Second)
		if n := b.want("another life", ""); n <= 1000 {
			t.Errorf("counter %d, want more than 1000", n)
		}
		b.set(func() { b.silent = map[string]Heard{"b1": off} })
		b.settle(5 * time.Second)
		b.want("before", "b1")
		for name, do := range map[string]func(){
			"no duty": func() { b.o.Observe(Duty{Timings: cluster.ProfileFast.Timings()}) },
			"nobody has a part": func() {
				b.o.Observe(Duty{Scopes: []*Scope{scopeOf("all", "")}, Timings: cluster.ProfileFast.Timings()})
			},
		} {
			do()
			b.settle(time.Second)
			b.want(name, "")
			rounds := 0
			b.set(func() { rounds = b.rounds })
			b.settle(time.Minute)
			b.set(func() {
				if b.open != 0 || b.rounds != rounds {
					t.Errorf("%s: %d probers open, %d rounds", name, b.open, b.rounds-rounds)
				}
			})
			b.all(cluster.ProfileFast)
			b.settle(5 * time.Second)
			b.want("again", "b1")
		}
		b.stop()
	})
}
