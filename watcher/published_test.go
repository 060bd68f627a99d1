package watcher

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// learns has vpc1 learn that way.
func (w *world) learns(l cluster.Learning) {
	w.t.Helper()
	it, err := store.Get[*cluster.VPCNet](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Controller}), cluster.KeyVPCNet("vpc1"))
	if err != nil {
		w.t.Fatal(err)
	}
	net := *it.Value
	net.Learn(l)
	w.put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &net)
}

// foreign adds a port of somebody's own to vpc1's bridge on a host.
func (w *world) foreign(node, port string) {
	w.t.Helper()
	h := w.hosts[node]
	if err := errors.Join(h.AddDevice(port, hostops.Other{MTU: 1430}), h.SetMaster(port, "vpc1"), h.SetUp(port, true)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) speaks(node, port string, mac cluster.MAC) {
	w.t.Helper()
	if err := w.hosts[node].Speak(port, mac); err != nil {
		w.t.Fatal(err)
	}
	w.settle(20 * time.Millisecond)
}

// publish puts where a MAC is, as the controller does; "" deletes it.
func (w *world) publish(mac cluster.MAC, node string, sequence uint64, other string) {
	w.t.Helper()
	r := &cluster.PublishedMAC{Node: node, Port: "ext0", Sequence: sequence}
	if other != "" {
		r.Duplicate = &cluster.Duplicate{Node: other, Port: "ext0", At: cluster.At(time.Now())}
	}
	w.put(cluster.Controller, cluster.KeyPublished("vpc1", mac), r)
	w.settle(20 * time.Millisecond)
}

// claimed compares what nodes claim of a MAC, as "port sequence".
func (w *world) claimed(step string, mac cluster.MAC, want map[string]string) {
	w.t.Helper()
	got := map[string]string{}
	for node := range w.hosts {
		it, err := store.Get[*cluster.MACStatus](w.t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyMACStatus(node, "vpc1", mac))
		if err == nil {
			got[node] = fmt.Sprint(it.Value.Port, " ", it.Value.Sequence)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("%s: claims (-want +got):\n%s", step, diff)
	}
}

// sendsTo compares where hosts send for a MAC: to node number n, 0: to nobody.
func (w *world) sendsTo(step string, mac cluster.MAC, want map[string]int, yields bool) {
	w.t.Helper()
	for node, n := range want {
		d := w.hosts[node].State().Devices["mv6-10000"]
		at, told := d.FDB.Get(mac)
		if n == 0 && told || n != 0 && (at != underlayOf(n) || d.Yielding.Has(mac) != yields) {
			w.t.Errorf("%s: %s sends to %v (told: %v, yields %v), want node %d, %v", step, node, at, told, d.Yielding.Has(mac), n, yields)
		}
		from := w.hosts[node].State().Filter.Places[10000]
		for i := range 3 {
			if passes := from.Has(hostops.Placed{MAC: mac, From: underlayOf(i + 1)}); passes != (i+1 == n) {
				w.t.Errorf("%s: %s lets frames from node %d pass: %v", step, node, i+1, passes)
			}
		}
	}
}

// TestPublished: what a host hears at its own ports it claims, and what others have it
// sends there, until it hears it itself.
func TestPublished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		for _, node := range []string{"n1", "n2"} {
			w.foreign(node, "ext0")
		}
		mac := cluster.MAC{2, 0, 0, 0, 0, 9}
		w.settle(time.Second)
		w.speaks("n1", "ext0", mac)
		w.claimed("not published", mac, map[string]string{})
		w.learns(cluster.LearnPublish)
		w.settle(time.Second)
		w.claimed("heard before", mac, map[string]string{"n1": "ext0 0"})
		if s := w.status("n1"); s.Learning != cluster.LearnPublish || !s.Ready {
			t.Errorf("status %+v, want it publishing and ready", s)
		}
		w.publish(mac, "n1", 0, "")
		w.sendsTo("published", mac, map[string]int{"n1": 0, "n2": 1, "n3": 1}, true)

		w.speaks("n2", "ext0", mac)
		w.claimed("it moved", mac, map[string]string{"n1": "ext0 0", "n2": "ext0 1"})
		w.sendsTo("it moved, n2 knows", mac, map[string]int{"n1": 0, "n2": 0, "n3": 1}, true)
		w.publish(mac, "n2", 1, "")
		w.claimed("all know", mac, map[string]string{"n2": "ext0 1"})
		w.sendsTo("all know", mac, map[string]int{"n1": 2, "n2": 0, "n3": 2}, true)

		w.stop["n1"]()
		w.start("n1")
		w.settle(2 * time.Second)
		w.claimed("n1's agent began anew", mac, map[string]string{"n2": "ext0 1"})
		w.sendsTo("n1's agent began anew", mac, map[string]int{"n1": 2, "n2": 0, "n3": 2}, true)
		w.stop["n2"]()
		w.start("n2")
		w.settle(2 * time.Second)
		w.claimed("n2's agent began anew", mac, map[string]string{"n2": "ext0 1"})
		w.raw(cluster.KeyMACStatus("n2", "vpc1", cluster.MAC{2, 7}), `{"node_id":"id-n2","port":"x","sequence":0}`)

		w.speaks("n1", "ext0", mac)
		w.claimed("both have it", mac, map[string]string{"n1": "ext0 2", "n2": "ext0 1"})
		w.publish(mac, "n1", 2, "")
		w.speaks("n2", "ext0", mac)
		w.publish(mac, "n2", 3, "")
		w.claimed("to and fro", mac, map[string]string{"n2": "ext0 3"})
		w.sendsTo("to and fro", mac, map[string]int{"n1": 2, "n2": 0, "n3": 2}, true)
		w.speaks("n1", "ext0", mac)
		w.publish(mac, "n2", 3, "n1")
		w.claimed("frozen", mac, map[string]string{"n2": "ext0 3"})
		w.sendsTo("frozen", mac, map[string]int{"n1": 2, "n2": 0, "n3": 2}, false)
		revision := w.revision()
		for range 100 {
			w.speaks("n1", "ext0", mac)
		}
		if n := w.revision() - revision; n != 0 {
			t.Errorf("%d writes while a frozen MAC is heard elsewhere", n)
		}
		w.settle(3 * time.Minute)
		w.claimed("what nobody claims", cluster.MAC{2, 7}, map[string]string{})

		w.learns(cluster.LearnStatic)
		w.settle(time.Second)
		w.claimed("static", mac, map[string]string{})
		w.sendsTo("static", mac, map[string]int{"n1": 0, "n2": 0, "n3": 0}, false)
	})
}

// TestPublishedPortGoes: who hears a MAC no more says so, at once if its port is gone.
func TestPublishedPortGoes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.foreign("n1", "ext0")
		w.learns(cluster.LearnPublish)
		w.settle(time.Second)
		quiet, gone := cluster.MAC{2, 0, 0, 0, 0, 8}, cluster.MAC{2, 0, 0, 0, 0, 9}
		w.foreign("n1", "ext1")
		w.speaks("n1", "ext0", quiet)
		w.speaks("n1", "ext1", gone)
		w.publish(quiet, "n1", 0, "")
		w.claimed("heard", gone, map[string]string{"n1": "ext1 0"})
		w.hosts["n1"].Learned("vpc1", quiet, hostops.Sighting{})
		if err := w.hosts["n1"].SetMaster("ext1", ""); err != nil {
			t.Fatal(err)
		}
		w.settle(time.Second)
		w.claimed("its port is gone", gone, map[string]string{})
		w.claimed("silent", quiet, map[string]string{"n1": "ext0 0"})
		w.settle(claimGrace)
		w.claimed("silent for long", quiet, map[string]string{})
	})
}
