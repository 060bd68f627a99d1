package failover

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// big is a cluster of 10, 4 and 4 hosts, named a0…, b0…, c0…, and a witness. Every host
// has an endpoint.
func big(t *testing.T) *world {
	names := []string{"w/w!"}
	for dc, n := range map[string]int{"a": 10, "b": 4, "c": 4} {
		for i := range n {
			names = append(names, fmt.Sprintf("%s/%s%d", dc, dc, i))
		}
	}
	slices.Sort(names)
	w := newWorld(t, names...)
	for name, n := range w.v.Nodes {
		if n.Agent {
			w.endpoint("at-"+name, name)
		}
	}
	w.settle()
	return w
}

// fences lists what was fenced, with the time.
func fences(done []string) (list []string) {
	for _, s := range done {
		if at, name, ok := strings.Cut(s, "s fence "); ok {
			list = append(list, at+" "+name)
		}
	}
	return list
}

// step of TestMass: who dies, and how long nothing else does then.
type step struct {
	die  string
	wait time.Duration
}

func TestMass(t *testing.T) {
	for name, c := range map[string]struct {
		steps []step
		spoil func(*world)
		mode  Mode
		says  string   // part of why
		want  []string // what is fenced in the 40 s after, and when
	}{
		"one":              {steps: []step{{"a1", 0}}, mode: ModeNormal, says: "a lost 1 of 10 nodes (a1)", want: []string{"4.0 a1"}},
		"two of ten":       {steps: []step{{"a1 a2", 0}}, mode: ModeNormal, want: []string{"4.0 a1", "4.0 a2"}},
		"three of ten":     {steps: []step{{"a1 a2 a3", 0}}, mode: ModePartial, says: "a lost 3 of 10 nodes (a1, a2, a3): one node in 10s is given up", want: []string{"4.0 a1", "14.5 a2", "25.0 a3"}},
		"one of one left":  {steps: []step{{"b1", 0}}, spoil: func(w *world) { drainAll(w, "b1"); w.v.Nodes["c1"].State = cluster.NodeActive }, mode: ModeNormal, want: []string{"4.0 b1"}},
		"draining apart":   {steps: []step{{"a1 a2 a3", 0}}, spoil: func(w *world) { w.v.Nodes["a3"].State = cluster.NodeDraining }, mode: ModeNormal, says: "a lost 2 of 9", want: []string{"4.0 a1", "4.0 a2"}},
		"a datacenter":     {steps: []step{{"b0 b1 b2 b3", 0}}, mode: ModeDatacenter, says: "all 4 nodes of b are silent", want: []string{"10.5 b0", "10.5 b1", "10.5 b2", "10.5 b3"}},
		"two datacenters":  {steps: []step{{"b0 b1 b2 b3 c0 c1 c2 c3", 0}}, mode: ModeSafe, says: "2 datacenters are silent at once (b, c)"},
		"one of each":      {steps: []step{{"b1 c1", 0}}, mode: ModeSafe, says: "b and c lost nodes at the same time (b: 1 of 4 nodes (b1); c: 1 of 4 nodes (c1))"},
		"shortly after":    {steps: []step{{"b1", 11 * time.Second}, {"c1", 0}}, mode: ModeSafe, says: "at the same time"},
		"one after other":  {steps: []step{{"b1", 13 * time.Second}, {"c1", 0}}, mode: ModeNormal, says: "b lost 1 of 4 nodes (b1), c lost 1 of 4 nodes (c1)", want: []string{"3.0 c1"}},
		"more than half":   {steps: []step{{"a0 a1 a2 a3 a4 a5 a6 a7 a8", 13 * time.Second}, {"b0", 0}}, mode: ModeSafe, says: "10 of 18 nodes are lost, and they are no whole datacenter"},
		"others are ill":   {steps: []step{{"a0 a1", 20 * time.Second}, {"c0 c1 c2", 30 * time.Second}, {"b0 b1 b2 b3", 0}}, mode: ModeSafe, says: "of the 14 nodes elsewhere only 9 are well, less than 70 %"},
		"others are well":  {steps: []step{{"a0 a1", 30 * time.Second}, {"b0 b1 b2 b3", 0}}, mode: ModeDatacenter, want: []string{"11.5 b0", "11.5 b1", "11.5 b2", "11.5 b3"}},
		"long ago":         {steps: []step{{"a0 a1 a2", 100 * time.Second}, {"a4", 0}}, mode: ModeNormal, says: "a lost 1 of 7 nodes (a4)", want: []string{"3.0 a4"}},
		"had nothing":      {steps: []step{{"b0", 70 * time.Second}, {"c0 c1", 0}}, spoil: func(w *world) { w.put(w.at("at-b0"), "a0", nil) }, mode: ModePartial, says: "c lost 2 of 4", want: []string{"3.0 c0", "13.5 c1"}},
		"had nothing just": {steps: []step{{"b0", 5 * time.Second}, {"c0", 0}}, spoil: func(w *world) { w.put(w.at("at-b0"), "a0", nil) }, mode: ModeSafe, says: "b and c"},
	} {
		t.Run(name, func(t *testing.T) {
			w := big(t)
			if c.spoil != nil {
				c.spoil(w)
				w.live(6 * time.Second)
			}
			for _, s := range c.steps {
				w.die(strings.Fields(s.die)...)
				w.live(s.wait)
			}
			got := w.live(3 * time.Second)
			if w.last.Mode != c.mode || !strings.Contains(w.last.Why, c.says) {
				t.Errorf("%s, %q; want %s, %q", w.last.Mode, w.last.Why, c.mode, c.says)
			}
			for _, s := range w.live(37 * time.Second) {
				at, what, _ := strings.Cut(s, "s ")
				var sec float64
				if _, err := fmt.Sscanf(at, "%f", &sec); err != nil {
					t.Fatal(err)
				}
				got = append(got, fmt.Sprintf("%.1fs %s", sec+3, what))
			}
			if f := fences(got); !slices.Equal(f, c.want) {
				t.Errorf("fenced: %q, want %q", f, c.want)
			}
			if moved := slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, " to ") }); c.mode == ModeSafe && moved {
				t.Errorf("in safe mode: %q", got)
			}
		})
	}
}

// TestSafeModeStays until what is lost is back, however long that takes, and a moment
// longer.
func TestSafeModeStays(t *testing.T) {
	w := big(t)
	w.die("b1", "c1")
	if got := w.live(10 * time.Minute); len(got) > 0 || w.last.Mode != ModeSafe {
		t.Fatalf("%q, %s", got, w.last.Mode)
	}
	if len(w.last.Waits) != 2 || !strings.Contains(w.last.Waits[0].Why, "nothing is moved: b and c") {
		t.Errorf("%+v", w.last.Waits)
	}
	w.back("c1")
	got := w.live(4 * time.Second)
	if w.last.Mode != ModeSafe || !strings.Contains(w.last.Why, "nothing is moved yet") || len(got) > 0 {
		t.Errorf("%s, %q, %q", w.last.Mode, w.last.Why, got)
	}
	if got = w.live(4 * time.Second); len(fences(got)) != 1 || w.last.Mode != ModeNormal {
		t.Errorf("%s, %q", w.last.Mode, got)
	}
}

// TestSafeModeByOperator: draining those that are lost for good ends it.
func TestSafeModeByOperator(t *testing.T) {
	w := big(t)
	w.die("b1", "c1")
	w.live(time.Minute)
	w.v.Nodes["c1"].State = cluster.NodeDraining
	if got := fences(w.live(10 * time.Second)); len(got) != 2 {
		t.Errorf("%s, %q: want both fenced", w.last.Mode, got)
	}
}

// TestWholeButUnattested: a witness in the same datacenter attests of a host, and not
// of the datacenter.
func TestWholeButUnattested(t *testing.T) {
	w := newWorld(t, "d1/a1", "d1/a2", "d1/w!", "d2/b1", "d2/b2")
	w.settle()
	w.die("a1", "a2")
	if got := w.live(time.Minute); len(got) > 0 || w.last.Mode != ModeSafe || !strings.Contains(w.last.Why, "only b1 and b2 in d2 says so") {
		t.Errorf("%q, %s, %q", got, w.last.Mode, w.last.Why)
	}
}

// TestHoldDown: a datacenter that comes back in time is not given up.
func TestHoldDown(t *testing.T) {
	w := big(t)
	w.die("b0", "b1", "b2", "b3")
	got := w.live(9 * time.Second)
	for _, n := range []string{"b0", "b1", "b2", "b3"} {
		w.back(n)
	}
	if got = append(got, w.live(time.Minute)...); len(got) > 0 {
		t.Errorf("%q", got)
	}
	w.die("b0", "b1", "b2", "b3") // the wait begins anew
	if got := w.live(9 * time.Second); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// giveUp is an operator's word that nodes are lost, as they are now.
func (w *world) giveUp(names ...string) {
	for _, name := range names {
		g := &cluster.GivenUp{At: cluster.At(w.v.Now)}
		if l := w.v.Live[name]; l != nil {
			g.Incarnation, g.Counter = l.Incarnation, l.Counter
		}
		n := *w.v.Nodes[name]
		n.GivenUp = g
		w.v.Nodes[name] = &n
	}
}

// TestGivenUp: in safe mode an operator's word moves what it names, and nothing else.
func TestGivenUp(t *testing.T) {
	w := big(t)
	w.endpoint("held", "b1").Held = true
	w.die("b1", "c1")
	if got := w.live(time.Minute); len(got) > 0 || w.last.Mode != ModeSafe {
		t.Fatalf("%q, %s", got, w.last.Mode)
	}
	w.giveUp("b1", "a1")
	got := w.live(10 * time.Minute)
	if len(got) != 2 || !strings.HasSuffix(got[0], "fence b1") || !strings.Contains(got[1], "at-b1: b1 to ") {
		t.Errorf("%q", got)
	}
	if why := w.v.Fences["b1"].Why; !strings.HasPrefix(why, "an operator gave it up: ") {
		t.Errorf("fenced, as %q", why)
	}
	if w.last.Mode != ModeSafe || w.at("at-c1").Own.Node != "c1" || w.at("held").Own.Node != "b1" {
		t.Errorf("%s; what c1 had is at %s, what is held at %s", w.last.Mode, w.at("at-c1").Own.Node, w.at("held").Own.Node)
	}
}

// TestGivenUpDatacenter: it is not waited for, nor taken apart one after the other.
func TestGivenUpDatacenter(t *testing.T) {
	w := big(t)
	w.die("a0", "a1", "a2", "a3", "c0", "c1", "c2", "c3")
	w.live(20 * time.Second)
	if w.last.Mode != ModeSafe {
		t.Fatal(w.last.Mode)
	}
	w.giveUp("c0", "c1", "c2", "c3")
	if got := fences(w.live(2 * time.Second)); len(got) != 4 {
		t.Errorf("%q: want all of c in one pass", got)
	}
	w.giveUp("a0", "a1", "a2", "a3")
	if got := fences(w.live(2 * time.Second)); len(got) != 4 {
		t.Errorf("%q: want all four of a in one pass", got)
	}

	w = big(t) // partly lost: those named do not wait for the one whose turn it is
	w.die("a0", "a1", "a2", "a3")
	w.live(3500 * time.Millisecond)
	w.giveUp("a1", "a2")
	if got := fences(w.live(time.Second)); !slices.Equal(got, []string{"0.5 a0", "0.5 a1", "0.5 a2"}) {
		t.Errorf("%q: want a0 in its turn, and a1 and a2 by word", got)
	}
}

// TestGivenUpOver: the word is about one loss, not about the next, and not for ever.
func TestGivenUpOver(t *testing.T) {
	for name, then := range map[string]func(w *world){
		"came back, and was lost again": func(w *world) {
			w.giveUp("b1")
			w.back("b1")
			w.live(20 * time.Second)
			w.die("b1", "a1")
		},
		"without a live record now": func(w *world) {
			w.giveUp("b1")
			w.back("b1")
			w.live(20 * time.Second)
			w.die("b1", "a1")
			delete(w.v.Live, "b1")
		},
		"an hour ago": func(w *world) {
			n := *w.v.Nodes["b1"]
			n.GivenUp = &cluster.GivenUp{At: cluster.At(w.v.Now.Add(-time.Hour)), Incarnation: "i0", Counter: w.v.Live["b1"].Counter}
			w.v.Nodes["b1"] = &n
		},
		"another incarnation": func(w *world) {
			n := *w.v.Nodes["b1"]
			n.GivenUp = &cluster.GivenUp{At: cluster.At(w.v.Now), Incarnation: "i9", Counter: w.v.Live["b1"].Counter}
			w.v.Nodes["b1"] = &n
		},
	} {
		w := big(t)
		w.die("b1", "c1")
		w.live(20 * time.Second)
		then(w)
		if got := w.live(30 * time.Second); len(got) > 0 || w.last.Mode != ModeSafe {
			t.Errorf("%s: %q, %s", name, got, w.last.Mode)
		}
	}
}

// TestGivenUpAgent: a node whose kernel answers is given up by word alone, also by a
// leader that was elected just now, once it has evidence.
func TestGivenUpAgent(t *testing.T) {
	w := big(t)
	w.frozen["b1"] = true
	w.miss("b1", false, true)
	if got := w.live(time.Minute); len(got) > 0 || w.class("b1") != AgentDown {
		t.Fatalf("%q, %s", got, w.class("b1"))
	}
	w.giveUp("b1")
	w.j = New()
	if got := fences(w.live(20 * time.Second)); len(got) != 1 || got[0] < "5.0" {
		t.Errorf("%q: want b1, after the leader has collected", got)
	}
}

// TestGivenUpFrozen: an endpoint that moved too often goes by an operator's word.
func TestGivenUpFrozen(t *testing.T) {
	w := big(t)
	w.die("b1", "c1")
	w.live(20 * time.Second)
	m := w.j.endpoints["v/at-b1"]
	m.frozen = true
	for range maxChanges {
		m.changes = append(m.changes, w.v.Now)
	}
	w.giveUp("b1")
	if w.live(5 * time.Second); w.at("at-b1").Own.Node == "b1" {
		t.Error("it stays")
	}
}
