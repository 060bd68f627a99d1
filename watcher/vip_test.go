package watcher

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// vip asks for web1 as a VIP between these places.
func (w *world) vip(places ...cluster.Selector) {
	w.t.Helper()
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true,
		Failover: cluster.Failover{Mode: cluster.ModeVIP, Place: places}, Created: cluster.At(time.Unix(1, 0))})
}

// servesVIP reports whether a node's kernel has the port of web1, and answers by it.
func (w *world) servesVIP(node string) (there, serves bool) {
	s := w.hosts[node].State()
	device := hostops.EndpointPortOf("vpc1", "web1")
	_, there = s.Devices[device]
	in := s.Namespaces["vpc-vpc1"].Further[hostops.VIPOf("vpc1", "web1")]
	return there, there && s.Serves("vpc1", device) && in != nil && in.Up && len(in.Addresses) > 0
}

// TestVIPOfAgents: the hosts at a VIP's places have a port for it that nobody asked
// for, its owner serves it, and no other; it goes with its spec, and from a host that is
// no place of it any more.
func TestVIPOfAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := attachWorld(t)
		w.vip("n1", "n2")
		w.owner("web1", "n2", 2)
		w.settle(time.Second)
		want := func(step string, states map[string]cluster.PortState) {
			t.Helper()
			for _, node := range []string{"n1", "n2", "n3"} {
				there, serves := w.servesVIP(node)
				state, has := states[node]
				if there != has || serves != (state == cluster.PortReady) {
					t.Errorf("%s: %s has a port: %v, serves: %v; want %q", step, node, there, serves, state)
				}
				if w.request(node) != nil {
					t.Errorf("%s: %s asks for it", step, node)
				}
			}
		}
		want("two places", map[string]cluster.PortState{"n1": cluster.PortStandby, "n2": cluster.PortReady})
		w.wantPort("n1", cluster.PortStandby, 2)
		w.wantPort("n2", cluster.PortReady, 2)

		w.owner("web1", "n1", 3)
		w.settle(lingerFor / 2)
		for _, node := range []string{"n1", "n2"} { // the old owner until the new one surely is there
			if _, serves := w.servesVIP(node); !serves {
				t.Errorf("%s does not serve while it moves", node)
			}
		}
		w.settle(time.Second)
		want("moved", map[string]cluster.PortState{"n1": cluster.PortReady, "n2": cluster.PortStandby})

		for verb, refusal := range map[string]*local.Refusal{
			"attach": w.answered(w.attach("n1", local.AttachRequest{Netns: w.room("n1", "ns1")})).Refusal,
			"detach": w.detach("n1", local.DetachRequest{Endpoint: "web1"}),
		} {
			if refusal == nil || !strings.Contains(refusal.Text, verb+" endpoint \"web1\": it is a VIP") {
				t.Errorf("%s: %+v", verb, refusal)
			}
		}

		w.fence(1)
		w.settle(time.Second)
		want("fenced", map[string]cluster.PortState{"n1": cluster.PortStandby, "n2": cluster.PortStandby})
		w.raw(cluster.KeyFence("n1"), "")
		w.settle(10 * time.Second)
		want("freed", map[string]cluster.PortState{"n1": cluster.PortReady, "n2": cluster.PortStandby})

		w.vip("n2", "n3")
		w.settle(time.Second)
		want("other places", map[string]cluster.PortState{"n2": cluster.PortStandby, "n3": cluster.PortStandby})
		w.wantPort("n1", cluster.PortReleased, 3)
		w.owner("web1", "n3", 4)
		w.settle(time.Second)
		want("moved on", map[string]cluster.PortState{"n2": cluster.PortStandby, "n3": cluster.PortReady})

		w.raw(cluster.KeyEndpointSpec("vpc1", "web1"), "") // somebody's mistake
		w.settle(time.Second)
		want("spec gone", map[string]cluster.PortState{"n2": cluster.PortStandby, "n3": cluster.PortReady})
		w.raw(cluster.KeyEndpointOwn("vpc1", "web1"), "") // nothing is left of it
		w.settle(time.Second)
		want("gone", nil)
	})
}
