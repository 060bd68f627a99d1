package store

import (
	"context"
	"errors"
	"time"
)

var errWatchEnded = errors.New("watch ended")

// followed is one prefix as Run sees it; the steps are its Feed's.
type followed struct {
	prefix string
	cancel context.CancelFunc
	next   string // where verify, which it belongs to, goes on

	// Guarded by Mirror.mu.
	at    position // a clone of its Feed's
	lost  bool     // its list or watch failed, and has not begun again
	stale bool     // the reader was told that there is no contact
}

// keep lists a prefix and watches it, again after every kind of loss.
func (m *Mirror) keep(ctx context.Context, f *followed) {
	by := NewFeed(f.prefix)
	err := m.begin(ctx, f, by)
	for {
		if err == nil {
			err = m.listen(ctx, f, by)
		}
		if ctx.Err() != nil {
			return
		}
		err = m.again(ctx, f, by, err)
	}
}

// begin lists, or goes on from where by was, and tells the other feeds that the
// store is there.
func (m *Mirror) begin(ctx context.Context, f *followed, by *Feed) error {
	b, err := by.begin(ctx, m.cfg.Store, nil)
	if err != nil {
		return err
	}
	m.tell(f, by.at.clone(), b)
	m.met()
	return nil
}

// listen watches until the watch ends.
func (m *Mirror) listen(ctx context.Context, f *followed, by *Feed) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer m.lasted(time.Now())
	for w := range m.cfg.Store.kv.Watch(ctx, by.Watch()) {
		b, err := by.hear(w)
		if err != nil {
			return err
		}
		m.tell(f, by.at.clone(), b)
	}
	return errWatchEnded
}

// tell hands the reader news, and says that there is contact.
func (m *Mirror) tell(f *followed, at position, b batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b.of = f
	f.at, f.lost = at, false
	m.enqueue(b)
}

// forget keeps verify from a feed that is to be listed anew.
func (m *Mirror) forget(f *followed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.at = position{}
}

// lose tells the reader that there is no contact. The channel it returns is
// closed when there is again.
func (m *Mirror) lose(f *followed, err error) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	f.lost = true
	m.enqueue(batch{of: f, err: err, at: m.cfg.Now()})
	return m.found
}

// enqueue leaves out what is no news; m.mu is held.
func (m *Mirror) enqueue(b batch) {
	stale := b.err != nil
	if stale == b.of.stale && b.rev == 0 {
		return
	}
	b.of.stale = stale
	m.queue = append(m.queue, b)
	signal(m.changed)
}
