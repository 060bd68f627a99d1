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
