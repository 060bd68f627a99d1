package hostops_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// TestBatches: entries of tables go together, pairs' tunnels step by step, what
// removes not before what adds, and a handover as it was planned.
func TestBatches(t *testing.T) {
	shared := hostops.Target{VPC: "neta", Object: "mv4-10000"}
	pair := func(i int) hostops.Target {
		return hostops.Target{VPC: "neta", Object: fmt.Sprint("mp-2000", i)}
	}
	peer := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}) }
	tunnel := func(i int) []hostops.Op {
		return []hostops.Op{hostops.SetMaster{Target: pair(i), Bridge: "neta"}, hostops.SetIsolated{Target: pair(i)}, hostops.SetUp{Target: pair(i)},
			hostops.AddPeer{Target: pair(i), Peer: peer(i)}}
	}
	list := func(parts ...[]hostops.Op) (ops []hostops.Op) {
		for _, p := range parts {
			ops = append(ops, p...)
		}
		return ops
	}
	for name, tt := range map[string]struct {
		ops  []hostops.Op
		want string
	}{
		"entries": {
			[]hostops.Op{hostops.AddPeer{Target: shared, Peer: peer(1)}, hostops.AddPeer{Target: shared, Peer: peer(2)}, hostops.SetUp{Target: shared}, hostops.RemovePeer{Target: shared, Peer: peer(3)}},
			"add peer 192.0.2.1 to mv4-10000, add peer 192.0.2.2 to mv4-10000\nbring up mv4-10000\nremove peer 192.0.2.3 from mv4-10000\n",
		},
		"tunnels": {
			list(tunnel(1), tunnel(2)),
			"add port mp-20001 to bridge neta, add port mp-20002 to bridge neta\nisolate port mp-20001, isolate port mp-20002\n" +
				"bring up mp-20001, bring up mp-20002\nadd peer 192.0.2.1 to mp-20001, add peer 192.0.2.2 to mp-20002\n",
		},
		"removals come after": {
			list([]hostops.Op{hostops.SetUp{Target: pair(1)}, hostops.AddPeer{Target: pair(1), Peer: peer(1)}}, []hostops.Op{hostops.RemovePeer{Target: pair(2), Peer: peer(2)}}),
			"bring up mp-20001\nadd peer 192.0.2.1 to mp-20001\nremove peer 192.0.2.2 from mp-20002\n",
		},
		"handover": {
			[]hostops.Op{hostops.SetUp{Target: pair(1)}, hostops.AddPeer{Target: pair(1), Peer: peer(1)}, hostops.SetSending{Target: pair(1), Enabled: true},
				hostops.RemovePeer{Target: shared, Peer: peer(1)}, hostops.Forget{Target: shared, Peer: peer(1)}, hostops.SetSending{Target: pair(2), Enabled: true}},
			"bring up mp-20001\nadd peer 192.0.2.1 to mp-20001\nsend by port mp-20001\nremove peer 192.0.2.1 from mv4-10000\nforget MACs at 192.0.2.1 on mv4-10000\nsend by port mp-20002\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got strings.Builder
			for batch := range hostops.Batches(tt.ops, func(hostops.Op) bool { return false }) {
				for i, op := range batch {
					if i > 0 {
						got.WriteString(", ")
					}
					got.WriteString(op.String())
				}
				got.WriteString("\n")
			}
			if diff := cmp.Diff(tt.want, got.String()); diff != "" {
				t.Errorf("batches (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnisolatedStaysDown: of tunnels that are made together, the one that cannot
// be isolated is not brought up, and the others are.
func TestUnisolatedStaysDown(t *testing.T) {
	host, d := newHost(t)
	v := hosttest.MakeVPC(0)
	shared := v.Tunnels[0]
	v.Tunnels = nil
	for i := range 3 {
		pair := shared
		pair.Pair = cluster.VNI(20001 + i)
		pair.Peers = []hostops.Peer{{Node: fmt.Sprint("p", i), Underlay: netip.AddrFrom4([4]byte{203, 0, 113, byte(100 + i)}), VTEP: netip.AddrFrom4([4]byte{10, 100, 9, byte(i)})}}
		v.Tunnels = append(v.Tunnels, pair)
	}
	f := &failing{Driver: d, refuse: []string{"isolate port mp-20002"}}
	h, err := hostops.New(hostops.Config{Driver: f})
	if err != nil {
		t.Fatal(err)
	}
	h.Reconcile(t.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
	for i := range 3 {
		name := fmt.Sprint("mp-2000", i+1)
		if got := host.State().Devices[name].Up; got != (i != 1) {
			t.Errorf("%s is up: %t", name, got)
		}
	}
}
