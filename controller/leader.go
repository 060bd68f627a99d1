package controller

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Leader applies what step decides during one term: the controller without its
// loop, which a simulation drives by itself. It is for one goroutine.
type Leader struct {
	store *store.Store
	log   *zap.Logger
	now   func() time.Time
	alive func() // told of each write; a pass may have many
	alarm func(cluster.Change)
	state *state
	tell  digest

	lists   int           // whole lists that the view has had
	ask     bool          // the store has to be asked for its revision
	await   int64         // revision that the view must reach before the next pass
	since   time.Time     // when waiting for it began
	wait    time.Duration // present backoff, 0 after a success
	notYet  time.Time     // no pass before, after a failure
	warned  map[string]bool
	retired bool
}

// NewLeader returns a Leader that writes through s, which is fenced by the
// leader's key (see store.Leadership). now dates records and measures waits. m is what
// this candidate saw before, by the same clock.
func NewLeader(s *store.Store, log *zap.Logger, now func() time.Time, m *Memory) *Leader {
	l := &Leader{store: s, log: log, now: now, alive: func() {}, alarm: func(cluster.Change) {}, state: newState(), ask: true}
	l.state.memory = m
	return l
}

// Retired reports whether the fence did not hold: somebody else leads.
func (l *Leader) Retired() bool { return l.retired }

// Yields names another server that should rather lead, "" if none should.
func (l *Leader) Yields() string { return l.state.seat }

// Pass does what is to be done, if the time has come, and says in how long to
// call it again at the latest. v is a view of cluster.Root; each change of it
// asks for a pass.
func (l *Leader) Pass(ctx context.Context, v *store.View) (again time.Duration, ok bool) {
	if l.retired || !v.Synced(cluster.Root) {
		return 0, false
	}
	if n := v.Lists(cluster.Root); n != l.lists {
		l.lists, l.ask = n, true
		l.state.alloc = allocator.New() // the store may be another, or older
	}
	now := l.now()
	if d := l.notYet.Sub(now); d > 0 {
		return d, true
	}
	if l.await > v.Revision(cluster.Root) && now.Sub(l.since) > awaitMost {
		l.ask = true
	}
	if l.ask && !l.barrier(ctx) {
		return l.fail()
	}
	if l.await > v.Revision(cluster.Root) {
		return awaitMost, true
	}
	return l.pass(ctx, v)
}

// barrier writes the leader's own record again: what was written before, by
// whomever, is in a view that has reached this revision. The revision of a read
// would not do, since a store may hold more than our keys.
func (l *Leader) barrier(ctx context.Context) bool {
	var (
		c   store.Change
		rev int64
	)
	it, err := store.Get[*cluster.Leader](ctx, l.store, cluster.KeyLeader)
	if err == nil {
		store.Put(&c, it, it.Value)
		rev, err = l.store.Commit(ctx, c)
	}
	switch {
	case err == nil:
		if l.tell.by == "" {
			l.introduce(it.Value.Name)
		}
		l.state.alloc.Barrier(rev)
		l.ask, l.await, l.since, l.state.behind = false, rev, l.now(), true
		return true
	case errors.Is(err, store.ErrFenced), errors.Is(err, store.ErrNotFound), cluster.Unreadable(err):
		l.retire()
	case ctx.Err() == nil:
		l.log.Warn("cannot tell how far the store is, will retry", zap.Error(err))
	}
	return false
}

// introduce tells that this leader was elected.
func (l *Leader) introduce(name string) {
	by := cluster.Subject{Kind: cluster.SubjectServer, Name: name}.String()
	if _, err := cluster.ParseSubject(by); err == nil {
		l.tell.by = by
		l.tell.add(l.now(), cluster.Change{Verb: cluster.VerbElected, Key: cluster.Short(cluster.KeyLeader)})
	}
}

func (l *Leader) retire() {
	l.log.Warn("the leader's key is not this leader's any more")
	l.retired = true
}

// pass decides and applies.
func (l *Leader) pass(ctx context.Context, v *store.View) (time.Duration, bool) {
	if l.problems(v); l.retired {
		return 0, false
	}
	effects, again := l.state.step(v, l.now())
	failed := map[string]bool{}
	for i := range effects {
		e := &effects[i]
		if failed[e.group] || l.ask || l.retired {
			e.settle(0, store.ErrConflict) // not tried
			continue
		}
		rev, err := l.store.Commit(ctx, e.change)
		e.settle(rev, err)
		l.alive()
		switch {
		case err == nil:
			l.await, l.since, l.wait = rev, l.now(), 0
			for _, c := range notes(v, &e.change) {
				l.tell.add(l.now(), c)
				if alarming(c.Verb) {
					l.alarm(c)
				}
			}
			l.log.Info("changed records", zap.String("what", e.change.Why),
				zap.Int("writes", e.change.Ops()), zap.Int64("revision", rev))
		case errors.Is(err, store.ErrFenced):
			l.retire()
		case errors.Is(err, store.ErrConflict):
			l.log.Debug("somebody was faster, looking again", zap.String("what", e.change.Why))
			failed[e.group] = true
		case allocator.NotApplied(err):
			l.log.Error("cannot write records", zap.String("what", e.change.Why), zap.Error(err))
			failed[e.group] = true
		default:
			l.log.Warn("outcome of a write is unknown, looking again", zap.String("what", e.change.Why), zap.Error(err))
			l.ask = true
		}
	}
	if len(failed) > 0 {
		l.ask = true
	}
	if l.ask || l.retired {
		return l.fail()
	}
	l.wait = 0
	again = earlier(again, l.history(ctx))
	if l.retired {
		return 0, false
	}
	if !again.IsZero() {
		return max(again.Sub(l.now()), 0), true
	}
	return 0, false
}

// history writes the event that is due, and says when the next is. The next pass
// need not wait for it; one of unknown outcome is not written twice.
func (l *Leader) history(ctx context.Context) time.Time {
	change, again, ok := l.tell.event(l.now())
	if !ok {
		return again
	}
	_, err := l.store.Commit(ctx, change)
	switch {
	case err == nil:
	case errors.Is(err, store.ErrFenced):
		l.retire()
	case allocator.NotApplied(err):
		l.log.Error("cannot write an event", zap.Error(err))
	default:
		l.log.Warn("outcome of writing an event is unknown", zap.Error(err))
	}
	l.tell.told(l.now())
	return time.Time{}
}

// fail postpones the next pass, the first time not at all.
func (l *Leader) fail() (time.Duration, bool) {
	if l.retired {
		return 0, false
	}
	d := l.wait
	l.notYet = l.now().Add(d)
	l.wait = min(max(2*l.wait, backoffFirst), backoffMost)
	return d, true
}

// Questions are those to be put since it was last called, each to be answered
// once by Answer; the answer asks for a pass.
func (l *Leader) Questions() []Question {
	qs := l.state.questions
	l.state.questions = nil
	return qs
}

// Answer takes what came of a question: nil if the node is there.
func (l *Leader) Answer(q Question, err error) {
	one := l.state.confirm.answer(q, err, l.now())
	if one != nil && one.failed == 1 {
		l.log.Warn("cannot confirm an underlay address, will ask again", zap.String("node", q.Node), zap.Stringer("address", q.Address), zap.Error(err))
	}
}

// problems tells once of each record that cannot be read.
func (l *Leader) problems(v *store.View) {
	warned := map[string]bool{}
	for _, p := range v.Problems() {
		if p.Key == cluster.KeyLeader { // somebody wrote over it: it is on no lease
			l.retire()
		}
		if !l.warned[p.Key] {
			l.log.Warn("cannot read a record", zap.String("key", p.Key), zap.String("cause", cluster.CleanText(p.Err.Error())))
		}
		warned[p.Key] = true
	}
	l.warned = warned
}
