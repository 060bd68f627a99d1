package watcher

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// TestDropsAreReported: what a port was kept from sending is in its report, which is
// written once a minute at most, however much there is, and in the log once.
func TestDropsAreReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		core, logs := observer.New(zapcore.WarnLevel)
		w.stop["n1"]()
		w.log = zap.New(core)
		w.start("n1")
		w.settle(time.Second)
		device := w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1")}, 3).Device
		w.settle(2 * time.Minute)
		if got := w.port("n1").Dropped; got != nil {
			t.Errorf("nothing was dropped, and it reports %v", got)
		}
		w.hosts["n1"].Drop("another", "mac", 7)
		first := w.portVersion("n1")
		const minutes = 10
		for range minutes * 60 {
			w.hosts["n1"].Drop(device, "mac", 1)
			w.settle(time.Second)
		}
		w.hosts["n1"].Drop(device, "arp", 3)
		if n := w.portVersion("n1") - first; n < minutes-1 || n > minutes+1 {
			t.Errorf("%d writes in %d minutes; want one a minute", n, minutes)
		}
		w.settle(2 * time.Minute)
		want := map[string]uint64{"mac": minutes * 60, "arp": 3}
		if diff := cmp.Diff(want, w.port("n1").Dropped); diff != "" {
			t.Errorf("dropped (-want +got):\n%s", diff)
		}
		last := w.portVersion("n1")
		w.settle(10 * time.Minute)
		if n := w.portVersion("n1") - last; n != 0 {
			t.Errorf("%d writes while nothing is dropped", n)
		}
		warned := logs.FilterMessageSnippet("sends what it may not").All()
		if len(warned) != 1 || warned[0].ContextMap()["endpoint"] != "web1" {
			t.Errorf("warnings: %v; want one, about web1", warned)
		}
		if got := w.agents["n1"].ports().Ports[0].Dropped; !cmp.Equal(want, got) {
			t.Errorf("the socket tells %v; want %v", got, want)
		}
	})
}

// TestFloodsAreReported: what is over a VPC's limit is in its report, once a minute at
// most, and in the log once a storm; the limit is the spec's, also when that is gone.
func TestFloodsAreReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		core, logs := observer.New(zapcore.WarnLevel)
		w.stop["n1"]()
		w.log = zap.New(core)
		w.start("n1")
		w.settle(2 * time.Minute)
		limit := func(want int) {
			t.Helper()
			if got := w.hosts["n1"].State().Filter.Budgets[10000].Rate; got != want {
				t.Errorf("the host has the limit %d; want %d", got, want)
			}
		}
		limit(1000)
		spec := &cluster.VPCSpec{State: cluster.VPCActive, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24"), Members: "all", FloodLimit: 50}
		w.put(cluster.Operator, cluster.KeyVPCSpec("vpc1"), spec)
		w.settle(time.Second)
		limit(50)
		w.raw(cluster.KeyVPCSpec("vpc1"), "")
		w.settle(2 * time.Minute)
		limit(50)
		before := w.revision()
		const minutes = 5
		for range 2 {
			for range minutes * 60 {
				w.hosts["n1"].FloodOver(10000, 1)
				w.settle(time.Second)
			}
			w.settle(3 * time.Minute)
		}
		if n := w.revision() - before; n < 2*minutes || n > 2*(minutes+1) {
			t.Errorf("%d writes in two storms of %d minutes; want one a minute", n, minutes)
		}
		if got := w.status("n1").FloodDropped; got != 2*minutes*60 {
			t.Errorf("reported %d; want %d", got, 2*minutes*60)
		}
		if n := logs.FilterMessageSnippet("floods more than its limit").Len(); n != 2 {
			t.Errorf("%d warnings; want one for each of two storms", n)
		}
		spec.FloodLimit = cluster.NoFloodLimit
		w.put(cluster.Operator, cluster.KeyVPCSpec("vpc1"), spec)
		w.settle(time.Second)
		limit(0)
	})
}

// TestTrustedPortDropsNothing: what is counted of its device was before it was trusted.
func TestTrustedPortDropsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := attachWorld(t)
		defer w.close()
		device := w.attached("n1", local.AttachRequest{Netns: w.room("n1", "web1"), Trust: true}, 3).Device
		w.hosts["n1"].Drop(device, "mac", 7)
		w.settle(2 * time.Minute)
		if got := w.port("n1").Dropped; got != nil {
			t.Errorf("reported %v", got)
		}
	})
}

// portVersion counts the writes of a node's report about web1.
func (w *world) portVersion(node string) int64 {
	w.t.Helper()
	kvs, _, err := store.New(w.kv, cluster.Identity{Role: cluster.Operator}).Read(w.t.Context(), cluster.KeyEndpointStatus(node, "vpc1", "web1"))
	if err != nil || len(kvs) != 1 {
		w.t.Fatalf("report of web1: %v, %v", kvs, err)
	}
	return kvs[0].Version
}
