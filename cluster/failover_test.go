package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func observedBy(t *testing.T, size, dcs int) map[string]*Node {
	t.Helper()
	nodes := map[string]*Node{"w": {ID: "id-w", Datacenter: "third", State: NodeActive}}
	for i := range size {
		nodes[fmt.Sprintf("n%02d", i)] = &Node{ID: "id", Datacenter: fmt.Sprintf("dc%d", i%dcs), State: NodeActive, Agent: true}
	}
	return nodes
}

// TestObserversOf: near ones, far ones and the witness; no node observes itself; each
// is observed by some and the work is spread; one that comes changes little.
func TestObserversOf(t *testing.T) {
	nodes := observedBy(t, 30, 3)
	work, changed := map[string]int{}, 0
	for name, n := range nodes {
		got := ObserversOf(name, nodes)
		if !n.Agent {
			if got != nil {
				t.Errorf("the witness is observed by %v", got)
			}
			continue
		}
		near := 0
		for _, o := range got {
			work[o]++
			if nodes[o].Datacenter == n.Datacenter {
				near++
			}
		}
		if len(got) != 3+2*2+1 || near != 3 || slices.Contains(got, name) || !slices.Contains(got, "w") {
			t.Errorf("%s is observed by %v", name, got)
		}
		more := observedBy(t, 31, 3)
		if !slices.Equal(got, ObserversOf(name, more)) {
			changed++
		}
	}
	for name, n := range work {
		if name != "w" && n > 3*7 {
			t.Errorf("%s observes %d", name, n)
		}
	}
	if changed > 20 {
		t.Errorf("one node that came changed the observers of %d of 30", changed)
	}
	nodes["n00"].State = NodeLeft
	if ObserversOf("n00", nodes) != nil || slices.Contains(ObserversOf("n03", nodes), "n00") {
		t.Error("a removed node takes part")
	}
}

func TestPlace(t *testing.T) {
	p, err := ParsePlace("dc=gold,n2,label=ssd=yes")
	if err != nil || p.String() != "dc=gold,n2,label=ssd=yes" {
		t.Fatalf("%v, %v", p, err)
	}
	node := func(dc string, labels map[string]string) *Node {
		return &Node{Datacenter: dc, Labels: labels, Agent: true, State: NodeActive}
	}
	for _, c := range []struct {
		name string
		node *Node
		rank int
	}{
		{"n1", node("gold", nil), 0},
		{"n2", node("gold", nil), 0},
		{"n2", node("silver", nil), 1},
		{"n3", node("silver", map[string]string{"ssd": "yes"}), 2},
		{"n3", node("silver", map[string]string{"ssd": "no"}), -1},
		{"n1", &Node{Datacenter: "gold", State: NodeActive}, -1}, // no agent
	} {
		rank, ok := p.Rank(c.name, c.node)
		if ok != (c.rank >= 0) || ok && rank != c.rank {
			t.Errorf("%s %+v: %d, %v; want %d", c.name, c.node, rank, ok, c.rank)
		}
	}
	for _, bad := range []string{"", "dc=", "gold,,x", "label=a", strings.Repeat("a,", 64) + "a"} {
		if _, err := ParsePlace(bad); err == nil {
			t.Errorf("%.20q was taken", bad)
		}
	}
}

func TestFailoverOfSpec(t *testing.T) {
	ok := func() *EndpointSpec {
		return &EndpointSpec{State: EndpointActive, Auto: true, Failover: Failover{Mode: ModeStateless, Place: Place{"dc=gold"}}}
	}
	if err := ok().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*EndpointSpec){
		"bound, too":       func(s *EndpointSpec) { s.Node = "n1" },
		"no mode":          func(s *EndpointSpec) { s.Failover.Mode = "" },
		"no place":         func(s *EndpointSpec) { s.Failover.Place = nil },
		"two terms in one": func(s *EndpointSpec) { s.Failover.Place = Place{"dc=gold,dc=silver"} },
		"move in no epoch": func(s *EndpointSpec) { s.Failover.MoveTo = InEpoch{"n1", -1} },
		"failback":         func(s *EndpointSpec) { s.Failover.Failback = "soon" },
	} {
		s := ok()
		if spoil(s); s.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// TestWorkloadOfSpec: what may run twice says so, and what may not has a workload
// whose end can be confirmed.
func TestWorkloadOfSpec(t *testing.T) {
	of := func(mode Mode, workload string, edit func(*Failover)) error {
		s := &EndpointSpec{State: EndpointActive, Failover: Failover{Mode: mode, Place: Place{"a"}, Workload: workload}}
		edit(&s.Failover)
		return s.Validate()
	}
	none := func(*Failover) {}
	for name, err := range map[string]error{
		"stateful":  of(ModeStateful, "pg", none),
		"stateless": of(ModeStateless, "pg", func(f *Failover) { f.MayRunTwice = true }),
		"a check":   of(ModeStateful, "pg", func(f *Failover) { f.Check, f.CheckEvery, f.CheckMisses = CheckExec, Period(time.Second), 2 }),
		"a timeout": of(ModeStateful, "pg", func(f *Failover) { f.HookTimeout = Period(10 * time.Minute) }),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"stateful without one":      of(ModeStateful, "", none),
		"it may run twice":          of(ModeStateless, "pg", none),
		"a vip":                     of(ModeVIP, "pg", func(f *Failover) { f.MayRunTwice = true }),
		"receivers alone":           of(ModeStateful, "pg", func(f *Failover) { f.Exclusive = ExclusiveReceivers }),
		"a stateful one twice":      of(ModeStateful, "pg", func(f *Failover) { f.MayRunTwice = true }),
		"none may run twice":        of(ModeStateless, "", func(f *Failover) { f.MayRunTwice = true }),
		"a path":                    of(ModeStateful, "../x", none),
		"no such check":             of(ModeStateful, "pg", func(f *Failover) { f.Check = "sql" }),
		"misses of no check":        of(ModeStateful, "pg", func(f *Failover) { f.CheckMisses = 2 }),
		"too many misses":           of(ModeStateful, "pg", func(f *Failover) { f.Check, f.CheckMisses = CheckExec, 101 }),
		"a timeout that is none":    of(ModeStateful, "pg", func(f *Failover) { f.HookTimeout = Period(time.Millisecond) }),
		"a period that is too long": of(ModeStateful, "pg", func(f *Failover) { f.Check, f.CheckEvery = CheckExec, Period(time.Hour) }),
	} {
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	s := &EndpointSpec{Failover: Failover{Workload: "pg"}}
	if s.SetNeeds(); s.Needs != versionWorkload || Version < versionWorkload {
		t.Errorf("needs %d; an older version would let frames pass to what does not run", s.Needs)
	}
	for _, state := range []WorkloadState{WorkloadUnknown, WorkloadStarting, WorkloadRunning, WorkloadStopping} {
		if !state.MayRun() {
			t.Errorf("%s is taken for ended", state)
		}
	}
}

func TestProfile(t *testing.T) {
	for p, silence := range map[Profile]string{ProfileDefault: "2s", ProfileFast: "600ms"} {
		if got := p.Timings().Silence().String(); got != silence || p.Validate() != nil {
			t.Errorf("%q: silent for %s, want %s", p, got, silence)
		}
	}
	if Profile("slow").Validate() == nil {
		t.Error("a profile that nobody knows was taken")
	}
}

// TestStatefulIsStrict without a word, and what else is strict says so.
func TestStatefulIsStrict(t *testing.T) {
	for f, want := range map[*Failover]Isolation{
		{Mode: ModeStateful}:                              IsolationFence,
		{Mode: ModeStateful, Exclusive: ExclusiveStrict}:  IsolationFence,
		{Mode: ModeStateless}:                             IsolationKeep,
		{Mode: ModeStateless, Exclusive: ExclusiveStrict}: IsolationFence,
		{Exclusive: ExclusiveStrict}:                      IsolationKeep,
	} {
		if f.Isolation() != want || f.Strict() != (want == IsolationFence) {
			t.Errorf("%+v: strict %v, %s", f, f.Strict(), f.Isolation())
		}
	}
}
