package store

import (
	"bytes"
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// feed is one followed prefix as Run sees it.
type feed struct {
	prefix string
	cancel context.CancelFunc

	// Guarded by Mirror.mu.
	at    position
	lost  bool // its list or watch failed, and has not begun again
	stale bool // the reader was told that there is no contact
}

// position is how far a feed has come in the store's history, with enough of
// it to know that history again.
type position struct {
	mvcc.Header            // all up to Revision has been told; 0 is nothing
	count       int64      // keys at Revision
	anchor      mvcc.Event // the newest event up to Revision; of a list its newest key
}

// listed is the position after a whole list.
func listed(h mvcc.Header, keys []mvcc.KeyValue) position {
	p := position{Header: h, count: int64(len(keys))}
	for _, kv := range keys {
		if kv.ModRevision > p.anchor.KV.ModRevision {
			p.anchor.KV = kv
		}
	}
	return p
}

// heard moves p past an answer of a watch. An answer with events promises
// nothing about later ones: etcd sends a long backlog in several answers which
// all have the newest revision in their header.
func (p *position) heard(w mvcc.WatchResponse) {
	if len(w.Events) == 0 {
		p.Revision = max(p.Revision, w.Revision)
		return
	}
	for _, e := range w.Events {
		switch {
		case e.Deleted:
			p.count--
		case e.KV.Version == 1:
			p.count++
		}
	}
	p.anchor = w.Events[len(w.Events)-1]
	p.Revision = p.anchor.KV.ModRevision
}

var (
	errOtherCluster = errors.New("the store is another cluster's now")
	errOtherHistory = errors.New("the store went back in time")
	errWatchEnded   = errors.New("watch ended")
)

// mustList reports whether the feed cannot go on from where it was.
func mustList(err error) bool {
	return errors.Is(err, mvcc.ErrCompacted) || errors.Is(err, errOtherCluster) || errors.Is(err, errOtherHistory)
}

// feed lists a prefix and watches it, again after every kind of loss.
func (m *Mirror) feed(ctx context.Context, f *feed) {
	var at position
	wait := m.cfg.Backoff
	for {
		begun := time.Now()
		err := m.step(ctx, f, &at)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > m.cfg.MaxBackoff {
			wait = m.cfg.Backoff
		}
		pause := m.jitter(wait)
		if mustList(err) {
			at = position{}
			m.forget(f)
			m.cfg.Log.Info("listing again", zap.String("prefix", f.prefix), zap.Error(err))
		} else {
			m.lose(f, err)
			m.cfg.Log.Warn("no contact with the store, will retry",
				zap.String("prefix", f.prefix), zap.Duration("in", pause), zap.Error(err))
			wait = min(2*wait, m.cfg.MaxBackoff)
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// step begins at a position, the zero one by reading the prefix whole, and
// watches until the watch ends. At an old position the store is asked first
// whether its history is still the same: a watch would not tell.
func (m *Mirror) step(ctx context.Context, f *feed, at *position) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if at.Revision == 0 {
		keys, h, err := m.cfg.Store.Read(ctx, f.prefix)
		if err != nil {
			return err
		}
		*at = listed(h, keys)
		m.tell(*at, batch{feed: f, list: true, keys: keys, rev: h.Revision})
	} else {
		if err := m.cfg.Store.check(ctx, f.prefix, *at); err != nil {
			return err
		}
		m.tell(*at, batch{feed: f})
	}
	r := rangeOf(f.prefix)
	for w := range m.cfg.Store.kv.Watch(ctx, mvcc.WatchRequest{Key: r.Key, End: r.End, From: at.Revision + 1}) {
		switch {
		case w.Err != nil:
			return w.Err
		case w.ClusterID != at.ClusterID:
			return errOtherCluster
		}
		at.heard(w)
		m.tell(*at, batch{feed: f, events: w.Events, rev: at.Revision})
	}
	return errWatchEnded
}

// check reads the store's history at a position. Compaction hides it:
// ErrCompacted.
func (s *Store) check(ctx context.Context, prefix string, at position) error {
	req := rangeOf(prefix)
	req.Revision, req.CountOnly = at.Revision, true
	r, err := s.readPage(ctx, req)
	switch {
	case errors.Is(err, mvcc.ErrFutureRevision):
		return errOtherHistory
	case err != nil:
		return err
	case r.ClusterID != at.ClusterID:
		return errOtherCluster
	case r.Count != at.count:
		return errOtherHistory
	case at.anchor.KV.Key == "":
		return nil
	}
	r, err = s.readPage(ctx, mvcc.RangeRequest{Key: at.anchor.KV.Key, Revision: at.Revision})
	switch {
	case errors.Is(err, mvcc.ErrFutureRevision):
		return errOtherHistory
	case err != nil:
		return err
	case (len(r.Keys) == 0) != at.anchor.Deleted,
		!at.anchor.Deleted && !same(r.Keys[0], at.anchor.KV):
		return errOtherHistory
	}
	return nil
}

func same(a, b mvcc.KeyValue) bool {
	return a.Key == b.Key && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision &&
		a.Version == b.Version && a.Lease == b.Lease && bytes.Equal(a.Value, b.Value)
}

// tell hands the reader news, and says that there is contact.
func (m *Mirror) tell(at position, b batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.feed.at, b.feed.lost = at, false
	m.enqueue(b)
}

// forget keeps verify from a feed that is to be listed anew.
func (m *Mirror) forget(f *feed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.at = position{}
}

// lose tells the reader that there is no contact.
func (m *Mirror) lose(f *feed, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.lost = true
	m.enqueue(batch{feed: f, err: err, at: m.cfg.Now()})
}

// enqueue leaves out what is no news; m.mu is held.
func (m *Mirror) enqueue(b batch) {
	stale := b.err != nil
	if stale == b.feed.stale && b.rev == 0 {
		return
	}
	b.feed.stale = stale
	m.queue = append(m.queue, b)
	signal(m.changed)
}
