package store

import (
	"context"
	"errors"
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// verify asks the store from time to time, for one feed by turns, whether it
// still is the one that was read, and whether it is there at all. A watch
// cannot tell: one that waits for a revision which a restored store has not
// reached yet is silent, and so is one whose server is gone.
func (m *Mirror) verify(ctx context.Context) {
	wait := m.cfg.VerifyEvery
	for turn := 0; Sleep(ctx, m.jitter(wait)); turn++ {
		wait = m.cfg.VerifyEvery
		f, at := m.pick(turn)
		if f == nil {
			continue
		}
		var err error
		f.next, err = m.cfg.Store.check(ctx, f.prefix, at, f.next)
		if ctx.Err() != nil {
			return
		}
		m.verified(f, err)
		if err != nil {
			wait = min(wait, m.cfg.MaxBackoff)
		}
	}
}

// pick takes the feeds that have been read in turn; one that is lost asks by
// itself.
func (m *Mirror) pick(turn int) (*followed, position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	read := slices.DeleteFunc(slices.Sorted(maps.Keys(m.feeds)), func(p string) bool { return m.feeds[p].at.Revision == 0 || m.feeds[p].lost })
	if len(read) == 0 {
		return nil, position{}
	}
	f := m.feeds[read[turn%len(read)]]
	return f, f.at
}

// verified draws the conclusion for all feeds: they have one store. Only what
// compaction hides concerns one alone.
func (m *Mirror) verified(checked *followed, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range m.feeds {
		switch {
		case mustList(err):
			if f == checked || !errors.Is(err, mvcc.ErrCompacted) {
				m.end(f)
			}
		case err != nil:
			m.enqueue(batch{of: f, err: err, at: m.cfg.Now()})
		case !f.lost:
			m.enqueue(batch{of: f})
		}
	}
	if mustList(err) {
		m.cfg.Log.Info("listing again", zap.String("prefix", checked.prefix), zap.Error(err))
		signal(m.wake)
	}
}
