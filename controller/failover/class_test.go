package failover

import (
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// three is a cluster of three datacenters of three hosts each.
func three(t *testing.T) *world {
	w := newWorld(t, "d1/a1", "d1/a2", "d1/a3", "d2/b1", "d2/b2", "d3/c1", "d3/c2")
	w.settle()
	return w
}

// TestClasses: what its observers (a2, a3, b1, b2, c1, c2) and its keepalive make of a1.
func TestClasses(t *testing.T) {
	all := []string{"a2", "a3", "b1", "b2", "c1", "c2"}
	for name, c := range map[string]struct {
		no, mute, unsure []string
		late             bool
		want             Class
		suspected        bool
		says             string // part of the evidence
	}{
		"in peace":                           {want: OK, says: "nobody misses it"},
		"late, and heard":                    {late: true, want: OK},
		"one does not hear it":               {no: []string{"b1"}, late: true, want: OK, suspected: true, says: "1 of 6 sure observers (b1 in d2) have not heard it"},
		"silent and late":                    {no: all, late: true, want: Down, suspected: true, says: "6 of 6 sure observers (a2 and a3 in d1, b1 and b2 in d2, c1 and c2 in d3)"},
		"two thirds":                         {no: all[:4], late: true, want: Down, suspected: true},
		"less than two thirds":               {no: []string{"a2", "b1", "c1"}, late: true, want: OK, suspected: true},
		"silent and fresh":                   {no: all, want: Isolated, suspected: true, says: "its keepalive is fresh"},
		"nearly silent and fresh":            {no: all[:5], want: LinkSplit, suspected: true},
		"its agent is dead":                  {mute: all, late: true, want: AgentDown, suspected: true, says: "6 of 6 sure observers"},
		"its agent is dead, some see less":   {mute: all[3:], no: all[:3], late: true, want: AgentDown, suspected: true, says: "hear its kernel only"},
		"only its own datacenter hears it":   {no: all[2:], late: true, want: LinkSplit, suspected: true},
		"only its own datacenter is deaf":    {no: all[:2], late: true, want: LinkSplit, suspected: true},
		"a datacenter is deaf":               {no: all[2:4], late: true, want: LinkSplit, suspected: true},
		"the others are unsure":              {no: all[:4], unsure: all[4:], late: true, want: Down, suspected: true, says: "4 of 4 sure observers"},
		"those who hear nothing are unsure":  {no: all[:5], unsure: all[:5], late: true, want: OK},
		"sure ones are of one datacenter":    {no: all, unsure: all[2:], late: true, want: LinkSplit, suspected: true},
		"one sure one of another datacenter": {no: all, unsure: all[1:], late: true, want: LinkSplit, suspected: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			for _, o := range c.no {
				w.misses(o, "a1", false, false)
			}
			for _, o := range c.mute {
				w.misses(o, "a1", false, true)
			}
			for _, o := range c.unsure {
				w.unsure[o] = true
			}
			w.frozen["a1"] = c.late
			for range 10 {
				w.tick()
			}
			got := w.last.Nodes["a1"]
			if got.Class != c.want || got.Suspected != c.suspected || !strings.Contains(got.Evidence, c.says) {
				t.Errorf("%+v; want %s, %v, %q", got, c.want, c.suspected, c.says)
			}
			if isDown := c.want == Down; isDown != (len(w.last.Fences) > 0) {
				t.Errorf("fences: %+v", w.last.Fences)
			}
		})
	}
}

// TestStaleVerdict: what was said once, by one who says nothing more, is nothing.
func TestStaleVerdict(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.tick()
	for _, o := range []string{"a2", "a3", "b1", "b2", "c1", "c2"} {
		w.frozen[o] = true
	}
	for range 2 {
		if w.tick(); !w.last.Nodes["a1"].Suspected {
			t.Errorf("forgotten after %s", w.v.Now.Sub(begin))
		}
	}
	if got, _ := w.run(time.Minute); got != nil || w.last.Nodes["a1"].Suspected {
		t.Errorf("%+v, %+v", got, w.last.Nodes["a1"])
	}
}

// TestNewLeader: it collects evidence for 2 s and 3 s, and what it finds written is
// none until it has moved.
func TestNewLeader(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.tick()
	w.j = New()
	w.decide()
	if w.last.Nodes["a1"].Suspected || w.last.Mode != ModeCollecting {
		t.Errorf("it believes what it finds: %+v, %s", w.last.Nodes["a1"], w.last.Mode)
	}
	if d, after := w.run(8 * time.Second); d == nil || after != 5*time.Second || len(d.Fences) != 1 {
		t.Errorf("after %s: %+v", after, d)
	}
}

// TestInterrupted: a leader that was asleep begins anew.
func TestInterrupted(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.tick()
	w.v.Now = w.v.Now.Add(time.Hour)
	if d := w.tick(); d.Mode != ModeCollecting || len(d.Fences) > 0 {
		t.Errorf("%+v", d)
	}
	if d, after := w.run(8 * time.Second); d == nil || after != 5*time.Second {
		t.Errorf("after %s: %+v", after, d)
	}
}

// TestOneLiar says of everybody else that it is dead, while all keepalives are late.
func TestOneLiar(t *testing.T) {
	for _, liar := range []string{"a2", "b1", "c2"} {
		w := three(t)
		for n := range w.v.Nodes {
			if n != liar {
				w.misses(liar, n, false, false)
				w.misses(liar, n, false, false)
			}
		}
		w.misses(liar, "nobody", false, false)
		w.misses(liar, liar, false, false)
		for n := range w.v.Nodes {
			if n != liar {
				l := *w.v.Live[n]
				w.v.Live[n] = &l
			}
		}
		for range 100 {
			for n := range w.v.Nodes {
				w.frozen[n] = n != liar
			}
			if d := w.tick(); len(d.Fences)+len(d.Grants) > 0 {
				t.Fatalf("%s alone: %+v", liar, d)
			}
		}
	}
}

// TestStranger: what comes from another machine under a node's name counts nothing.
func TestStranger(t *testing.T) {
	w := three(t)
	w.die("a1")
	for _, v := range w.v.Verdicts {
		v.NodeID = "id-stranger"
	}
	if d, _ := w.run(20 * time.Second); d != nil || w.last.Nodes["a1"].Suspected {
		t.Errorf("verdicts: %+v", d)
	}
	w = three(t)
	w.v.Live["a2"].NodeID = "id-stranger"
	w.die("a1")
	w.live(10 * time.Second)
	if got := w.at("e0").owner(); got != "a3" {
		t.Errorf("it is at %s; want a3, as the live record of a2 is another's", got)
	}
}

// TestQuietObserver: one that suspects nobody has written that once. It is taken for
// well while it is heard itself, and not when it is not.
func TestQuietObserver(t *testing.T) {
	w := three(t)
	for _, o := range []string{"a2", "b1", "c1"} {
		w.misses(o, "a1", false, false)
	}
	w.frozen["a1"] = true
	w.run(10 * time.Second)
	if w.class("a1") != OK {
		t.Fatalf("3 of 6: %+v", w.last.Nodes["a1"])
	}
	for _, o := range []string{"b1", "c1"} {
		w.misses(o, "a3", false, false)
		w.misses(o, "b2", false, false)
		w.misses(o, "c2", false, false)
	}
	w.misses("a2", "b2", false, false)
	w.run(2 * time.Second)
	if w.class("a1") != Down {
		t.Errorf("3 of the 4 that are not silent themselves: %+v", w.last.Nodes["a1"])
	}
}

// TestTwoDatacentersWithoutWitness: of the loss of one nobody else can tell.
func TestTwoDatacentersWithoutWitness(t *testing.T) {
	w := newWorld(t, "d1/a1", "d1/a2", "d2/b1", "d2/b2")
	w.settle()
	w.die("a1", "a2")
	if got := w.live(time.Minute); len(got) > 0 || w.class("a1") != LinkSplit {
		t.Errorf("%q, %+v", got, w.last.Nodes["a1"])
	}
	w = newWorld(t, "d1/a1", "d1/a2", "d2/b1", "d2/b2")
	w.settle()
	w.die("a1")
	if w.live(10 * time.Second); w.at("e0").owner() != "a2" {
		t.Errorf("one host: %+v", w.last)
	}
}

// TestNobodyAsks: a cluster without such endpoints costs the leader nothing.
func TestNobodyAsks(t *testing.T) {
	w := three(t)
	w.v.Endpoints = nil
	if d := w.tick(); !d.Again.IsZero() || d.Nodes["a1"].Class != OK {
		t.Errorf("%+v", d)
	}
	w.endpoint("e1", "a2")
	if d := w.tick(); d.Mode != ModeCollecting {
		t.Errorf("%s: it did not look for as long as it pleased", d.Mode)
	}
	w.v.Nodes["a1"].State = cluster.NodeLeft
	if d := w.tick(); len(d.Nodes) != 6 {
		t.Errorf("%+v", d.Nodes)
	}
}

// TestFilteredKernel: a host that answers no ping is well if its agent answers.
func TestFilteredKernel(t *testing.T) {
	w := three(t)
	w.miss("a1", true, false)
	w.frozen["a1"] = true
	if d, _ := w.run(10 * time.Second); d != nil || w.class("a1") != OK || w.last.Nodes["a1"].Suspected {
		t.Errorf("%+v, %+v", d, w.last.Nodes["a1"])
	}
}

// TestAbsentObservers: one whose agent stands still, or that is fenced, or gone, sees
// nothing, whatever it said before.
func TestAbsentObservers(t *testing.T) {
	for name, spoil := range map[string]func(w *world, observer string){
		"agent down": func(w *world, o string) { w.frozen[o] = true; w.miss(o, false, true) },
		"fenced":     fenceOf,
		"gone":       func(w *world, o string) { w.frozen[o] = true; delete(w.v.Verdicts, o) },
	} {
		w := three(t)
		for _, o := range []string{"a2", "a3", "c1"} { // of six, so not enough
			w.misses(o, "a1", false, false)
		}
		w.frozen["a1"] = true
		if w.run(10 * time.Second); w.class("a1") == Down {
			t.Fatalf("%+v", w.last.Nodes["a1"])
		}
		spoil(w, "b2")
		spoil(w, "c2")
		if w.run(10 * time.Second); w.class("a1") != Down {
			t.Errorf("%s: %+v", name, w.last.Nodes["a1"])
		}
	}
}

// TestWakesToOldNews: what moved while the leader slept may have moved long ago.
func TestWakesToOldNews(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.tick()
	w.tick()
	for name := range w.v.Nodes {
		v := *w.v.Verdicts[name]
		v.Counter++
		w.v.Verdicts[name] = &v
	}
	w.v.Now = w.v.Now.Add(time.Hour)
	if w.decide(); w.last.Nodes["a1"].Suspected {
		t.Errorf("%+v", w.last.Nodes["a1"])
	}
}

// TestElectedToOldNews: what moved while nobody knew how far the view was behind may have
// moved long ago; what was seen to move shortly before that counts on.
func TestElectedToOldNews(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.v.Behind = true
	if w.tick(); w.last.Nodes["a1"].Suspected {
		t.Errorf("by verdicts that nobody saw move: %+v", w.last.Nodes["a1"])
	}
	w.v.Behind = false
	if w.tick(); !w.last.Nodes["a1"].Suspected {
		t.Errorf("they moved: %+v", w.last.Nodes["a1"])
	}
	for range freshPeriods - 1 {
		w.v.Behind = true
		if w.tick(); !w.last.Nodes["a1"].Suspected {
			t.Errorf("they moved shortly before: %+v", w.last.Nodes["a1"])
		}
	}
	if w.tick(); w.last.Nodes["a1"].Suspected {
		t.Errorf("they moved long before: %+v", w.last.Nodes["a1"])
	}
}

// TestLost: a node is lost when it was down for as long as evidence has to hold.
func TestLost(t *testing.T) {
	w := three(t)
	w.frozen["a1"] = true // so its keepalive is late when it falls silent
	w.run(5 * time.Second)
	w.die("a1")
	for w.tick(); w.class("a1") != Down; {
		if w.tick(); w.last.Nodes["a1"].Lost {
			t.Fatalf("not down: %+v", w.last.Nodes["a1"])
		}
	}
	since := w.v.Now
	for !w.last.Nodes["a1"].Lost {
		w.tick()
	}
	if took := w.v.Now.Sub(since); took != w.v.Timings.Confirm {
		t.Errorf("lost after %s, want %s", took, w.v.Timings.Confirm)
	}
	if w.live(10 * time.Second); !w.last.Nodes["a1"].Lost {
		t.Errorf("fenced, and lost no more: %+v", w.last.Nodes["a1"])
	}
}

// TestObserversChange: who observes whom is looked up anew when nodes come.
func TestObserversChange(t *testing.T) {
	w := three(t)
	for _, o := range []string{"a2", "a3", "b1", "b2"} {
		w.misses(o, "a1", false, false)
	}
	w.frozen["a1"] = true
	if w.run(5 * time.Second); w.class("a1") != Down {
		t.Fatalf("4 of 6: %+v", w.last.Nodes["a1"])
	}
	w.v.Nodes["x1"] = &cluster.Node{ID: "id-x1", Datacenter: "d4", State: cluster.NodeActive, Agent: true}
	w.v.Verdicts["x1"] = &cluster.Verdicts{NodeID: "id-x1"}
	if w.tick(); w.class("a1") == Down {
		t.Errorf("4 of 7: %+v", w.last.Nodes["a1"])
	}
}

// TestStandingVerdicts: of those who once said so only one goes on.
func TestStandingVerdicts(t *testing.T) {
	w := three(t)
	w.die("a1")
	w.tick()
	for _, o := range []string{"a2", "a3", "b2", "c1", "c2"} {
		w.frozen[o] = true
	}
	if d, _ := w.run(20 * time.Second); d != nil || w.class("a1") == Down || !w.last.Nodes["a1"].Suspected {
		t.Errorf("%+v, %+v", d, w.last.Nodes["a1"])
	}
}

// TestOneDatacenter: its own witness makes two places of it, so a host can be told to
// be lost; without one, nothing can.
func TestOneDatacenter(t *testing.T) {
	for witness, want := range map[string]string{"d1/w!": "a2", "d1/a4": "a1"} {
		w := newWorld(t, "d1/a1", "d1/a2", "d1/a3", witness)
		w.settle()
		w.die("a1")
		if w.live(10 * time.Second); w.at("e0").owner() != want {
			t.Errorf("with %s: at %s, want %s: %+v", witness, w.at("e0").owner(), want, w.last.Nodes["a1"])
		}
	}
}
