package failover

import (
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestWhoIsAwaited: a receiver that is there. One that is not is only named, and one
// that is given up itself is neither.
func TestWhoIsAwaited(t *testing.T) {
	most := []string{"a2", "a3", "b1", "b2", "c1"}
	for name, c := range map[string]struct {
		spoil func(*world)
		after time.Duration // the fence was seen
		named []string
	}{
		"there": {func(*world) {}, time.Second, []string{"c2"}},
		"away":  {func(w *world) { delete(w.v.Live, "c2") }, 0, []string{"c2"}},
		"fenced": {func(w *world) {
			fenceOf(w, "a3")
			w.v.Applied["a3"], w.v.Applied["c2"] = nil, &cluster.FenceStatus{NodeID: "id-c2", Revision: 100}
		}, 0, nil},
		"removed": {func(w *world) { w.v.Nodes["c2"].State = cluster.NodeLeft }, 0, nil},
		"none":    {func(w *world) { w.at("e0").Members["c2"] = false }, 0, nil},
		"agent down": {func(w *world) {
			w.miss("c2", false, true)
		}, time.Second, []string{"c2"}},
	} {
		w := fenced(t, most...)
		c.spoil(w)
		start := w.v.Now
		d := w.decide()
		for ; len(d.Grants) == 0 && w.v.Now.Sub(start) < time.Minute; d = w.tick() {
		}
		if len(d.Grants) != 1 || w.v.Now.Sub(start) != c.after || !slices.Equal(d.Grants[0].Moved.Unfenced, c.named) {
			t.Errorf("%s: after %s, %+v", name, w.v.Now.Sub(start), d)
		}
	}
}

// TestReceiverIsDown: a receiver that was lost with the owner is not awaited.
func TestReceiverIsDown(t *testing.T) {
	w := newWorld(t, "d1/a1", "d1/a2", "d2/b1", "d3/w!")
	w.settle()
	w.die("a1", "a2")
	for w.tick(); len(w.last.Fences) == 0; w.tick() {
		if w.v.Now.Sub(begin) > time.Minute {
			t.Fatalf("%+v", w.last)
		}
	}
	w.write(w.last)
	if d := w.tick(); len(d.Grants) != 1 || d.Grants[0].To != "b1" || d.Grants[0].Moved.Unfenced != nil {
		t.Errorf("%+v", d)
	}
}

// TestBootedBefore: a boot before the fence proves nothing about what it is against.
func TestBootedBefore(t *testing.T) {
	w := three(t)
	l := *w.v.Live["a1"]
	l.BootID = "b1"
	w.v.Live["a1"] = &l
	w.misses("b1", "a1", false, false) // so that the fence stays
	w.tick()
	fenceOf(w, "a1")
	if d := w.tick(); len(d.Grants) != 0 {
		t.Errorf("%+v", d)
	}
}

// TestReleasedElsewhere: an owner's word is enough in peace; in safe mode, and while a
// leader collects evidence, it has to wait.
func TestReleasedElsewhere(t *testing.T) {
	w := big(t)
	w.die("b1", "c1")
	w.live(5 * time.Second)
	w.report(w.at("at-a5"), "a5", cluster.PortReleased)
	if d := w.tick(); d.Mode != ModeSafe || len(d.Grants) != 0 {
		t.Errorf("in safe mode: %+v", d.Grants)
	}
	w = three(t)
	w.report(w.at("e0"), "a1", cluster.PortReleased)
	w.j = New()
	if d := w.tick(); d.Mode != ModeCollecting || len(d.Grants) != 0 {
		t.Errorf("collecting: %+v", d.Grants)
	}
	w = three(t)
	w.report(w.at("e0"), "a1", cluster.PortReleased)
	w.at("e0").Failover.Place = cluster.Place{"a1"}
	w.endpoint("e1", "a1")
	w.report(w.at("e1"), "a1", cluster.PortReleased)
	w.die("a1")
	for range 20 {
		if d := w.tick(); len(d.Fences) != 0 || len(d.Grants) != 1 {
			t.Fatalf("a fence for what was handed over: %+v", d)
		}
	}
}

// TestSpread: what moves at once does not all go to one node.
func TestSpread(t *testing.T) {
	w := three(t)
	for _, e := range []*Endpoint{w.at("e0"), w.endpoint("e1", "a1"), w.endpoint("e2", "a1")} {
		w.report(e, "a1", cluster.PortReleased)
	}
	var to []string
	for _, g := range w.tick().Grants {
		to = append(to, g.To)
	}
	if want := []string{"a2", "a3", "b1"}; !slices.Equal(to, want) {
		t.Errorf("%v, want %v", to, want)
	}
}
