package store

import (
	"context"
	"errors"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

var (
	errOtherCluster = errors.New("the store is another cluster's now")
	errOtherHistory = errors.New("the store went back in time")
)

// mustList reports whether the feed cannot go on from where it was.
func mustList(err error) bool {
	return errors.Is(err, mvcc.ErrCompacted) || OtherHistory(err)
}

// Feed follows one prefix step by step: Begin, then Hear every answer of a
// watch from where Begin said, and Begin again when Hear, Verify or the watch
// fails. It is what a Mirror's goroutines do; a simulation calls it by itself.
// A Feed that has not begun is made by NewFeed. It is for one goroutine.
type Feed struct {
	prefix string
	at     position
	next   string // where the next check goes on
}

// NewFeed returns the Feed of a prefix as Mirror.Follow takes it.
func NewFeed(prefix string) *Feed { return &Feed{prefix: prefix} }

// Prefix is what the feed follows.
func (f *Feed) Prefix() string { return f.prefix }

// Begin reads the prefix whole, or, if it was read before, sees whether the
// store's history still is the one that it knows; v is then up to date as far
// as Watch says. After an error that makes the old position useless, the next
// Begin reads whole.
func (f *Feed) Begin(ctx context.Context, s *Store, v *View) error {
	b, err := f.begin(ctx, s, v.lists)
	if err == nil {
		v.apply(f.prefix, b)
	}
	return err
}

// Watch is the watch whose answers Hear takes.
func (f *Feed) Watch() mvcc.WatchRequest {
	r := rangeOf(f.prefix)
	return mvcc.WatchRequest{Key: r.Key, End: r.End, From: f.at.Revision + 1}
}

// Hear takes one answer of the watch into v.
func (f *Feed) Hear(v *View, w mvcc.WatchResponse) error {
	b, err := f.hear(w)
	if err == nil {
		v.apply(f.prefix, b)
	}
	return err
}

// Verify asks the store whether its history is the one that the feed knows: a
// watch cannot tell. Before Begin there is nothing to ask.
func (f *Feed) Verify(ctx context.Context, s *Store) error {
	if f.at.Revision == 0 {
		return nil
	}
	return f.check(ctx, s)
}

// Lose tells v that there is no contact with the store.
func (f *Feed) Lose(v *View, err error, at time.Time) {
	v.apply(f.prefix, batch{err: err, at: at})
}

// forgetAfter makes the next begin read whole, if it has to.
func (f *Feed) forgetAfter(err error) {
	if mustList(err) {
		f.at = position{}
	}
}

// begin at an old position asks the store first whether its history is still
// the same: a watch would not tell. What l knows already is taken from there.
func (f *Feed) begin(ctx context.Context, s *Store, l *Lists) (batch, error) {
	if f.at.Revision != 0 {
		return batch{}, f.check(ctx, s)
	}
	keys, h, err := s.Read(ctx, f.prefix)
	if err != nil {
		return batch{}, err
	}
	f.at = l.listed(f.prefix, h, keys)
	return batch{list: true, keys: keys, rev: h.Revision}, nil
}

func (f *Feed) check(ctx context.Context, s *Store) (err error) {
	f.next, err = s.check(ctx, f.prefix, f.at, f.next)
	f.forgetAfter(err)
	return err
}

func (f *Feed) hear(w mvcc.WatchResponse) (batch, error) {
	err := w.Err
	if err == nil && w.ClusterID != f.at.ClusterID {
		err = errOtherCluster
	}
	if err != nil {
		f.forgetAfter(err)
		return batch{}, err
	}
	f.at.heard(w)
	return batch{events: w.Events, rev: f.at.Revision}, nil
}

// OtherHistory reports whether an error says that the store is not the one that
// was read: what was read by other feeds is to be read anew, too.
func OtherHistory(err error) bool {
	return errors.Is(err, errOtherCluster) || errors.Is(err, errOtherHistory)
}
