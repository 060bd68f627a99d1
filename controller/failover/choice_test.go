package failover

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// at is what a node has in a table: "a2 e1/web" is e1 of the group web at a2.
func crowdOf(w *world, text string) {
	for part := range strings.SplitSeq(text, "; ") {
		node, what, ok := strings.Cut(part, " ")
		name, group, _ := strings.Cut(what, "/")
		if k, isCapacity := strings.CutPrefix(what, "capacity="); isCapacity {
			n := *w.v.Nodes[node]
			if _, err := fmt.Sscan(k, &n.Capacity); err != nil {
				w.t.Fatal(err)
			}
			w.v.Nodes[node] = &n
		} else if ok {
			w.endpoint(name, node).Failover.Apart = group
		}
	}
}

// TestCrowded: e0 of the group web has to leave a1.
func TestCrowded(t *testing.T) {
	for name, c := range map[string]struct {
		place, crowd string
		want         string // "" and why
		why          string
	}{
		"alone":                      {place: "all", want: "a2"},
		"another of the group":       {place: "all", crowd: "a2 e1/web", want: "b1"},
		"the other datacenter, too":  {place: "all", crowd: "a2 e1/web; b1 e2/web", want: "c1"},
		"the fewest of it":           {place: "all", crowd: "a2 e1/web; b1 e2/web; b2 e3/web; c1 e4/web", want: "a3"},
		"before places":              {place: "dc=d1,dc=d2", crowd: "a2 e1/web", want: "b1"},
		"or in its datacenter":       {place: "dc=d1", crowd: "a2 e1/web", want: "a3"},
		"another group":              {place: "a2,a3", crowd: "a2 e1/db", want: "a2"},
		"no group":                   {place: "a2,a3", crowd: "a2 e1", want: "a2"},
		"nowhere else":               {place: "a2", crowd: "a2 e1/web", why: "no node can take it (a2: it has e1, which e0 is apart from (web))"},
		"full":                       {place: "a2,a3", crowd: "a2 e1; a2 e2; a2 capacity=2", want: "a3"},
		"room for one more":          {place: "a2,a3", crowd: "a2 e1; a2 e2; a2 capacity=3", want: "a2"},
		"all full":                   {place: "a2,a3", crowd: "a2 e1; a2 capacity=1; a3 e2; a3 e3; a3 capacity=1", why: "no node can take it (a2: it has 1 endpoints that move, and its capacity is 1; a3: it has 2 endpoints that move, and its capacity is 1)"},
		"any number, if it is not 0": {place: "a2", crowd: "a2 e1; a2 e2; a2 capacity=0", want: "a2"},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			e := w.at("e0")
			e.Failover.Place, _ = cluster.ParsePlace(c.place)
			e.Failover.Apart = "web"
			crowdOf(w, c.crowd)
			w.tick()
			w.report(e, "a1", cluster.PortReleased)
			switch d := w.tick(); {
			case c.want != "" && (len(d.Grants) != 1 || d.Grants[0].To != c.want):
				t.Errorf("%+v, waits %+v; want %s", d.Grants, d.Waits, c.want)
			case c.want == "" && (len(d.Grants) != 0 || len(d.Waits) != 1 || d.Waits[0].Why != c.why):
				t.Errorf("%+v, waits %+v; want %q", d.Grants, d.Waits, c.why)
			}
		})
	}
}

// TestNotTheSameGroup: another VPC's group of that name is another one.
func TestNotTheSameGroup(t *testing.T) {
	w := three(t)
	w.at("e0").Failover.Apart, w.at("e0").Failover.Place = "web", cluster.Place{"a2"}
	e := w.endpoint("e1", "a2")
	e.VPC, e.Failover.Apart = "w", "web"
	w.tick()
	w.report(w.at("e0"), "a1", cluster.PortReleased)
	if d := w.tick(); len(d.Grants) != 1 {
		t.Errorf("%+v", d)
	}
}

// TestFailbackApart: a better place that has another of the group is none, and one in
// a datacenter of its own is better.
func TestFailbackApart(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Failback, e.Failover.Apart, e.Failover.Place = cluster.FailbackAuto, "web", cluster.Place{"dc=d1", "dc=d2"}
	other := w.endpoint("e1", "a2")
	other.Failover.Apart = "web"
	w.put(e, "b1", nil)
	if got := w.live(15 * time.Minute); len(got) > 0 {
		t.Errorf("%q: d1 has e1", got)
	}
	w.put(other, "c1", nil)
	if got := w.live(time.Minute); len(got) != 1 || !strings.HasSuffix(got[0], "e0: b1 to a1") {
		t.Errorf("%q: want e0 back at its first place", got)
	}
	w.put(other, "a2", nil)
	w.put(e, "a1", nil)
	if got := w.live(5 * time.Minute); len(got) != 1 || !strings.HasSuffix(got[0], "e0: a1 to b1") {
		t.Errorf("%q: want them in two datacenters", got)
	}
}

// TestManyCrowded: whatever is lost and comes back, no grant puts two of a group on one
// node, nor more on one than it may have.
func TestManyCrowded(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := newWorld(t, "a/a1", "a/a2", "a/a3", "b/b1", "b/b2", "c/c1", "c/c2", "w/w!")
		names := []string{"a1", "a2", "a3", "b1", "b2", "c1", "c2"}
		for _, name := range names {
			w.v.Nodes[name].Capacity = rng.IntN(5)
		}
		for i := range 8 {
			w.endpoint(fmt.Sprintf("f%d", i), names[rng.IntN(len(names))]).Failover.Apart = []string{"", "x", "y"}[rng.IntN(3)]
		}
		w.settleIn()
		granted := 0
		for range 12 {
			if name := names[rng.IntN(len(names))]; w.frozen[name] {
				w.back(name)
			} else if len(w.v.Fences) == 0 {
				w.die(name)
			}
			for range 60 {
				d := w.tick()
				w.write(d)
				for _, g := range d.Grants {
					granted++
					checkCrowd(t, seed, w, w.at(g.Endpoint))
				}
			}
		}
		if granted == 0 {
			t.Errorf("seed %d: nothing moved", seed)
		}
	}
}

// checkCrowd looks at what is where an endpoint was put.
func checkCrowd(t *testing.T, seed uint64, w *world, e *Endpoint) {
	var here []string
	for _, other := range w.v.Endpoints {
		if other.owner() != e.owner() {
			continue
		}
		here = append(here, other.Name)
		if other != e && other.Failover.Apart != "" && other.Failover.Apart == e.Failover.Apart {
			t.Errorf("seed %d: %s was put beside %s", seed, e.Name, other.Name)
		}
	}
	if most := w.v.Nodes[e.owner()].Capacity; most > 0 && len(here) > most {
		slices.Sort(here)
		t.Errorf("seed %d: %s has %q, and may have %d", seed, e.owner(), here, most)
	}
}

// TestFailbackWindow: it returns in its window, and not before; begin is a Sunday at noon.
func TestFailbackWindow(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Place = cluster.Place{"a1", "all"}
	e.Failover.FailbackWindow, _ = cluster.ParseWindow("Sun 12:30-13:00 UTC")
	w.put(e, "b1", nil)
	if got := w.live(begin.Add(30*time.Minute).Sub(w.v.Now) - time.Second); len(got) > 0 {
		t.Fatalf("%q before its window", got)
	}
	if got := w.live(2 * time.Second); len(got) != 1 || !strings.HasSuffix(got[0], "e0: b1 to a1") {
		t.Errorf("%q: want it back when its window opens", got)
	}
}

// TestPreferred: an operator's choice stands, also after its node was lost, before places
// and groups.
func TestPreferred(t *testing.T) {
	w := three(t)
	e := w.at("e0")
	e.Failover.Failback, e.Failover.Place, e.Failover.Preferred, e.Failover.Apart = cluster.FailbackAuto, cluster.Place{"a1", "all"}, "b1", "web"
	w.endpoint("e1", "b2").Failover.Apart = "web"
	w.put(e, "b1", nil)
	if got := w.live(15 * time.Minute); len(got) > 0 {
		t.Errorf("%q: it was moved to b1 by hand", got)
	}
	w.die("b1")
	w.live(10 * time.Second)
	if e = w.at("e0"); e.Own.Node != "a1" {
		t.Fatalf("it is at %s", e.Own.Node)
	}
	w.back("b1")
	w.report(e, "b1", cluster.PortStandby)
	if w.live(15 * time.Minute); e.Own.Node != "b1" {
		t.Errorf("it is at %s, and was moved to b1 by hand", e.Own.Node)
	}
	e.Failover.Preferred = ""
	if w.live(time.Minute); e.Own.Node != "a1" {
		t.Errorf("it is at %s, and an operator ended the preference for b1", e.Own.Node)
	}
}
