package controller

import (
	"errors"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

const (
	// lookEvery is how often a candidate looks at what changes at most, while another
	// leads: half of the shortest period of a probe. While all is calm it is calmShare of
	// a keepalive's period: in a large cluster something changes at any moment.
	lookEvery = 100 * time.Millisecond
	calmShare = 4
	// vacateEvery is the least time between two times that a candidate vacates the lead.
	vacateEvery = 10 * time.Second
	// vacateWithin bounds the try to do so.
	vacateWithin = 3 * time.Second
)

// Memory is what a candidate has seen of nodes, whether it leads or not, so that it can
// judge them as soon as it is elected. It is for one goroutine.
type Memory struct {
	judge    *failover.Judge // nil: nothing is judged
	looked   time.Time       // while another leads
	pause    time.Duration   // until the next look, at least
	lists    int             // whole lists that the view had then
	vacated  time.Time       // when this one vacated the lead last
	vacating bool            // that is under way
}

// NewMemory returns that of a candidate which has seen nothing yet.
func NewMemory() *Memory { return &Memory{} }

// decide judges nodes, if there is anything to judge them for; else it returns nil, and
// forgets what it knew: it would be old when it is asked for.
func (m *Memory) decide(w *world, now time.Time, behind bool) *failover.Decision {
	if !w.judges() {
		m.judge = nil
		return nil
	}
	if m.judge == nil {
		m.judge = failover.New()
	}
	v := w.failoverView(now)
	v.Behind = behind
	return m.judge.Decide(v)
}

// Watch is a look of a candidate that does not lead, as Leader.Pass is one of the leader:
// it says in how long to call it again at the latest. A change that is not empty ends the
// lead of another that is lost, and is to be written; Vacated takes what came of it.
func (m *Memory) Watch(v *store.View, now time.Time) (vacate store.Change, again time.Duration, ok bool) {
	if !v.Synced(cluster.Root) {
		return vacate, 0, false
	}
	if left := m.looked.Add(m.pause).Sub(now); left > 0 && left <= m.pause {
		return vacate, left, true
	}
	m.looked, m.pause = now, lookEvery
	lists := v.Lists(cluster.Root)
	d := m.decide(newWorld(v), now, lists != m.lists)
	m.lists = lists
	if d == nil {
		return vacate, 0, false
	}
	if it, has := store.At[*cluster.Config](v, cluster.KeyConfig); has && d.Calm() {
		m.pause = it.Value.Failover.Timings().Keepalive / calmShare
	}
	if !d.Again.IsZero() {
		again, ok = max(d.Again.Sub(now), m.pause), true
	}
	if held, has := store.At[*cluster.Leader](v, cluster.KeyLeader); has && m.mayVacate(d, held.Value.Name, now) {
		m.vacating = true
		vacate.Why = "end the lead of " + held.Value.Name + ", which is lost"
		vacate.Remove(held.Key, held.Mod)
	}
	return vacate, again, ok
}

// Vacated takes what came of a change by Watch. Who leads and writes is not gone: a
// conflict is as good as done, and anything else is tried again.
func (m *Memory) Vacated(err error, now time.Time) {
	m.vacating = false
	if err == nil || errors.Is(err, store.ErrConflict) {
		m.vacated = now
	}
}

// mayVacate reports whether who leads is surely gone: its host is lost by all that failover
// asks for. Its lease would say so, too, but late, and later still if the store has another
// leader, which arms all leases anew. If it leads all the same, another is elected for
// nothing: what it decided is not written any more, and it is not vacated again soon.
func (m *Memory) mayVacate(d *failover.Decision, leader string, now time.Time) bool {
	return d.Nodes[leader].Lost && !m.vacating && (m.vacated.IsZero() || now.Sub(m.vacated) >= vacateEvery)
}
