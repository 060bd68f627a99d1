package store

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// MirrorConfig configures a Mirror. Store is required.
type MirrorConfig struct {
	Store *Store
	Log   *zap.Logger // nil: none
	// VerifyEvery is how often the store is asked whether it still is the one
	// that was read (default 15 s, jittered by a quarter).
	VerifyEvery time.Duration
	// Backoff is the first and largest wait after a failure (default 100 ms
	// and 5 s, jittered by a quarter). One feed waits for all; when it has found
	// the store, the others follow within half the wait.
	Backoff, MaxBackoff time.Duration
	Rand                *rand.Rand       // jitter; nil: a random one
	Now                 func() time.Time // nil: time.Now
}

// Mirror keeps prefixes of the store in memory. Follow names them, Run does
// the work, Changed wakes the reader, who calls Pull for the View. Follow and
// Pull belong to one goroutine; Run, called once, to another.
type Mirror struct {
	cfg     MirrorConfig
	changed chan struct{}
	wake    chan struct{} // Run looks at want again
	turn    chan struct{} // held by the feed that looks for a lost store
	view    *View

	mu    sync.Mutex
	wait  time.Duration // before the next try
	found chan struct{} // closed, and another made, whenever a feed has begun
	queue []batch
	want  map[string]bool
	feeds map[string]*followed // of prefixes in want only
}

// batch is what a feed tells the reader.
type batch struct {
	of     *followed
	list   bool // keys are the whole prefix
	keys   []mvcc.KeyValue
	events []mvcc.Event
	rev    int64
	err    error // contact lost; nil: there is contact
	at     time.Time
}

// NewMirror returns a Mirror that follows nothing yet.
func NewMirror(cfg MirrorConfig) *Mirror {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.VerifyEvery == 0 {
		cfg.VerifyEvery = 15 * time.Second
	}
	if cfg.Backoff == 0 {
		cfg.Backoff = 100 * time.Millisecond
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = 5 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.Rand = newRand(cfg.Rand)
	return &Mirror{
		cfg:     cfg,
		changed: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
		wait:    cfg.Backoff,
		found:   make(chan struct{}),
		view:    NewView(),
		want:    map[string]bool{},
		feeds:   map[string]*followed{},
	}
}

// Changed receives when Pull would bring something new; values coalesce.
func (m *Mirror) Changed() <-chan struct{} { return m.changed }

// Follow makes prefixes the ones that the mirror keeps. A prefix ends with a
// slash, or is one key; none may lie in another. What is no longer followed
// leaves the View at once, what is new appears when it has been read whole.
func (m *Mirror) Follow(prefixes ...string) {
	want := make(map[string]bool, len(prefixes))
	for _, p := range prefixes {
		want[p] = true
	}
	for p := range m.view.sections {
		if !want[p] {
			m.view.Drop(p)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.want = want
	for p, f := range m.feeds {
		if !want[p] { // here and not in Run: it may be wanted again before Run looks
			m.end(f)
		}
	}
	signal(m.wake)
}

// Pull takes in what arrived and returns the View.
func (m *Mirror) Pull() *View {
	m.mu.Lock()
	queue := m.queue
	m.queue = nil
	current := make(map[*followed]bool, len(m.feeds))
	for _, f := range m.feeds {
		current[f] = true
	}
	m.mu.Unlock()
	for _, b := range queue {
		if current[b.of] {
			m.view.apply(b.of.prefix, b)
		}
	}
	return m.view
}

// Run follows until ctx ends; all that it started has ended when it returns
// nil.
func (m *Mirror) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { m.verify(ctx) })
	for {
		m.mu.Lock()
		for p := range m.want {
			if m.feeds[p] == nil {
				m.start(ctx, &wg, p)
			}
		}
		m.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		}
	}
}

// start begins to feed a prefix; m.mu is held.
func (m *Mirror) start(ctx context.Context, wg *sync.WaitGroup, prefix string) {
	ctx, cancel := context.WithCancel(ctx)
	f := &followed{prefix: prefix, cancel: cancel}
	m.feeds[prefix] = f
	wg.Go(func() { m.keep(ctx, f) })
}

// end forgets a feed and all that it has still to tell; m.mu is held.
func (m *Mirror) end(f *followed) {
	f.cancel()
	delete(m.feeds, f.prefix)
}

func (m *Mirror) jitter(d time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return jitter(m.cfg.Rand, d)
}

// newRand is r, or a random one if r is nil.
func newRand(r *rand.Rand) *rand.Rand {
	if r == nil {
		r = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return r
}

// jitter is d, give or take a quarter.
func jitter(r *rand.Rand, d time.Duration) time.Duration {
	return d*3/4 + time.Duration(r.Int64N(int64(d)/2+1))
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Sleep waits for d and reports false if ctx ended first.
func Sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
