package watcher

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// deaf hears of everybody but n3, whose kernel alone answers.
type deaf struct{}

func (deaf) Round(targets []observe.Target, heard func(string, bool)) {
	for _, t := range targets {
		heard(t.Node, true)
		if t.Node != "n3" {
			heard(t.Node, false)
		}
	}
}
func (deaf) Blind() bool { return false }
func (deaf) Close()      {}

// TestAgentObserves the places of what can move in its VPCs, while there are any, and
// what it sees is in its record.
func TestAgentObserves(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		w.prober = deaf{}
		for i := range 3 {
			name := w.node(i + 1)
			w.put(cluster.Operator, cluster.KeyNode(name), &cluster.Node{ID: "id-" + name, Datacenter: "dc1", State: cluster.NodeActive, Agent: true, Key: strings.Repeat("a", 64)})
			w.start(name)
		}
		defer w.close()
		w.vpc(3)
		w.spec("web1", "")
		w.owner("web1", "n2", 1)
		w.settle(time.Minute)
		verdicts := func() *cluster.Verdicts {
			it, err := store.Get[*cluster.Verdicts](t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyVerdicts("n1"))
			if err != nil {
				return nil
			}
			it.Value.Counter = 0
			return it.Value
		}
		if v := verdicts(); v != nil {
			t.Errorf("without failover: %+v", v)
		}
		w.movable()
		w.settle(10 * time.Second)
		want := &cluster.Verdicts{NodeID: "id-n1", Suspects: []cluster.Suspect{{Node: "n3", Kernel: true}}}
		if diff := cmp.Diff(want, verdicts()); diff != "" {
			t.Errorf("verdicts (-want +got):\n%s", diff)
		}
		w.spec("web1", "")
		w.settle(10 * time.Second)
		if diff := cmp.Diff(&cluster.Verdicts{NodeID: "id-n1"}, verdicts()); diff != "" {
			t.Errorf("verdicts afterwards (-want +got):\n%s", diff)
		}
	})
}
