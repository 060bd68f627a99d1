package store

import (
	"context"
	"errors"
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
	// and 5 s, jittered).
	Backoff, MaxBackoff time.Duration
	Rand                *rand.Rand       // jitter; nil: a random one
	Now                 func() time.Time // nil: time.Now
}

// Mirror keeps prefixes of the store in memory. Follow names them, Run does
// the work, Changed wakes the reader, who calls Pull for the View. Follow,
// Changed and Pull belong to one goroutine; Run to another.
type Mirror struct {
	cfg     MirrorConfig
	changed chan struct{}
	wake    chan struct{} // Run looks at want again
	view    View

	mu      sync.Mutex
	queue   []batch
	want    map[string]bool
	feeds   map[string]*feed
	cluster uint64
}

// feed is one followed prefix as Run sees it.
type feed struct {
	prefix string
	cancel context.CancelFunc

	// Guarded by Mirror.mu.
	seen   int64 // newest revision heard of
	anchor mvcc.KeyValue
	missed int // verifications in a row that did not find the anchor
	stale  bool
}

// batch is what a feed tells the reader.
type batch struct {
	feed   *feed
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
		view:    View{sections: map[string]*section{}},
		want:    map[string]bool{},
		feeds:   map[string]*feed{},
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
			delete(m.view.sections, p)
			m.view.forget(p, func(string) bool { return true })
		}
	}
	m.mu.Lock()
	m.want = want
	m.mu.Unlock()
	signal(m.wake)
}

// Pull takes in what arrived and returns the View.
func (m *Mirror) Pull() *View {
	m.mu.Lock()
	queue := m.queue
	m.queue = nil
	current := make(map[*feed]bool, len(m.feeds))
	for p, f := range m.feeds {
		current[f] = m.want[p]
	}
	m.mu.Unlock()
	for _, b := range queue {
		if current[b.feed] {
			m.view.apply(b)
		}
	}
	return &m.view
}

func (v *View) apply(b batch) {
	s := v.sections[b.feed.prefix]
	if s == nil {
		s = &section{}
		v.sections[b.feed.prefix] = s
	}
	if b.err != nil {
		if s.staleErr == nil {
			s.stale = b.at
		}
		s.staleErr = b.err
		return
	}
	s.staleErr = nil
	if b.list {
		v.replace(b.feed.prefix, b.keys)
		s.synced = true
		s.lists++
	}
	for _, e := range b.events {
		if e.Deleted {
			v.records.Delete(e.KV.Key)
		} else {
			v.put(e.KV)
		}
	}
	if b.rev != 0 {
		s.revision = b.rev
	}
}

// Run follows until ctx ends; all that it started has ended when it returns.
func (m *Mirror) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	verify := time.NewTimer(m.jitter(m.cfg.VerifyEvery))
	defer verify.Stop()
	for {
		m.mu.Lock()
		for p, f := range m.feeds {
			if !m.want[p] {
				f.cancel()
				delete(m.feeds, p)
			}
		}
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
		case <-verify.C:
			m.verify(ctx)
			verify.Reset(m.jitter(m.cfg.VerifyEvery))
		}
	}
}

// start begins to feed a prefix; m.mu is held.
func (m *Mirror) start(ctx context.Context, wg *sync.WaitGroup, prefix string) {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{prefix: prefix, cancel: cancel}
	m.feeds[prefix] = f
	wg.Go(func() { m.feed(ctx, f) })
}

// feed lists a prefix and watches it, again after every kind of loss. A watch
// that only lost its server goes on from where it was.
func (m *Mirror) feed(ctx context.Context, f *feed) {
	var header mvcc.Header // where the next watch begins; zero: list first
	wait := m.cfg.Backoff
	for ctx.Err() == nil {
		err := m.step(ctx, f, &header)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, mvcc.ErrCompacted), errors.Is(err, errOtherCluster):
			m.cfg.Log.Info("listing again", zap.String("prefix", f.prefix), zap.Error(err))
			header = mvcc.Header{}
			continue
		case err == nil:
			wait = m.cfg.Backoff
			continue
		}
		m.push(batch{feed: f, err: err, at: m.cfg.Now()})
		m.cfg.Log.Warn("no contact with the store, will retry",
			zap.String("prefix", f.prefix), zap.Duration("in", wait), zap.Error(err))
		if !sleep(ctx, m.jitter(wait)) {
			return
		}
		wait = min(2*wait, m.cfg.MaxBackoff)
	}
}

// step reads the prefix whole if header is zero, else watches from there until
// the watch ends. It keeps header at the newest revision that it pushed.
func (m *Mirror) step(ctx context.Context, f *feed, header *mvcc.Header) error {
	if header.Revision == 0 {
		keys, h, err := m.cfg.Store.Read(ctx, f.prefix)
		if err != nil {
			return err
		}
		*header = h
		m.listed(f, h, keys)
		m.push(batch{feed: f, list: true, keys: keys, rev: h.Revision})
		return nil
	}
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := rangeOf(f.prefix)
	for w := range m.cfg.Store.kv.Watch(wctx, mvcc.WatchRequest{Key: r.Key, End: r.End, From: header.Revision + 1}) {
		switch {
		case w.Err != nil:
			return w.Err
		case w.ClusterID != header.ClusterID:
			return errOtherCluster
		}
		m.heard(f, w.Header, w.Events)
		header.Revision = max(header.Revision, w.Revision)
		m.push(batch{feed: f, events: w.Events, rev: header.Revision})
	}
	return errWatchEnded
}

var (
	errOtherCluster = errors.New("the store is another cluster's now")
	errWatchEnded   = errors.New("watch ended")
	errWentBack     = errors.New("the store went back in time")
)

// heard notes the newest revision, and the newest key as the feed's anchor.
func (m *Mirror) heard(f *feed, h mvcc.Header, events []mvcc.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.seen = max(f.seen, h.Revision)
	for _, e := range events {
		switch {
		case e.Deleted && e.KV.Key == f.anchor.Key:
			f.anchor = mvcc.KeyValue{}
		case !e.Deleted && e.KV.ModRevision > f.anchor.ModRevision:
			f.anchor, f.missed = e.KV, 0
		}
	}
}

// listed begins the feed's history anew with a whole list.
func (m *Mirror) listed(f *feed, h mvcc.Header, keys []mvcc.KeyValue) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.seen, f.anchor, f.missed = h.Revision, mvcc.KeyValue{}, 0
	m.cluster = h.ClusterID
	for _, kv := range keys {
		if kv.ModRevision > f.anchor.ModRevision {
			f.anchor = kv
		}
	}
}

func (m *Mirror) push(b batch) {
	m.mu.Lock()
	m.enqueue(b)
	m.mu.Unlock()
	signal(m.changed)
}

// enqueue hands b to the reader; m.mu is held.
func (m *Mirror) enqueue(b batch) {
	b.feed.stale = b.err != nil
	m.queue = append(m.queue, b)
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

// sleep waits for d and reports false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
