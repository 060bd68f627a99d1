package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// started is three with e0 as a workload that runs at a1 and nowhere else.
func started(t *testing.T, mode cluster.Mode) *world {
	w := three(t)
	e := w.at("e0")
	e.Failover.Mode, e.Failover.Workload, e.Failover.MayRunTwice = mode, "web", mode == cluster.ModeStateless
	w.runs(e)
	w.tick()
	return w
}

// runs has all members report at once: the owner that it runs, others that it does not.
func (w *world) runs(e *Endpoint) {
	for n := range e.Members {
		if !w.frozen[n] {
			w.tells(e, n, cluster.PortStandby, cluster.WorkloadStopped)
		}
	}
	if o := e.owner(); o != "" && !w.frozen[o] {
		w.tells(e, o, cluster.PortReady, cluster.WorkloadRunning)
	}
}

// tells has a node report an endpoint with its workload.
func (w *world) tells(e *Endpoint, node string, s cluster.PortState, state cluster.WorkloadState) {
	w.report(e, node, s)
	e.Reports[node].Gated = e.strict()
	e.Reports[node].Workload = &cluster.WorkloadStatus{State: state, Era: e.Own.Era, Epoch: e.Own.Epoch}
}

// TestWorkloadGoes: where it may go, and by what.
func TestWorkloadGoes(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(w *world, e *Endpoint)
		want string // the grant's node; "": none is decided
		why  string // of it, or of the wait
	}{
		"it runs":            {func(*world, *Endpoint) {}, "", ""},
		"it has released":    {func(w *world, e *Endpoint) { w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped) }, "a2", "a1 released it"},
		"released, and runs": {func(w *world, e *Endpoint) { w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopping) }, "", ""},
		"released before": {func(w *world, e *Endpoint) {
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
			e.Reports["a1"].Epoch--
		}, "", ""},
		"it failed": {func(w *world, e *Endpoint) { w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadFailed) }, "a2", "its workload failed at a1"},
		"it failed before": {func(w *world, e *Endpoint) {
			w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadFailed)
			e.Reports["a1"].Workload.Epoch--
		}, "", ""},
		"it fails": {func(w *world, e *Endpoint) { w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadStopping) }, "", ""},
		"another machine's": {func(w *world, e *Endpoint) {
			w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadFailed)
			e.Reports["a1"].NodeID = "id-x"
		}, "", ""},
		"one that may run": {func(w *world, e *Endpoint) {
			w.tells(e, "a2", cluster.PortStandby, cluster.WorkloadStopping)
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
		}, "a3", ""},
		"one that knows none": {func(w *world, e *Endpoint) {
			e.Reports["a2"].Workload = nil
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
		}, "a3", ""},
		"one where it failed": {func(w *world, e *Endpoint) {
			w.tells(e, "a2", cluster.PortStandby, cluster.WorkloadFailed)
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
		}, "a3", ""},
		"the one it waits for": {func(w *world, e *Endpoint) {
			e.Own.To = "c1"
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
		}, "c1", ""},
		"held": {func(w *world, e *Endpoint) {
			e.Held = true
			w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadFailed)
		}, "", "an operator holds it"},
		"no member any more": {func(w *world, e *Endpoint) { delete(e.Members, "a1") }, "", "has not said that the workload has ended"},
		"restored":           {func(w *world, e *Endpoint) { e.Own.Restored = true }, "", "the store was restored"},
	} {
		t.Run(name, func(t *testing.T) {
			w := started(t, cluster.ModeStateful)
			e := w.at("e0")
			c.do(w, e)
			d := w.tick()
			switch {
			case c.want == "" && len(d.Grants) > 0:
				t.Fatalf("%+v", d.Grants)
			case c.want == "":
				if got := whyOf(d); !strings.Contains(got, c.why) || c.why == "" && got != "" {
					t.Errorf("waits: %q, want %q", got, c.why)
				}
			case len(d.Grants) != 1 || d.Grants[0].To != c.want || !strings.Contains(d.Grants[0].Moved.Why, c.why):
				t.Errorf("%+v, waits %+v", d.Grants, d.Waits)
			}
		})
	}
}

func whyOf(d *Decision) string {
	if len(d.Waits) == 0 {
		return ""
	}
	return d.Waits[0].Why
}

// TestLostWithoutProof: what may not run twice stays at a node that nobody hears, which
// is not even fenced for it; what may run twice goes.
func TestLostWithoutProof(t *testing.T) {
	w := started(t, cluster.ModeStateful)
	w.die("a1")
	d, _ := w.run(2 * time.Minute)
	if d != nil || w.class("a1") != Down || !strings.Contains(whyOf(w.last), "nobody knows whether its workload runs there") {
		t.Errorf("%+v; waits %+v", d, w.last.Waits)
	}
	w = started(t, cluster.ModeStateless)
	w.die("a1")
	if done := w.live(20 * time.Second); len(done) != 2 || !strings.Contains(done[0], "fence a1") || !strings.Contains(done[1], "e0: a1 to a2") {
		t.Errorf("%q", done)
	}
}

// TestBootedAnewIsProof, if it is fenced, so that it starts nothing again; the fence
// stays until it has said so.
func TestBootedAnewIsProof(t *testing.T) {
	w := started(t, cluster.ModeStateful)
	w.endpoint("e1", "a1") // for which it is fenced
	w.die("a1")
	w.live(20 * time.Second)
	e := w.at("e0")
	if len(w.v.Fences) != 1 || e.owner() != "a1" || w.at("e1").owner() != "a2" || !strings.Contains(whyOf(w.last), "a1 is fenced, and has not said") {
		t.Fatalf("fences %v, e0 at %s, e1 at %s, waits %+v", w.v.Fences, e.owner(), w.at("e1").owner(), w.last.Waits)
	}
	w.back("a1")
	w.report(w.at("e1"), "a1", cluster.PortStandby)
	if done := w.live(time.Minute); len(done) != 0 {
		t.Fatalf("it is heard again, in the same boot: %q", done)
	}
	l := *w.v.Live["a1"]
	l.BootID = "b1"
	w.v.Live["a1"] = &l
	if d := w.tick(); len(d.Grants) != 1 || d.Grants[0].Fence == 0 || len(d.Lifts) > 0 {
		t.Fatalf("%+v", d)
	}
	w.write(w.last)
	w.runs(e)
	w.tells(e, "a1", cluster.PortStandby, cluster.WorkloadUnknown)
	if done := w.live(time.Minute); len(done) != 0 {
		t.Fatalf("it has not stopped what it lost: %q", done)
	}
	w.tells(e, "a1", cluster.PortStandby, cluster.WorkloadStopped)
	if d := w.tick(); len(d.Lifts) != 1 {
		t.Fatalf("%+v", d)
	}
}

// TestThreeFail: one after the other, then nobody has it until somebody says so; what
// was well for a minute in between begins anew.
func TestThreeFail(t *testing.T) {
	w := started(t, cluster.ModeStateful)
	e := w.at("e0")
	fail := func() (to string) {
		w.tells(e, e.owner(), cluster.PortFailed, cluster.WorkloadFailed)
		d := w.tick()
		if len(d.Grants) != 1 {
			t.Fatalf("%+v", d)
		}
		w.write(d)
		w.runs(e)
		return d.Grants[0].To
	}
	if to := []string{fail(), fail(), fail()}; !slices.Equal(to, []string{"a2", "a3", ""}) || !slices.Equal(e.Own.Moved.Failed, []string{"a1", "a2", "a3"}) || e.Own.State != cluster.OwnUnplaced {
		t.Fatalf("%q, %+v", to, e.Own)
	}
	if d, _ := w.run(10 * time.Minute); d != nil || !strings.Contains(whyOf(w.last), "its workload failed at a1, a2, a3") {
		t.Fatalf("%+v", d)
	}
	w.j = New() // nor does another leader
	if d, _ := w.run(time.Minute); d != nil {
		t.Fatalf("%+v", d)
	}
	w.put(e, "b1", nil) // an operator's word
	w.runs(e)
	w.run(2 * time.Minute)
	if to := fail(); to == "" || !slices.Equal(e.Own.Moved.Failed, []string{"b1"}) {
		t.Errorf("it goes to %q, failed at %v", to, e.Own.Moved.Failed)
	}
}

// TestFewFail: where there is no other node it is nobody's, until there is one.
func TestFewFail(t *testing.T) {
	w := started(t, cluster.ModeStateful)
	e := w.at("e0")
	e.Failover.Place = cluster.Place{"a1", "b1"}
	w.tells(e, "b1", cluster.PortFailed, cluster.WorkloadUnknown)
	w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadFailed)
	d := w.tick()
	if len(d.Grants) != 1 || d.Grants[0].To != "" {
		t.Fatalf("%+v", d)
	}
	w.write(d)
	w.runs(e)
	w.tells(e, "b1", cluster.PortFailed, cluster.WorkloadUnknown)
	if d, _ := w.run(time.Minute); d != nil || !strings.Contains(whyOf(w.last), "its workload failed at a1, and no other node") {
		t.Fatalf("%+v, %+v", d, w.last.Waits)
	}
	w.tells(e, "b1", cluster.PortStandby, cluster.WorkloadStopped)
	if d := w.tick(); len(d.Grants) != 1 || d.Grants[0].To != "b1" {
		t.Errorf("%+v", d)
	}
}

// TestPlannedStateful: the owner shuts it and ends the workload first; then it goes where
// it was to, or to another node if that is not well any more.
func TestPlannedStateful(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world)
		want  string
	}{
		"as planned":        {func(*world) {}, "a2"},
		"it is not well":    {func(w *world) { w.miss("a2", false, true) }, "a3"},
		"no need to, later": {func(w *world) { w.v.Nodes["a1"].State = cluster.NodeActive }, "a2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := started(t, cluster.ModeStateful)
			e := w.at("e0")
			w.v.Nodes["a1"].State = cluster.NodeDraining
			d := w.tick()
			if len(d.Grants) != 0 || len(d.Handovers) != 1 || d.Handovers[0].To != "a2" {
				t.Fatalf("%+v", d)
			}
			own := *e.Own
			own.To = "a2"
			e.Own = &own
			w.tells(e, "a1", cluster.PortStandby, cluster.WorkloadStopping)
			c.spoil(w)
			for range 5 {
				if d := w.tick(); len(d.Grants)+len(d.Handovers) != 0 || !strings.Contains(whyOf(d), "waiting for a1 to say that its workload has ended") {
					t.Fatalf("%+v", d)
				}
			}
			w.tells(e, "a1", cluster.PortReleased, cluster.WorkloadStopped)
			if d := w.tick(); len(d.Grants) != 1 || d.Grants[0].To != c.want {
				t.Errorf("%+v", d)
			}
		})
	}
}

// TestDarkStateful: an owner that does not reach the store has shut the port by itself,
// after a time, and its workload may run on: nobody else gets it.
func TestDarkStateful(t *testing.T) {
	w := started(t, cluster.ModeStateful)
	w.frozen["a1"] = true // and is heard
	if d, _ := w.run(2 * time.Minute); d != nil {
		t.Fatalf("%+v", d)
	}
	w = started(t, cluster.ModeStateless)
	w.at("e0").Failover.Exclusive = cluster.ExclusiveStrict
	w.runs(w.at("e0"))
	w.frozen["a1"] = true
	if d, _ := w.run(2 * time.Minute); d == nil || len(d.Grants) != 1 || !d.Grants[0].Live {
		t.Errorf("what may run twice goes when it is shut: %+v, waits %+v", d, w.last.Waits)
	}
}

// TestNoFailbackToWhereItFailed, before somebody had it start there.
func TestNoFailbackToWhereItFailed(t *testing.T) {
	for state, back := range map[cluster.WorkloadState]bool{cluster.WorkloadStopped: true, cluster.WorkloadFailed: false} {
		w := started(t, cluster.ModeStateful)
		e := w.at("e0")
		e.Failover.Place, e.Failover.Failback = cluster.Place{"b1", "a1"}, cluster.FailbackAuto
		w.tells(e, "b1", cluster.PortStandby, state)
		w.run(failbackStable + time.Minute)
		if got := len(w.last.Handovers) == 1; got != back {
			t.Errorf("%s: handed over %v, want %v", state, got, back)
		}
	}
}
