package voters

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// In the histories a tick is a second.
const (
	simGrace  = 20
	simSteady = 5
	simQuiet  = simGrace + simSteady + 60 // ticks in which all that is under way ends
)

// machine is a server of the model, as it is and not as a leader sees it.
type machine struct {
	name, dc string
	witness  bool
	role     Role
	up       bool
	cut      bool // from the others
	hidden   bool // the leader cannot see it, raft can
	behind   int  // ticks until a learner is caught up
	rejoin   int  // ticks until a server that is no member is a learner
	removed  bool
	silent   int // ticks for which the present leader has not seen it
}

func (m *machine) works() bool { return m.up && !m.cut }
func (m *machine) seen() bool  { return m.works() && !m.hidden }

// model is etcd's membership, and a leader that decides every tick.
type model struct {
	t        *testing.T
	rand     *rand.Rand
	policy   Policy
	machines []*machine
	watch    Watch
	led      bool
	gentle   bool
	calm     int // a tick in so many has an event
	jumps    int // of the clock, that the present leader saw
	events   int
	steps    int
	trace    []string
}

func newModel(t *testing.T, seed uint64) *model {
	w := &model{t: t, rand: rand.New(rand.NewPCG(seed, 0)), policy: Policy{Grace: simGrace * time.Second, Stabilization: simSteady * time.Second}}
	w.policy.MaxVoters = []int{5, 5, 5, 3, 7}[w.rand.IntN(5)]
	w.gentle, w.calm = w.rand.IntN(4) > 0, 3+w.rand.IntN(40)
	dcs := 1 + w.rand.IntN(4)
	for i := range 1 + w.rand.IntN(7) {
		dc := string(rune('a' + w.rand.IntN(dcs)))
		w.machines = append(w.machines, &machine{name: fmt.Sprint(dc, i), dc: dc, witness: w.rand.IntN(4) == 0, role: Absent, up: true, rejoin: w.rand.IntN(20)})
	}
	w.machines[0].role = Voter
	return w
}

// count is of voters: how many there are, and how many work.
func (w *model) count() (votes, work int) {
	for _, m := range w.machines {
		if m.role == Voter {
			votes++
			if m.works() {
				work++
			}
		}
	}
	return votes, work
}

// visible counts the voters that the leader sees.
func (w *model) visible() (n int) {
	for _, m := range w.machines {
		if m.role == Voter && m.seen() {
			n++
		}
	}
	return n
}

func (w *model) quorate() bool { votes, work := w.count(); return work >= quorum(votes) }

// event is one thing that happens, in a gentle history never what costs the
// quorum.
func (w *model) event() {
	was := make([]machine, len(w.machines))
	for i, m := range w.machines {
		was[i] = *m
	}
	quorate := w.quorate()
	w.happen()
	if w.gentle && quorate && !w.quorate() {
		w.log("which is undone")
		for i, m := range w.machines {
			*m = was[i]
		}
	}
}

// happen is something happening to the servers or to the leader.
func (w *model) happen() {
	w.events++
	m := w.machines[w.rand.IntN(len(w.machines))]
	switch w.rand.IntN(14) {
	case 0, 1, 2:
		w.log("%s dies", m.name)
		m.up = false
	case 3, 4, 5, 6:
		w.log("%s is well", m.name)
		m.up, m.cut, m.hidden = true, false, false
	case 7:
		w.log("%s is cut off", m.dc)
		for _, n := range w.machines {
			n.cut = n.cut || n.dc == m.dc
		}
	case 8, 9:
		w.log("%s is back", m.dc)
		for _, n := range w.machines {
			n.cut, n.hidden = n.cut && n.dc != m.dc, n.hidden && n.dc != m.dc
		}
	case 10:
		w.log("the leader does not see %s", m.name)
		m.hidden = true
	case 11:
		w.log("another leader")
		w.lead()
	case 12:
		w.log("the clock jumps")
		w.jumps++
		w.look(time.Hour)
	case 13:
		if m.role == Absent && m.removed {
			w.log("%s is added anew", m.name)
			m.removed, m.rejoin = false, w.rand.IntN(10)
		} else {
			w.log("an operator removes %s", m.name)
			m.removed = true
		}
	}
}

func (w *model) lead() {
	w.watch, w.led, w.jumps = Watch{}, true, 0
	for _, m := range w.machines {
		m.silent = 0
	}
}

func (w *model) look(elapsed time.Duration) {
	healthy := map[string]bool{}
	for _, m := range w.machines {
		healthy[m.name] = m.seen()
	}
	w.watch.Observe(elapsed, healthy)
}

func (w *model) view() View {
	v := View{Policy: w.policy}
	for _, m := range w.machines {
		s := Server{Name: m.name, Datacenter: m.dc, Witness: m.witness, Role: m.role, CaughtUp: m.behind == 0, Addressed: true, Removed: m.removed}
		s.Healthy, s.For = w.watch.Health(m.name)
		v.Servers = append(v.Servers, s)
	}
	w.rand.Shuffle(len(v.Servers), func(i, j int) { v.Servers[i], v.Servers[j] = v.Servers[j], v.Servers[i] })
	return v
}

// tick is a second of the cluster; wild ones have events.
func (w *model) tick(wild bool) {
	if wild && w.rand.IntN(w.calm) == 0 {
		w.event()
	}
	if !w.quorate() {
		w.led = false
		return
	}
	if !w.led {
		w.lead()
	}
	for _, m := range w.machines {
		switch {
		case !m.works():
		case m.role == Absent && !m.removed && m.rejoin > 0:
			m.rejoin--
		case m.role == Absent && !m.removed:
			m.role, m.behind = Learner, 1+w.rand.IntN(10)
			w.log("%s learns", m.name)
		case m.role == Learner && m.behind > 0:
			m.behind--
		}
	}
	w.look(time.Second)
	for _, m := range w.machines {
		if m.seen() {
			m.silent = 0
		} else {
			m.silent++
		}
	}
	d := Decide(w.view())
	w.judge(d)
	hit := -1
	if wild && w.rand.IntN(2*w.calm) == 0 { // while the decision is carried out
		before := w.working()
		w.event()
		hit = max(0, before-w.working())
	}
	w.apply(d.Step, hit)
}

func (w *model) working() (n int) {
	for _, m := range w.machines {
		if m.works() {
			n++
		}
	}
	return n
}

// apply is etcd: it refuses what its own checks refuse. Since the decision so
// many servers were hit, -1 if nothing happened at all. One may be, unless there
// was a single voter; a datacenter's loss in the second in which the voters are
// even in number is beyond any decision.
func (w *model) apply(s Step, hit int) {
	votes, work := w.count()
	if s.Kind == None || !w.quorate() {
		return
	}
	m := w.named(s.Server)
	switch {
	case s.Kind == Promote && (m.role != Learner || m.behind > 0):
		w.fail("%v: it is no learner, or not in sync", s)
	case s.Kind == Remove && m.role == Voter && m.works() && work-1 < 1+(votes-1)/2:
		if hit < 0 {
			w.fail("%v: unhealthy cluster", s)
		}
		w.log("refused: %v", s)
		return
	case s.Kind == Promote:
		m.role = Voter
	default:
		m.role, m.rejoin, m.behind = Absent, w.rand.IntN(10), 0
	}
	w.steps++
	w.log("%v", s)
	if bound := hit < 1 || hit == 1 && votes > 1; bound && !w.quorate() {
		w.fail("%v lost the quorum", s)
	}
	if votes, _ := w.count(); votes > w.policy.MaxVoters+1 {
		w.fail("%v: %d voters", s, votes)
	}
}

func (w *model) named(name string) *machine {
	for _, m := range w.machines {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (w *model) log(format string, args ...any) {
	var now strings.Builder
	for _, m := range w.machines {
		fmt.Fprintf(&now, " %s:%.1s", m.name, m.role)
		for _, mark := range []struct {
			set  bool
			text string
		}{{!m.up, "†"}, {m.cut, "/"}, {m.hidden, "?"}, {m.removed, "x"}} {
			if mark.set {
				now.WriteString(mark.text)
			}
		}
	}
	w.trace = append(w.trace, now.String()+"  "+fmt.Sprintf(format, args...))
}

func (w *model) fail(format string, args ...any) {
	w.t.Helper()
	w.log("end")
	w.t.Fatalf("%s; most voters %d, history:\n%s", fmt.Sprintf(format, args...), w.policy.MaxVoters, strings.Join(w.trace, "\n"))
}
