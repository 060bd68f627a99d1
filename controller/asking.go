package controller

import (
	"context"
	"sync"
	"time"
)

// gatherFor is how long the first answers wait for others that are under way, so
// that nodes that come together cost one pass and are taken in order.
const gatherFor = 10 * time.Millisecond

// asking puts a leader's questions, each in a goroutine of its own, of which
// there are asksAtOnce at most for each leader.
type asking struct {
	ask     AskFunc
	answers chan answered
	under   sync.WaitGroup
	away    int // questions that are under way
	got     []answered
	timer   *time.Timer // runs while answers wait for others
}

// answered is what came of a question of a leader, who may have retired since.
type answered struct {
	by  *Leader
	q   Question
	err error
}

func newAsking(ask AskFunc) *asking {
	a := &asking{ask: ask, answers: make(chan answered, asksAtOnce), timer: time.NewTimer(0)}
	a.timer.Stop()
	return a
}

// put starts what the leader wants to know.
func (a *asking) put(ctx context.Context, by *Leader) {
	for _, q := range by.Questions() {
		a.away++
		a.under.Go(func() {
			err := a.ask(ctx, q)
			select {
			case a.answers <- answered{by, q, err}:
			case <-ctx.Done():
			}
		})
	}
}

// take keeps an answer, and gives the leader all of them when none is under way.
func (a *asking) take(one answered, lead *Leader) {
	if len(a.got) == 0 {
		a.timer.Reset(gatherFor)
	}
	a.away--
	if a.got = append(a.got, one); a.away == 0 {
		a.give(lead)
	}
}

// give tells the leader what was answered to it.
func (a *asking) give(lead *Leader) {
	a.timer.Stop()
	for _, one := range a.got {
		if one.by == lead {
			lead.Answer(one.q, one.err)
		}
	}
	a.got = nil
}
