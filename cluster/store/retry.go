package store

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// again begins a feed anew, once, that has lost its list or watch. All feeds of
// a mirror lose the store together, and so do all mirrors of a cluster: so one
// feed tries for all of its mirror, after a pause that grows with each try, and
// the others follow when it has found the store. A store that is away is asked
// little, and one that is back not everything at once.
func (m *Mirror) again(ctx context.Context, f *followed, by *Feed, lost error) error {
	if mustList(lost) {
		m.forget(f)
		m.cfg.Log.Info("listing again", zap.String("prefix", f.prefix), zap.Error(lost))
		Sleep(ctx, m.jitter(m.cfg.Backoff))
		return m.begin(ctx, f, by)
	}
	found := m.lose(f, lost)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-found:
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
		select {
		case <-found: // by who had the turn before
		default:
			return m.try(ctx, f, by, lost)
		}
	}
	Sleep(ctx, m.follow())
	return m.begin(ctx, f, by)
}

// try pauses and begins; the turn is held. The next pause is no shorter than an
// attempt in vain took: where calls hang, they would all hang at any moment.
func (m *Mirror) try(ctx context.Context, f *followed, by *Feed, lost error) error {
	pause := m.pause()
	m.cfg.Log.Warn("no contact with the store, will retry",
		zap.String("prefix", f.prefix), zap.Duration("in", pause), zap.Error(lost))
	if !Sleep(ctx, pause) {
		return ctx.Err()
	}
	start := time.Now()
	err := m.begin(ctx, f, by)
	if err != nil {
		m.mu.Lock()
		m.wait = max(m.wait, min(time.Since(start), m.cfg.MaxBackoff))
		m.mu.Unlock()
	}
	return err
}

// met tells the feeds that wait that the store is there.
func (m *Mirror) met() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.found)
	m.found = make(chan struct{})
}

// lasted ends a watch that began then. After one that was well for a while the
// next pause is the first again; an answer alone does not show that.
func (m *Mirror) lasted(begun time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(begun) > m.cfg.MaxBackoff {
		m.wait = m.cfg.Backoff
	}
}

// pause is how long to wait before the next try; it doubles with each.
func (m *Mirror) pause() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := jitter(m.cfg.Rand, m.wait)
	m.wait = min(2*m.wait, m.cfg.MaxBackoff)
	return d
}

// follow is how long to wait after the store was found: the longer it had been
// away, the more others wait for it.
func (m *Mirror) follow() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Duration(m.cfg.Rand.Int64N(int64(m.wait)/2 + 1))
}
