package failover

import (
	"testing"
	"time"
)

// TestThousand: a datacenter that has 1,000 endpoints is lost, and perhaps the leader with it
// or in the midst of the moves: all are placed, at most 500 a second, evenly, and none twice.
func TestThousand(t *testing.T) {
	for name, dies := range map[string]int{"one leader": -1, "the leader dies before the fences": 0, "in the midst": 1} {
		t.Run(name, func(t *testing.T) {
			w := crowdOf1000(t)
			for i, e := range w.v.Endpoints { // all at d0, which has every third host
				e.Own.Node = []string{"n0000", "n0003", "n0006"}[i%3]
			}
			w.settleIn()
			w.dieAll("d0")
			var times []time.Time
			granted := map[string]bool{}
			for begun := w.v.Now; len(granted) < 1000 && w.v.Now.Sub(begun) < time.Minute; {
				d := w.tick()
				if dies >= 0 && len(times) >= dies && (dies > 0 || len(d.Fences) > 0) {
					w.j, dies = New(), -1 // nothing of this pass is written
					continue
				}
				for _, g := range d.Grants {
					if granted[g.Endpoint] {
						t.Fatalf("%s is granted twice", g.Endpoint)
					}
					granted[g.Endpoint] = true
					times = append(times, w.v.Now)
				}
				w.write(d)
			}
			if len(granted) != 1000 || dies >= 0 {
				t.Fatalf("%d are placed; %s: %s", len(granted), w.last.Mode, w.last.Why)
			}
			for i := range times[grantsAtOnce:] {
				if times[i+grantsAtOnce].Sub(times[i]) < grantWindow {
					t.Fatalf("more than %d in %s", grantsAtOnce, grantWindow)
				}
			}
			has := map[string]int{}
			for _, e := range w.v.Endpoints {
				has[e.owner()]++
			}
			for node, n := range has {
				if w.v.Nodes[node].Datacenter == "d0" || n > 200 {
					t.Errorf("%s has %d", node, n)
				}
			}
			t.Logf("%d at %d nodes, the last %s after the first", len(granted), len(has), times[999].Sub(times[0]))
		})
	}
}
