package failover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
)

// fenced is a cluster of seven in which the owner a1 died and its fence was just read
// by some.
func fenced(t *testing.T, confirmed ...string) *world {
	w := three(t)
	w.die("a1")
	for w.tick(); len(w.last.Fences) == 0; w.tick() {
		if w.v.Now.Sub(begin) > time.Minute {
			t.Fatalf("no fence: %+v", w.last)
		}
	}
	f := w.last.Fences[0]
	w.v.Fences[f.Node] = Fence{&f.Fence, 100}
	for _, n := range confirmed {
		w.v.Applied[n] = &cluster.FenceStatus{NodeID: "id-" + n, Revision: 100}
	}
	return w
}

func TestFence(t *testing.T) {
	w := fenced(t)
	f := w.v.Fences["a1"]
	if err := f.Validate(); err != nil {
		t.Error(err)
	}
	if f.NodeID != "id-a1" || !slices.Equal(f.Underlay, w.v.Underlay["a1"]) || !strings.Contains(f.Why, "6 of 6 sure observers") {
		t.Errorf("%+v", f.Fence)
	}
}

// TestNoFence: a node is cut off only if somebody gains by it.
func TestNoFence(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"owns nothing":    func(w *world) { w.put(w.at("e0"), "b1", nil) },
		"held":            func(w *world) { w.at("e0").Held = true },
		"no other place":  func(w *world) { w.at("e0").Failover.Place = cluster.Place{"a1"} },
		"nowhere else":    func(w *world) { w.at("e0").Reports = nil },
		"handed over":     func(w *world) { w.report(w.at("e0"), "a1", cluster.PortReleased); w.at("e0").Held = true },
		"no address":      func(w *world) { w.v.Underlay["a1"] = nil },
		"pending":         func(w *world) { w.at("e0").Own.State = cluster.OwnPending },
		"others draining": func(w *world) { drainAll(w, "a1") },
	} {
		w := three(t)
		spoil(w)
		w.die("a1")
		if d, _ := w.run(10 * time.Second); d != nil || w.class("a1") != Down {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func drainAll(w *world, but string) {
	for name, n := range w.v.Nodes {
		if name != but {
			n.State = cluster.NodeDraining
		}
	}
}

// TestBarrier: the grant waits for all receivers, or for 1 s, and names those missing.
func TestBarrier(t *testing.T) {
	all := []string{"a2", "a3", "b1", "b2", "c1", "c2"}
	w := fenced(t, all[:5]...)
	if d := w.decide(); len(d.Grants) != 0 || len(d.Waits) != 1 || !strings.Contains(d.Waits[0].Why, "waiting for c2") {
		t.Fatalf("%+v", d)
	}
	w.v.Applied["c2"] = &cluster.FenceStatus{NodeID: "id-c2", Revision: 99}
	if d := w.decide(); len(d.Grants) != 0 {
		t.Fatalf("an older fence: %+v", d)
	}
	w.v.Applied["c2"] = &cluster.FenceStatus{NodeID: "id-other", Revision: 100}
	if d := w.decide(); len(d.Grants) != 0 {
		t.Fatalf("another machine: %+v", d)
	}
	w.v.Applied["c2"] = &cluster.FenceStatus{NodeID: "id-c2", Revision: 100}
	own := w.at("e0").Own
	want := []Grant{{VPC: "v", Endpoint: "e0", From: "a1", To: "a2", Era: own.Era, Epoch: own.Epoch, Fence: 100, Why: w.v.Fences["a1"].Why,
		Moved: &cluster.Moved{From: "a1", Why: w.v.Fences["a1"].Why, At: cluster.At(w.v.Now), Changes: 1}}}
	if d := w.decide(); cmp.Diff(d.Grants, want) != "" {
		t.Error(cmp.Diff(d.Grants, want))
	}

	w = fenced(t, all[:4]...)
	delete(w.v.Live, "c1") // not awaited, and named
	w.decide()
	if d, after := w.run(3 * time.Second); d == nil || after != time.Second || !slices.Equal(d.Grants[0].Moved.Unfenced, []string{"c1", "c2"}) {
		t.Errorf("after %s: %+v", after, d)
	}

	w = fenced(t)
	l := *w.v.Live["a1"]
	l.BootID = "b1"
	w.v.Live["a1"] = &l
	if d := w.decide(); len(d.Grants) != 0 {
		t.Errorf("booted before, or after, the fence: %+v", d.Grants)
	}

	w = fenced(t)
	w.decide()
	w.tick()
	w.v.Live["a1"] = &l
	if d := w.decide(); len(d.Grants) != 1 || !strings.Contains(d.Grants[0].Why, "booted anew") {
		t.Errorf("booted: %+v", d)
	}
}

// TestReleased: the owner's own word is enough, of this epoch, and of this machine.
func TestReleased(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	w.report(e, "a1", cluster.PortReleased)
	if d := w.tick(); len(d.Grants) != 1 || d.Grants[0].To != "a2" || d.Grants[0].Fence != 0 || d.Grants[0].Moved.From != "a1" {
		t.Fatalf("%+v", d)
	}
	e.Reports["a1"].Epoch--
	if d := w.tick(); len(d.Grants) != 0 {
		t.Errorf("of an epoch that was: %+v", d)
	}
	e.Reports["a1"].Epoch++
	e.Reports["a1"].NodeID = "id-other"
	if d := w.tick(); len(d.Grants) != 0 {
		t.Errorf("of another machine: %+v", d)
	}
	w.report(e, "a1", cluster.PortReleased)
	e.Held = true
	if d := w.tick(); len(d.Grants) != 0 || len(d.Waits) != 1 {
		t.Errorf("held: %+v", d)
	}
}

func TestFirstNode(t *testing.T) {
	w := three(t)
	w.put(w.at("e0"), "", nil)
	w.j = New()
	if d := w.decide(); d.Mode != ModeCollecting || len(d.Grants) != 1 || d.Grants[0].Moved != nil {
		t.Errorf("%+v", d)
	}
	w.report(w.at("e0"), "b2", cluster.PortReady)
	w.j = New()
	if d := w.decide(); len(d.Grants) != 0 {
		t.Errorf("b2 may serve it still: %+v", d)
	}
	delete(w.at("e0").Members, "a1")
	w.put(w.at("e0"), "a1", nil)
	w.settleIn()
	if d := w.decide(); len(d.Grants) != 1 || d.Grants[0].From != "a1" {
		t.Errorf("its node is no member: %+v", d)
	}
}

// settleIn lets a leader collect, whatever it decides then.
func (w *world) settleIn() { w.run(6 * time.Second) }

// TestTarget: who gets it, and who does not.
func TestTarget(t *testing.T) {
	for name, c := range map[string]struct {
		place string
		spoil func(*world)
		want  string
	}{
		"by name":            {place: "all", want: "a2"},
		"by place":           {place: "dc=d3,all", want: "c1"},
		"places alone":       {place: "b2", want: "b2"},
		"fewest endpoints":   {place: "all", spoil: func(w *world) { w.endpoint("e1", "a2"); w.endpoint("e2", "a3") }, want: "b1"},
		"draining":           {place: "all", spoil: func(w *world) { w.v.Nodes["a2"].State = cluster.NodeDraining }, want: "a3"},
		"fenced":             {place: "all", spoil: func(w *world) { fenceOf(w, "a2") }, want: "a3"},
		"no live record":     {place: "all", spoil: func(w *world) { delete(w.v.Live, "a2") }, want: "a3"},
		"suspected by one":   {place: "all", spoil: func(w *world) { w.misses("c1", "a2", false, false) }, want: "a3"},
		"agent down":         {place: "all", spoil: func(w *world) { w.miss("a2", false, true) }, want: "a3"},
		"not attached":       {place: "all", spoil: func(w *world) { w.report(w.at("e0"), "a2", cluster.PortFailed) }, want: "a3"},
		"no report":          {place: "all", spoil: func(w *world) { delete(w.at("e0").Reports, "a2") }, want: "a3"},
		"another machine":    {place: "all", spoil: func(w *world) { w.at("e0").Reports["a2"].NodeID = "id-other" }, want: "a3"},
		"no member":          {place: "all", spoil: func(w *world) { delete(w.at("e0").Members, "a2") }, want: "a3"},
		"report of before":   {place: "all", spoil: func(w *world) { w.at("e0").Reports["a2"].Epoch-- }, want: "a3"},
		"place before epoch": {place: "a2,all", spoil: func(w *world) { w.at("e0").Reports["a2"].Epoch-- }, want: "a2"},
		"punished":           {place: "all", spoil: func(w *world) { punish(w, "a2", 800) }, want: "a3"},
		"place before that":  {place: "a2,all", spoil: func(w *world) { punish(w, "a2", 800) }, want: "a2"},
		"barred":             {place: "a2,all", spoil: func(w *world) { punish(w, "a2", 2100) }, want: "a3"},
		"still barred":       {place: "a2,all", spoil: func(w *world) { punish(w, "a2", 800); w.j.node("a2").barred = true }, want: "a3"},
		"not barred":         {place: "a2,all", spoil: func(w *world) { punish(w, "a2", 700); w.j.node("a2").barred = true }, want: "a2"},
		"failed":             {place: "a2,all", spoil: func(w *world) { w.j.node("a2").failures, w.j.node("a2").okSince = 1, w.v.Now }, want: "a3"},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			e := w.at("e0")
			e.Failover.Place, _ = cluster.ParsePlace(c.place)
			if c.spoil != nil {
				c.spoil(w)
			}
			w.tick()
			w.report(e, "a1", cluster.PortReleased)
			if w.tick(); len(w.last.Grants) != 1 || w.last.Grants[0].To != c.want {
				t.Errorf("%+v, waits %+v; want %s", w.last.Grants, w.last.Waits, c.want)
			}
		})
	}
}

func fenceOf(w *world, name string) {
	w.v.Fences[name] = Fence{&cluster.Fence{NodeID: "id-" + name, Why: "by hand"}, 7}
}

func punish(w *world, name string, much float64) {
	m := w.j.node(name)
	m.penalty, m.penaltyAt = much, w.v.Now
}

// TestFrozen: five changes in 180 s, by whichever leader, and no more for as long.
func TestFrozen(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	moves := func(d time.Duration) (n int) {
		for start := w.v.Now; w.v.Now.Sub(start) < d; {
			w.report(e, e.owner(), cluster.PortReleased)
			d := w.tick()
			w.write(d)
			if n += len(d.Grants); n == 3 && len(d.Grants) > 0 {
				w.j = New() // it reads how many there were
			}
		}
		return n
	}
	if n := moves(179 * time.Second); n != 5 || e.Own.Moved.Changes != 5 {
		t.Errorf("%d moves, the record says %d", n, e.Own.Moved.Changes)
	}
	if n := moves(30 * time.Second); n != 5 {
		t.Errorf("it moves %d times after 180 s of quiet", n)
	}
	moves(180 * time.Second)
	w.put(e, "c2", nil) // an operator
	w.tick()
	if n := moves(5 * time.Second); n == 0 {
		t.Error("it does not move after an operator's word")
	}
}

// TestFrozenNotByHand: what an operator asks for is counted by no leader, also where
// the owner has to release it first.
func TestFrozenNotByHand(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Exclusive = cluster.ExclusiveStrict
	release := func() {
		for n := range e.Members {
			w.tells(e, n, cluster.PortStandby, cluster.WorkloadStopped)
		}
		w.tells(e, e.owner(), cluster.PortReleased, cluster.WorkloadStopped)
		w.write(w.tick())
	}
	for i := range 2 * maxChanges {
		to := "a2"
		if e.owner() == to {
			to = "a1"
		}
		e.Failover.MoveTo, e.Own.To = cluster.InEpoch{Node: to, Epoch: e.Own.Epoch}, to
		if release(); e.owner() != to || e.Own.Moved == nil || e.Own.Moved.Changes != 0 {
			t.Fatalf("move %d to %s: it is at %s, and these were counted: %+v", i, to, e.owner(), e.Own.Moved)
		}
	}
	if release(); e.Own.Moved.Changes != 1 {
		t.Errorf("a change that nobody asked for: %d are counted, want 1", e.Own.Moved.Changes)
	}
}

func TestRate(t *testing.T) {
	w := three(t)
	for i := range 1200 {
		w.report(w.endpoint(fmt.Sprintf("f%04d", i), "a1"), "a1", cluster.PortReleased)
	}
	var got []int
	for range 7 {
		d := w.tick()
		if got = append(got, len(d.Grants)); len(d.Waits) > 0 && d.Again.Sub(w.v.Now) > time.Second {
			t.Errorf("the rest is looked at after %s", d.Again.Sub(w.v.Now))
		}
		w.write(d)
	}
	if want := []int{500, 0, 500, 0, 200, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestLift: a fence goes when its node is back for 5 s and serves nothing of what was
// moved.
func TestLift(t *testing.T) {
	w := fenced(t)
	w.live(3 * time.Second)
	e := w.at("e0")
	if e.owner() == "a1" {
		t.Fatal("not moved")
	}
	w.back("a1") // its report is of the epoch in which it was the owner
	if got := w.live(10 * time.Second); len(got) > 0 {
		t.Fatalf("it may serve what was moved: %q", got)
	}
	w.report(e, "a1", cluster.PortStandby)
	if d := w.tick(); len(d.Lifts) != 1 || d.Lifts[0].Revision != 100 || d.Lifts[0].Node != "a1" {
		t.Fatalf("%+v", d)
	}
	w.misses("c2", "a1", false, false)
	if d := w.tick(); len(d.Lifts) != 0 {
		t.Errorf("suspected: %+v", d)
	}
	w.back("a1")
	if d, after := w.run(7 * time.Second); d == nil || after != 5500*time.Millisecond || len(d.Lifts) != 1 {
		t.Errorf("after %s: %+v", after, d)
	}
	delete(w.v.Live, "a1")
	if d := w.tick(); len(d.Lifts) != 0 {
		t.Errorf("not alive: %+v", d)
	}
	w.v.Nodes["a1"].State = cluster.NodeLeft
	if d := w.tick(); len(d.Lifts) != 1 {
		t.Errorf("removed: %+v", d)
	}
}

// TestStable: what failed and is back gets nothing for a minute, then for two.
func TestStable(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Place = cluster.Place{"a1", "b1"}
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute} {
		w.put(e, "a1", nil)
		w.die("a1")
		w.live(7 * time.Second)
		if e.owner() != "b1" {
			t.Fatalf("%+v", w.last)
		}
		w.back("a1")
		w.report(e, "a1", cluster.PortStandby)
		back := w.v.Now
		for w.report(e, "b1", cluster.PortReleased); e.owner() == "b1" && w.v.Now.Sub(back) < time.Hour; {
			w.live(w.v.Timings.Probe)
		}
		if got := w.v.Now.Sub(back); got < want || got > want+time.Second {
			t.Errorf("%s after it was back, want %s", got, want)
		}
		w.tick()
	}
}

func TestFailback(t *testing.T) {
	w := three(t)
	for i := range 4 {
		e := w.endpoint(fmt.Sprintf("f%d", i), "b1")
		e.Failover.Place, e.Failover.Failback = cluster.Place{"dc=d1", "all"}, cluster.FailbackAuto
	}
	w.at("f3").Failover.Failback = cluster.FailbackNever
	if got := w.live(9 * time.Minute); len(got) > 0 {
		t.Errorf("within 10 minutes: %q", got)
	}
	got := w.live(2 * time.Minute)
	if len(got) != 3 || w.at("f3").owner() != "b1" || w.at("f0").owner() != "a2" || w.at("f1").owner() != "a3" {
		t.Errorf("%q", got)
	}
	for i := range got {
		var at, before float64
		if _, err := fmt.Sscanf(got[i], "%fs", &at); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(got[max(i-1, 0)], "%fs", &before); err != nil {
			t.Fatal(err)
		}
		if i > 0 && at-before < 1 {
			t.Errorf("%q: one a second", got)
		}
	}
}

func TestDrain(t *testing.T) {
	w := three(t)
	for i := range 5 {
		w.endpoint(fmt.Sprintf("f%d", i), "a1")
	}
	w.at("f0").Held = true
	w.at("f1").Failover.Place = cluster.Place{"a1"}
	w.v.Nodes["a1"].State = cluster.NodeDraining
	got := w.live(1500 * time.Millisecond)
	if len(got) != 3 {
		t.Errorf("%q: two a second", got)
	}
	if got = w.live(10 * time.Second); len(got) != 1 || w.at("f0").owner() != "a1" || w.at("f1").owner() != "a1" || w.at("e0").owner() == "a1" {
		t.Errorf("%q", got)
	}
	if len(w.last.Waits) != 1 || w.last.Waits[0].Endpoint != "f1" {
		t.Errorf("%+v", w.last.Waits)
	}
}

// TestFrozenFirst: an endpoint that loses its node again and again is no exception.
func TestFrozenFirst(t *testing.T) {
	w := three(t)
	n := 0
	for range 100 {
		if w.at("e0").owner() != "" {
			w.put(w.at("e0"), "", nil)
		}
		n += len(w.live(w.v.Timings.Probe))
	}
	if n != maxChanges {
		t.Errorf("%d times in %s", n, 100*w.v.Timings.Probe)
	}
}

// TestFrozenLongAgo: what another leader counted is believed, unless it is too old.
func TestFrozenLongAgo(t *testing.T) {
	for ago, want := range map[time.Duration]int{time.Minute: 0, 2 * time.Hour: 1} {
		w := three(t)
		w.put(w.at("e0"), "a1", &cluster.Moved{From: "a2", Why: "gone", At: cluster.At(w.v.Now.Add(-ago)), Changes: 5})
		w.j = New()
		w.settle()
		w.report(w.at("e0"), "a1", cluster.PortReleased)
		if d := w.tick(); len(d.Grants) != want {
			t.Errorf("%s ago: %+v", ago, d)
		}
	}
}

// TestAnotherFence: a fence that was written anew is waited for anew.
func TestAnotherFence(t *testing.T) {
	w := fenced(t)
	w.decide()
	w.tick()
	w.v.Fences["a1"] = Fence{w.v.Fences["a1"].Fence, 101}
	if d, after := w.run(3 * time.Second); d == nil || after != 1500*time.Millisecond || d.Grants[0].Fence != 101 {
		t.Errorf("after %s: %+v", after, d)
	}
}

// TestFast: a probe period is waited for even where there is no time to confirm.
func TestFast(t *testing.T) {
	w := newWorld(t, "d1/a1", "d1/a2", "d2/b1", "d3/w!")
	w.v.Timings = cluster.ProfileFast.Timings()
	w.run(3 * time.Second)
	w.frozen["a1"] = true
	w.run(2 * time.Second) // it is late already
	w.die("a1")
	if d, after := w.run(2 * time.Second); d == nil || after != 2*w.v.Timings.Probe {
		t.Errorf("after %s: %+v", after, d)
	}
}

// TestLiftComesFirst: what could be given away is kept by a node that is back.
func TestLiftComesFirst(t *testing.T) {
	w := fenced(t, "a2", "a3", "b1", "b2", "c1", "c2")
	e := w.at("e0")
	reports := e.Reports
	e.Reports = map[string]*cluster.EndpointStatus{"a1": reports["a1"]}
	w.back("a1")
	for w.tick(); len(w.last.Lifts) == 0; w.tick() {
		if len(w.last.Grants) > 0 || w.v.Now.Sub(begin) > time.Minute {
			t.Fatalf("%+v", w.last)
		}
	}
	e.Reports = reports
	if d := w.tick(); len(d.Lifts) != 1 || len(d.Grants) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestDrainOfOneWhoIsIll: an owner that may not read what is written hands over
// nothing; it is given up as any other.
func TestDrainOfOneWhoIsIll(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"suspected":  func(w *world) { w.misses("b1", "a1", false, false) },
		"late":       func(w *world) { w.frozen["a1"] = true },
		"agent down": func(w *world) { w.miss("a1", false, true) },
	} {
		w := three(t)
		spoil(w)
		w.run(8 * time.Second)
		w.v.Nodes["a1"].State = cluster.NodeDraining
		if got := w.live(time.Minute); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}
	w := three(t)
	w.die("a1")
	w.v.Nodes["a1"].State = cluster.NodeDraining
	if got := w.live(10 * time.Second); len(got) != 2 || w.at("e0").owner() != "a2" {
		t.Errorf("dead: %q", got)
	}
}

// TestNoFailback: while something is lost, to a node that failed lately, or to one that
// is preferred no more than the owner.
func TestNoFailback(t *testing.T) {
	for name, c := range map[string]struct {
		place string
		spoil func(*world)
	}{
		"as good":        {place: "all"},
		"less good":      {place: "dc=d2,all"},
		"something lost": {place: "dc=d1,all", spoil: func(w *world) { w.put(w.at("e0"), "c1", nil); w.at("e0").Held = true; w.die("c1") }},
		"punished":       {place: "a2,all", spoil: func(w *world) { punish(w, "a2", 900) }},
	} {
		w := three(t)
		e := w.endpoint("f0", "b1")
		e.Failover.Place, _ = cluster.ParsePlace(c.place)
		e.Failover.Failback = cluster.FailbackAuto
		w.live(580 * time.Second)
		if c.spoil != nil {
			c.spoil(w)
		}
		d := 30 * time.Second
		if c.spoil == nil {
			d = 10 * time.Minute
		}
		if w.live(d); e.owner() != "b1" {
			t.Errorf("%s: it is at %s", name, e.owner())
		}
	}
}

// TestLiftByReport: what a node that is back has to report.
func TestLiftByReport(t *testing.T) {
	for name, c := range map[string]struct {
		report cluster.EndpointStatus
		want   int
	}{
		"released, before":       {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortReleased, Era: 1, Epoch: 1}, 1},
		"standby, before":        {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortStandby, Era: 1, Epoch: 1}, 1},
		"ready, before":          {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortReady, Era: 1, Epoch: 1}, 0},
		"failed, before":         {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortFailed, Era: 1, Epoch: 1}, 0},
		"failed, now":            {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortFailed, Era: 1, Epoch: 2}, 1},
		"of another, before":     {cluster.EndpointStatus{NodeID: "id-other", State: cluster.PortReady, Era: 1, Epoch: 1}, 1},
		"ready in another epoch": {cluster.EndpointStatus{NodeID: "id-a1", State: cluster.PortReady, Era: 1, Epoch: 3}, 0},
	} {
		w := fenced(t)
		w.live(3 * time.Second)
		w.at("e0").Reports["a1"] = &c.report
		w.back("a1")
		if got := w.live(10 * time.Second); len(got) != c.want || w.at("e0").Own.Epoch != 2 {
			t.Errorf("%s: %q in epoch %d", name, got, w.at("e0").Own.Epoch)
		}
	}
}

// TestDarkFromWhenItOwns: who owned nothing has counted nothing, for however long: it has
// a grant's time to be granted what it was given just now.
func TestDarkFromWhenItOwns(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Exclusive = cluster.ExclusiveStrict
	w.frozen["a2"] = true // it writes nothing, and observers hear it
	standby := func() {
		for n := range e.Members {
			w.tells(e, n, cluster.PortStandby, cluster.WorkloadStopped)
		}
	}
	standby()
	w.run(time.Minute)
	w.put(e, "a2", nil)
	standby()
	d, after := w.run(2 * time.Minute)
	if want := cluster.GrantWait(max(cluster.MostGrant(), w.v.Timings.Grant)); d == nil || len(d.Grants) != 1 || after < want || after > want+time.Second {
		t.Errorf("after %s, want %s: %+v", after, want, d)
	}
}
