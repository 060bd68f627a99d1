package sim

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// follower keeps a view by feeds, as a mirror does. What a watch has to tell
// arrives late, in parts, or not at all.
type follower struct {
	w     *World
	link  *link
	store *store.Store
	view  *store.View
	feeds []*follow // by prefix
	wake  func()    // the view may have changed
	turn  int       // of verify
	ended bool
}

type follow struct {
	of     *follower
	feed   *store.Feed
	begun  bool
	coming bool // an answer is on its way
	over   bool // not wanted any more
}

func (w *World) newFollower(l *link, s *store.Store, wake func()) *follower {
	f := &follower{w: w, link: l, store: s, view: w.lists.NewView(), wake: wake}
	w.followers = append(w.followers, f)
	f.verify()
	return f
}

// end stops everything that is on its way.
func (f *follower) end() {
	f.ended = true
	f.w.followers = slices.DeleteFunc(f.w.followers, func(o *follower) bool { return o == f })
}

// follow makes prefixes the ones that are followed.
func (f *follower) follow(prefixes []string) {
	f.feeds = slices.DeleteFunc(f.feeds, func(x *follow) bool {
		x.over = !slices.Contains(prefixes, x.feed.Prefix())
		if x.over {
			f.view.Drop(x.feed.Prefix())
		}
		return x.over
	})
	for _, p := range prefixes {
		if !slices.ContainsFunc(f.feeds, func(x *follow) bool { return x.feed.Prefix() == p }) {
			f.start(p)
		}
	}
}

func (f *follower) start(prefix string) {
	x := &follow{of: f, feed: store.NewFeed(prefix)}
	f.feeds = append(f.feeds, x)
	f.w.follows[prefix] = append(f.w.follows[prefix], x)
	f.begin(x, f.w.upTo(5*time.Millisecond))
}

// begin begins a feed, again and again until it works.
func (f *follower) begin(x *follow, d time.Duration) {
	x.begun, x.coming = false, true
	f.w.in(d, func() {
		if f.ended || x.over {
			return
		}
		if err := x.feed.Begin(f.w.ctx, f.store, f.view); err != nil {
			x.feed.Lose(f.view, err, f.w.time())
			f.begin(x, f.w.upTo(2*time.Second))
			f.wake()
			return
		}
		x.begun, x.coming = true, false
		f.wake()
		f.expect(x)
	})
}

// disconnect ends all watches: they begin again where they were.
func (f *follower) disconnect() {
	for _, x := range f.feeds {
		if x.begun {
			x.feed.Lose(f.view, mvcc.ErrUnavailable, f.w.time())
			f.begin(x, f.w.upTo(2*time.Second))
		}
	}
}

// written says that the store has a new revision.
func (f *follower) written() {
	for _, x := range f.feeds {
		f.expect(x)
	}
}

// expect lets the watch's next answer come.
func (f *follower) expect(x *follow) {
	if !x.begun || x.coming {
		return
	}
	x.coming = true
	d := f.w.upTo(10 * time.Millisecond)
	if f.w.chance(f.w.trouble / 20) {
		d = f.w.upTo(10 * time.Second)
	}
	f.w.in(d, func() {
		if f.ended || x.over || !x.begun {
			return
		}
		x.coming = false
		f.answer(x)
	})
}

func (f *follower) answer(x *follow) {
	resp := f.w.poll(x.feed, f.w.rand.IntN(4))
	switch {
	case f.link.cut, f.w.down:
		resp = mvcc.WatchResponse{Err: mvcc.ErrNoLeader}
	case f.w.chance(f.w.trouble / 50): // the connection broke
		resp = mvcc.WatchResponse{Err: mvcc.ErrUnavailable}
	case f.w.chance(f.w.trouble / 100): // and somebody reads all of it again
		x.over = true
		f.feeds = slices.DeleteFunc(f.feeds, func(o *follow) bool { return o == x })
		f.start(x.feed.Prefix())
		return
	}
	if resp.Err == nil && len(resp.Events) == 0 {
		return
	}
	if err := x.feed.Hear(f.view, resp); err != nil {
		x.feed.Lose(f.view, err, f.w.time())
		f.begin(x, f.w.upTo(2*time.Second))
		f.wake()
		return
	}
	f.wake()
	f.expect(x)
}

// verify asks from time to time whether the store still is the one that was
// read, as a mirror does.
func (f *follower) verify() {
	f.w.in(12*time.Second+f.w.upTo(6*time.Second), func() {
		if f.ended {
			return
		}
		defer f.verify()
		begun := slices.DeleteFunc(slices.Clone(f.feeds), func(x *follow) bool { return !x.begun })
		if len(begun) == 0 {
			return
		}
		x := begun[f.turn%len(begun)]
		f.turn++
		err := x.feed.Verify(f.w.ctx, f.store)
		switch {
		case store.OtherHistory(err): // of all feeds: they have one store
			for _, o := range slices.Clone(f.feeds) {
				o.over = true
			}
			prefixes := make([]string, len(f.feeds))
			for i, o := range f.feeds {
				prefixes[i] = o.feed.Prefix()
			}
			f.feeds = nil
			for _, p := range prefixes {
				f.start(p)
			}
		case err != nil:
			x.feed.Lose(f.view, err, f.w.time())
			f.begin(x, f.w.upTo(2*time.Second))
		}
	})
}
