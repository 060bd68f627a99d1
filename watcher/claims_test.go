package watcher

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestClaims: what a host claims of one MAC, step by step.
func TestClaims(t *testing.T) {
	mac := cluster.MAC{2, 0, 0, 0, 0, 1}
	at := func(node string, sequence uint64) *published { return &published{Node: node, Sequence: sequence} }
	frozen := func(node string, sequence uint64) *published { return &published{node, sequence, true} }
	type step struct {
		name  string
		after time.Duration
		heard uint64 // the count; 0: not heard, but old
		port  string // "": it is not known
		is    *published
		taken bool
		want  string // "port sequence", "": not claimed
	}
	for name, steps := range map[string][]step{
		"it comes, and another has it": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"published", 0, 1, "p", at("me", 0), false, "p 0"},
			{"another has it", 0, 1, "p", at("b", 1), false, ""},
			{"the bridge still says so", 0, 1, "p", at("b", 1), false, ""},
			{"the tunnel has it", 0, 0, "", at("b", 1), false, ""},
			{"heard again", 0, 2, "p", at("b", 1), false, "p 2"},
			{"published again", 0, 2, "p", at("me", 2), false, "p 2"},
		},
		"another was first": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"the other is published", 0, 1, "p", at("b", 0), false, ""},
			{"heard again", 0, 3, "p", at("b", 0), false, "p 1"},
			{"the other again", 0, 3, "p", at("b", 2), false, ""},
		},
		"it was there before the agent": {
			{"and is another's", 0, 0, "p", at("b", 4), false, ""},
			{"and speaks", 0, 1, "p", at("b", 4), false, "p 5"},
		},
		"it was there before the agent, and is nobody's": {
			{"so it is ours", 0, 0, "p", nil, false, "p 0"},
		},
		"it was ours before the agent": {
			{"so it is now", 0, 0, "p", at("me", 4), false, "p 4"},
		},
		"frozen elsewhere": {
			{"heard", 0, 1, "p", at("b", 4), false, "p 5"},
			{"frozen", 0, 1, "p", frozen("b", 4), false, ""},
			{"and is heard on", 0, 2, "p", frozen("b", 4), false, ""},
			{"and is heard no more", 0, 0, "", frozen("b", 4), false, ""},
			{"thawed", 0, 0, "", at("b", 4), false, ""},
			{"heard", 0, 3, "p", at("b", 4), false, "p 5"},
		},
		"frozen here": {
			{"heard", 0, 1, "p", frozen("me", 4), false, "p 4"},
		},
		"an endpoint takes it": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"taken", 0, 1, "p", nil, true, ""},
			{"not heard", 0, 0, "", nil, true, ""},
		},
		"an endpoint takes what is forgotten": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"forgotten", 0, 0, "", nil, false, "p 0"},
			{"taken", 0, 0, "", nil, true, ""},
		},
		"it falls silent": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"forgotten", time.Minute, 0, "", at("me", 0), false, "p 0"},
			{"for a while", claimGrace - 1, 0, "", at("me", 0), false, "p 0"},
			{"for long", 1, 0, "", at("me", 0), false, ""},
		},
		"it speaks in time": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"forgotten", time.Minute, 0, "", nil, false, "p 0"},
			{"heard", claimGrace - 1, 2, "p", nil, false, "p 0"},
			{"forgotten", time.Minute, 0, "", nil, false, "p 0"},
			{"for a while", claimGrace - 1, 0, "", nil, false, "p 0"},
		},
		"it is forgotten, and elsewhere": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"forgotten", 0, 0, "", at("me", 0), false, "p 0"},
			{"elsewhere", 0, 0, "", at("b", 1), false, ""},
		},
		"its port goes": {
			{"heard", 0, 1, "gone", nil, false, "gone 0"},
			{"not heard", 0, 0, "", nil, false, ""},
		},
		"it changes its port": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"at another", 0, 2, "q", nil, false, "q 0"},
		},
		"others count on": {
			{"heard", 0, 1, "p", nil, false, "p 0"},
			{"the controller counted", 0, 1, "p", at("me", 7), false, "p 7"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1800000000, 0)
			c := newClaims(now)
			for _, s := range steps {
				now = now.Add(s.after)
				h := hearing{me: "me", heard: hostops.NewTable[cluster.MAC, hostops.Heard](), ports: []string{"p", "q"}, is: map[cluster.MAC]published{},
					taken: func(cluster.MAC) bool { return s.taken }}
				if s.port != "" {
					h.heard.Set(mac, hostops.Heard{Port: s.port, Count: s.heard})
				}
				if s.is != nil {
					h.is[mac] = *s.is
				}
				was := c.of[mac] != nil
				changed, _ := c.follow(now, h)
				got := ""
				if mine := c.of[mac]; mine != nil {
					got = fmt.Sprint(mine.port, " ", mine.sequence)
				}
				if got != s.want || was != (got != "") && !changed {
					t.Errorf("%s: claims %q, changed %v; want %q", s.name, got, changed, s.want)
				}
			}
		})
	}
}

// TestClaimsAreBounded: a flood of random MACs costs a bounded number of claims, and of
// writes, and takes nothing from those that were there.
func TestClaimsAreBounded(t *testing.T) {
	now := time.Unix(1800000000, 0)
	c := newClaims(now)
	old := cluster.MAC{2, 9}
	h := hearing{me: "me", heard: hostops.NewTable[cluster.MAC, hostops.Heard](), ports: []string{"p"}, is: map[cluster.MAC]published{}, taken: func(cluster.MAC) bool { return false }}
	h.heard.Set(old, hostops.Heard{Port: "p"})
	writes, was := 0, map[cluster.MAC]claim{}
	look := func() {
		c.follow(now, h)
		for mac, mine := range c.of {
			if was[mac].port != mine.port {
				writes++
				was[mac] = *mine
			}
		}
	}
	look()
	for round := range 60 {
		for i := range 200 { // the bridge knows 4,000 of them
			mac := cluster.MAC{2, 0, 0, byte(round % 20), byte(i)}
			h.heard.Set(mac, hostops.Heard{Port: []string{"p", "q"}[round/20%2], Count: uint64(round*200 + i + 1)})
		}
		now = now.Add(time.Second)
		look()
	}
	if len(c.of) != cluster.MaxPublishedNode || c.of[old] == nil {
		t.Errorf("%d claims, the first is %v; want %d with it", len(c.of), c.of[old], cluster.MaxPublishedNode)
	}
	if most := claimBurst + 60*claimRate; writes > most {
		t.Errorf("%d writes in a minute, want %d at most", writes, most)
	}
	if want := 4001 - cluster.MaxPublishedNode; c.refused != want {
		t.Errorf("refused %d, want %d", c.refused, want)
	}
}

// TestClaimsSettle: two hosts hear what they hear, the controller publishes the greatest
// sequence: once it is quiet, exactly the last that heard a MAC has it, for both.
func TestClaimsSettle(t *testing.T) {
	mac := cluster.MAC{2, 0, 0, 0, 0, 1}
	rapid.Check(t, func(t *rapid.T) {
		now, count := time.Unix(1800000000, 0), uint64(0)
		hosts := map[string]*claims{"a": newClaims(now), "b": newClaims(now)}
		heard := map[string]hostops.Heard{}
		is := map[cluster.MAC]published{}
		knows := map[string]map[cluster.MAC]published{"a": {}, "b": {}}
		look := func(me string) {
			h := hearing{me: me, heard: hostops.NewTable[cluster.MAC, hostops.Heard](), ports: []string{"p"}, is: knows[me], taken: func(cluster.MAC) bool { return false }}
			if at, ok := heard[me]; ok {
				h.heard.Set(mac, at)
			}
			c := hosts[me]
			c.follow(now, h)
			// The kernel is told: what leads to a peer takes the entry from the port.
			if p, known := knows[me][mac]; known && p.Node != me && c.of[mac] == nil && heard[me].Count <= c.lost[mac] {
				delete(heard, me)
			}
		}
		publish := func() {
			p, known := is[mac]
			for _, node := range []string{"a", "b"} {
				if mine := hosts[node].of[mac]; mine != nil && (!known || mine.sequence > p.Sequence) {
					p, known = published{Node: node, Sequence: mine.sequence}, true
				}
			}
			if known {
				is[mac] = p
			}
		}
		last := ""
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			node := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "node")
			switch rapid.SampledFrom([]string{"speak", "look", "read", "publish"}).Draw(t, "what") {
			case "speak":
				if _, knew := heard[node]; !knew {
					count++
					heard[node] = hostops.Heard{Port: "p", Count: count}
				}
				last = node
			case "look":
				look(node)
			case "read":
				knows[node] = maps.Clone(is)
			case "publish":
				publish()
			}
		}
		quiet := func() {
			for range 6 {
				for _, node := range []string{"a", "b"} {
					look(node)
				}
				publish()
				for _, node := range []string{"a", "b"} {
					knows[node] = maps.Clone(is)
				}
			}
		}
		quiet()
		if last == "" {
			return
		}
		if _, knows := heard[last]; !knows { // it speaks once more
			count++
			heard[last] = hostops.Heard{Port: "p", Count: count}
		}
		quiet()
		got := map[string]bool{"a": hosts["a"].of[mac] != nil, "b": hosts["b"].of[mac] != nil}
		if diff := cmp.Diff(map[string]bool{"a": is[mac].Node == "a", "b": is[mac].Node == "b"}, got); diff != "" {
			t.Fatalf("published at %q, claimed (-want +got):\n%s", is[mac].Node, diff)
		}
		if n := len(heard); n != 1 {
			t.Fatalf("%d bridges have it at a port", n)
		}
	})
}
