package failover

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestPortFails: what its owner says that it cannot serve goes to one that can, and
// nothing else.
func TestPortFails(t *testing.T) {
	for name, c := range map[string]struct {
		mode cluster.Mode
		do   func(w *world, e *Endpoint)
		want string // what is decided within a minute
		why  string // of the wait at the end
	}{
		"stateless": {cluster.ModeStateless, func(w *world, e *Endpoint) { w.report(e, "a1", cluster.PortFailed) }, "5.5s e0: a1 to a2", ""},
		"vip":       {cluster.ModeVIP, func(w *world, e *Endpoint) { w.report(e, "a1", cluster.PortFailed) }, "5.5s e0: a1 to a2", ""},
		"ready":     {cluster.ModeStateless, func(*world, *Endpoint) {}, "", ""},
		"mended in time": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			w.live(4 * time.Second)
			w.report(e, "a1", cluster.PortReady)
		}, "", ""},
		"of an epoch before": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			e.Reports["a1"].Epoch--
		}, "", ""},
		"of another machine": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			e.Reports["a1"].NodeID = "id-x"
		}, "", ""},
		"not the owner's": {cluster.ModeStateless, func(w *world, e *Endpoint) { w.report(e, "a2", cluster.PortFailed) }, "", ""},
		"where it fails, too": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			w.report(e, "a2", cluster.PortFailed)
		}, "5.5s e0: a1 to a3", ""},
		"held": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			e.Held = true
		}, "", ""},
		"nowhere to go": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.report(e, "a1", cluster.PortFailed)
			e.Failover.Place = cluster.Place{"a1"}
		}, "", "a1 cannot serve it: ; no other node in its places"},
		"stateful": {cluster.ModeStateful, func(w *world, e *Endpoint) { w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadRunning) }, "", ""},
		"with a workload that runs": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadRunning)
		}, "5.5s e0: a1 to a2", ""},
		"with a workload that starts": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.tells(e, "a1", cluster.PortFailed, cluster.WorkloadStarting)
		}, "", ""},
		"an owner that is not heard": {cluster.ModeStateless, func(w *world, e *Endpoint) {
			w.misses("b1", "a1", false, false)
			w.report(e, "a1", cluster.PortFailed)
		}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			if strings.HasPrefix(name, "with a workload") || c.mode == cluster.ModeStateful {
				w = started(t, c.mode)
			}
			e := w.at("e0")
			e.Failover.Mode = c.mode
			c.do(w, e)
			got := strings.Join(w.live(time.Minute), ", ")
			if got != c.want || !strings.Contains(whyOf(w.last), c.why) || c.why == "" && whyOf(w.last) != "" || len(w.last.Handovers) > 0 {
				t.Errorf("decided %q, want %q; waits %+v", got, c.want, w.last.Waits)
			}
		})
	}
}

// TestStrictPortFails: a strict one is handed over, not given away.
func TestStrictPortFails(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Exclusive = cluster.ExclusiveStrict
	for n := range e.Members {
		e.Reports[n].Gated = true
	}
	e.Reports["a1"].State = cluster.PortFailed
	for len(w.last.Handovers)+len(w.last.Grants) == 0 && w.v.Now.Sub(begin) < time.Minute {
		w.tick()
	}
	if h := w.last.Handovers; len(h) != 1 || h[0].To != "a2" || len(w.last.Grants) > 0 {
		t.Errorf("handed over %+v, granted %+v", h, w.last.Grants)
	}
}

// TestThreePortsFail: it is at three nodes at most, and returns to none of them at once.
func TestThreePortsFail(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Failback = cluster.FailbackAuto
	e.Failover.Place = cluster.Place{"a1", "all"}
	w.live(10 * time.Minute) // so that its nodes have been well for long
	var had []string
	for range 120 {
		if had = append(had, e.owner()); e.Reports[e.owner()].State != cluster.PortFailed {
			w.report(e, e.owner(), cluster.PortFailed)
		}
		w.live(time.Second)
	}
	if had = slices.Compact(had); !slices.Equal(had, []string{"a1", "a2", "a3"}) || !strings.Contains(whyOf(w.last), "so it was at a1, a2, a3") {
		t.Errorf("it was at %q; waits %+v", had, w.last.Waits)
	}
	w.report(e, "a3", cluster.PortReady)
	w.live(5 * time.Minute)
	if e.owner() != "a3" {
		t.Errorf("it is at %s after 5 minutes", e.owner())
	}
	w.live(10 * time.Minute)
	if e.owner() != "a1" {
		t.Errorf("it is at %s after 15 minutes", e.owner())
	}
}
