package observe

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestWitness observes what can move in any VPC, while it has no agent.
func TestWitness(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := newBench(t)
		b.put(cluster.KeyConfig, &cluster.Config{Cluster: "c", ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange, Failover: cluster.ProfileFast}, cluster.Operator)
		b.put(cluster.KeyVPCNet("blue"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24")}, cluster.Controller)
		for i, name := range []string{"a0", "b0"} {
			b.put(cluster.KeyMember("blue", name), &cluster.Member{NodeID: "id-" + name, Datacenter: name[:1], VTEP: netip.AddrFrom4([4]byte{10, 100, 0, byte(i + 1)}),
				UnderlayIPv4: netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), Transport: cluster.Multipoint}, cluster.Controller)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Witness(ctx, Config{Node: "w", Store: store.New(b.kv, cluster.Identity{Role: cluster.Agent, Name: "w"}),
				Open: func(*zap.Logger) (Prober, error) { b.set(func() { b.open++ }); return b, nil }})
		}()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		b.set(func() { b.silent = map[string]Heard{"a0": off, "a1": off} })
		b.settle(time.Minute)
		b.want("no failover", "none")
		b.put(cluster.KeyEndpointSpec("blue", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(1, 0)),
			Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}}}, cluster.Operator)
		b.settle(5 * time.Second)
		b.want("failover", "a0")
		b.put(cluster.KeyNode("w"), &cluster.Node{ID: "id-w", Datacenter: "c", State: cluster.NodeActive, Agent: true, Key: strings.Repeat("f", 64)}, cluster.Operator)
		b.settle(5 * time.Second)
		b.want("it has an agent", "")
	})
}
