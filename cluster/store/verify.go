package store

import (
	"bytes"
	"context"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// verify asks the store whether it still is the one that was read. A watch
// cannot tell: one that waits for a revision which a restored store has not
// reached yet is silent.
func (m *Mirror) verify(ctx context.Context) {
	m.mu.Lock()
	anchor, seen, clusterID := m.newest()
	m.mu.Unlock()
	if seen == 0 {
		return // nothing has been read
	}
	r, err := m.cfg.Store.readPage(ctx, mvcc.RangeRequest{Key: anchor})
	if ctx.Err() != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		for _, f := range m.feeds {
			m.enqueue(batch{feed: f, err: err, at: m.cfg.Now()})
		}
		signal(m.changed)
		return
	}
	if why := m.differs(anchor, seen, clusterID, r); why != nil {
		m.cfg.Log.Warn("listing all anew", zap.Error(why), zap.Int64("revision", r.Revision))
		for p, f := range m.feeds {
			f.cancel()
			delete(m.feeds, p)
		}
		signal(m.wake)
		return
	}
	m.contact()
}

// newest picks the newest key of all feeds; m.mu is held.
func (m *Mirror) newest() (anchor string, seen int64, clusterID uint64) {
	anchor = cluster.KeyConfig
	var mod int64
	for _, f := range m.feeds {
		seen = max(seen, f.seen)
		if f.anchor.ModRevision > mod {
			anchor, mod = f.anchor.Key, f.anchor.ModRevision
		}
	}
	return anchor, seen, m.cluster
}

// differs compares an answer with what the feeds have heard; m.mu is held.
// The anchor may be newer in the store (its event is under way); older, absent
// twice, or other bytes at the same revision mean another history.
func (m *Mirror) differs(anchor string, seen int64, clusterID uint64, r mvcc.RangeResponse) error {
	if r.ClusterID != clusterID {
		return errOtherCluster
	}
	if r.Revision < seen {
		return errWentBack
	}
	for _, f := range m.feeds {
		if f.anchor.Key != anchor {
			continue
		}
		switch {
		case len(r.Keys) == 0:
			if f.missed++; f.missed > 1 {
				return errWentBack
			}
		case r.Keys[0].ModRevision < f.anchor.ModRevision,
			r.Keys[0].ModRevision == f.anchor.ModRevision && !bytes.Equal(r.Keys[0].Value, f.anchor.Value):
			return errWentBack
		default:
			f.missed = 0
		}
	}
	return nil
}

// contact tells the reader that the store answers; m.mu is held.
func (m *Mirror) contact() {
	for _, f := range m.feeds {
		if f.stale {
			m.enqueue(batch{feed: f})
			signal(m.changed)
		}
	}
}
