package watcher

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestFindIsAnswered: each member says once what its bridge knows of a MAC; and so
// does an agent that comes to be later only what is asked after that.
func TestFindIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		mac := cluster.MAC{2, 0, 0, 0, 0, 9}
		w.hosts["n1"].Learned("vpc1", mac, hostops.Sighting{Device: "veth12"})
		w.hosts["n2"].Learned("vpc1", mac, hostops.Sighting{Device: "mv6-10000", Peer: underlayOf(1)})
		w.stop["n3"]()
		w.put(cluster.Operator, cluster.KeyVPCFind("vpc1"), &cluster.FindRequest{ID: "f1", MAC: mac})
		w.settle(100 * time.Millisecond)
		w.start("n3")
		w.settle(10 * time.Second)
		w.found(map[string]*cluster.FindResult{"n1": {ID: "f1", Device: "veth12"}, "n2": {ID: "f1", Peer: "n1"}, "n3": nil})

		w.hosts["n1"].Learned("vpc1", mac, hostops.Sighting{})
		before := w.revision()
		w.settle(10 * time.Minute)
		w.found(map[string]*cluster.FindResult{"n1": {ID: "f1", Device: "veth12"}, "n2": {ID: "f1", Peer: "n1"}, "n3": nil})
		if n := w.revision() - before; n != 0 {
			t.Errorf("%d writes while nobody asks", n)
		}
		w.hosts["n2"].Learned("vpc1", mac, hostops.Sighting{Device: "mv6-10000", Peer: underlayOf(77)})
		w.put(cluster.Operator, cluster.KeyVPCFind("vpc1"), &cluster.FindRequest{ID: "f2", MAC: mac})
		w.settle(100 * time.Millisecond)
		w.found(map[string]*cluster.FindResult{"n1": {ID: "f2"}, "n2": {ID: "f2", Reason: "it is behind 2001:db8:77::10, which no member has"}, "n3": {ID: "f2"}})
	})
}

// found compares the answers that the store has.
func (w *world) found(want map[string]*cluster.FindResult) {
	w.t.Helper()
	got := map[string]*cluster.FindResult{}
	for node := range want {
		it, err := store.Get[*cluster.FindResult](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyFindResult(node, "vpc1"))
		if got[node] = nil; err == nil {
			got[node] = it.Value
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("found (-want +got):\n%s", diff)
	}
}
