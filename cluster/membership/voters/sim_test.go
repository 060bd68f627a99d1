package voters

import (
	"fmt"
	"math/bits"
	"testing"
	"time"
)

// TestHistories lives through thousands of clusters: servers join, die, come
// back, are cut off, hidden or removed, leaders change and clocks jump, also
// between a decision and its effect. After each history all is let be as it is,
// then healed, and both times it comes to rest as well as it can be.
func TestHistories(t *testing.T) {
	seeds := 1000
	if testing.Short() {
		seeds = 200
	}
	steps, lost := 0, 0
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newModel(t, uint64(seed))
			for range 30 + w.rand.IntN(1000) {
				w.tick(true)
			}
			w.rest()
			if !w.quorate() {
				lost++
			}
			for _, m := range w.machines {
				m.up, m.cut, m.hidden = true, false, false
				w.events++
			}
			w.log("all is well")
			w.rest()
			if !w.quorate() {
				w.fail("no quorum of servers that are all well")
			}
			steps += w.steps
		})
	}
	if steps < 5*seeds {
		t.Errorf("%d steps in %d histories: they test little", steps, seeds)
	}
	t.Logf("%d histories, %d steps, %d without quorum in between", seeds, steps, lost)
}

// judge holds a decision against what is known when it is made.
func (w *model) judge(d Decision) {
	if len(d.Why) != len(w.machines) {
		w.fail("%d sentences for %d servers", len(d.Why), len(w.machines))
	}
	m := w.named(d.Step.Server)
	if d.Step.Kind == None {
		return
	}
	if votes, _ := w.count(); w.visible() < quorum(votes) {
		w.fail("%v with %d of %d voters in sight", d.Step, w.visible(), votes)
	}
	patience := simGrace - int(maxGap/time.Second)*w.jumps
	if d.Step.Kind == Remove && m.removed && (m.role == Learner || !m.seen()) {
		return
	}
	for _, n := range w.machines {
		if n.role == Voter && !n.removed && !n.seen() && n.silent <= patience {
			w.fail("%v while the fate of %s is open", d.Step, n.name)
		}
	}
	if d.Step.Kind == Promote && (m.removed || m.behind > 0 || !m.seen()) {
		w.fail("%v of %+v", d.Step, m)
	}
	if d.Step.Kind == Remove && !m.removed && (m.role != Voter || !m.seen() && m.silent < patience) {
		w.fail("%v of %+v", d.Step, m)
	}
}

// rest is what holds when nothing has happened for long.
func (w *model) rest() {
	before := w.steps
	for quiet := 0; quiet < simQuiet; quiet++ {
		was := w.steps
		w.tick(false)
		if w.steps > was {
			quiet = 0
		}
		if n := w.steps - before; n > 4*len(w.machines) {
			w.fail("%d steps without an event", n)
		}
	}
	if w.steps > 8+4*w.events {
		w.fail("%d steps for %d events", w.steps, w.events)
	}
	votes, _ := w.count()
	if !w.quorate() || w.visible() < quorum(votes) {
		return
	}
	if votes%2 == 0 || votes > w.policy.MaxVoters {
		w.fail("%d voters at rest", votes)
	}
	well, deadVotes, now := 0, 0, 0
	for i, m := range w.machines {
		if m.role == Learner && m.removed || m.role == Voter && m.removed && votes > 1 {
			w.fail("%s is still there", m.name)
		}
		if m.seen() && !m.removed {
			well |= 1 << i
		}
		if m.role == Voter {
			now |= 1 << i
			if !m.seen() {
				deadVotes++
			}
		}
	}
	fatal, spare, least := w.fatal(now, well), w.spare(now, well), len(w.machines)
	for set := well; set > 0; set = (set - 1) & well {
		if size := bits.OnesCount(uint(set)); size%2 == 0 || size > w.policy.MaxVoters {
			continue
		}
		least = min(least, w.fatal(set, well))
		if spare < 1 && w.spare(set, well) >= 1 {
			w.fail("no server may fail; of %b one could", set)
		}
	}
	// Nobody who answers loses the vote to make some datacenters' loss survivable
	// and others' not, so that with a dead voter among them there may be more.
	if fatal > least && (least == 0 || deadVotes == 0 && now&^well == 0) {
		w.fail("the loss of %d datacenters is too much, with others voting of %d", fatal, least)
	}
}

// fatal counts the datacenters whose loss leaves voters of set that are well and
// no quorum.
func (w *model) fatal(set, well int) int {
	n := 0
	for _, dc := range []string{"a", "b", "c", "d"} {
		left, hit := 0, false
		for i, m := range w.machines {
			if set&well>>i&1 == 1 {
				hit = hit || m.dc == dc
				if m.dc != dc {
					left++
				}
			}
		}
		if hit && left < quorum(bits.OnesCount(uint(set))) {
			n++
		}
	}
	return n
}

func (w *model) spare(set, well int) int {
	return bits.OnesCount(uint(set&well)) - quorum(bits.OnesCount(uint(set)))
}
