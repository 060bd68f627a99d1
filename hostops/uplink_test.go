package hostops_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// No two VPCs have an uplink's address in common.
func TestUplinkAddresses(t *testing.T) {
	v := hosttest.MakeVPC(0)
	v.Tunnels = nil
	v.Gateway = hosttest.MakeGateway(v)
	v.Gateway.NAT = true
	had := map[netip.Prefix]cluster.VNI{}
	for _, vni := range []cluster.VNI{1, 2, 3, 255, 256, 10000, 10001, 65536, cluster.MaxVNI - 1, cluster.MaxVNI} {
		v.VNI = vni
		ops, problems := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{v}}, hostops.State{})
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		ends := 0
		for _, op := range ops {
			set, ok := op.(hostops.SetUplink)
			if !ok {
				continue
			}
			for _, p := range set.Addresses {
				ends++
				if other, taken := had[p.Masked()]; taken {
					t.Errorf("VNI %d and %d have %s", vni, other, p.Masked())
				}
				had[p.Masked()] = vni
				if p.Addr().Is4() && (p.Addr().As4()[0] < 240 || p.Addr().As4()[0] == 255) {
					t.Errorf("VNI %d has %s", vni, p)
				}
			}
		}
		if ends != 2 {
			t.Errorf("VNI %d: %d addresses at the host's end", vni, ends)
		}
	}
}

// An uplink is guarded before it exists, and a gateway's port has its ward.
func TestGuardedFirst(t *testing.T) {
	v := hosttest.MakeVPC(0)
	v.Tunnels = nil
	v.Gateway = hosttest.MakeGateway(v)
	v.Gateway.NAT = true
	ops, _ := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{v}}, hostops.State{})
	at := map[string]int{}
	for i, op := range ops {
		text := op.String()
		for _, begin := range []string{"guard uplinks", "create port mu-10000", "keep MAC", "create port mg-10000", "set namespace vpc-neta", "seal bridge"} {
			if strings.HasPrefix(text, begin) {
				at[begin] = i + 1
			}
		}
	}
	for _, pair := range [][2]string{
		{"guard uplinks", "create port mu-10000"}, {"keep MAC", "create port mg-10000"}, {"set namespace vpc-neta", "create port mg-10000"}, {"set namespace vpc-neta", "create port mu-10000"},
	} {
		if at[pair[0]] == 0 || at[pair[1]] == 0 || at[pair[0]] > at[pair[1]] {
			t.Errorf("%q is operation %d, %q %d", pair[0], at[pair[0]], pair[1], at[pair[1]])
		}
	}
}

// A host that keeps answers from uplinks says so, and how to let them in.
func TestClosedUplink(t *testing.T) {
	v := hosttest.MakeVPC(0)
	v.Tunnels = nil
	v.Gateway = hosttest.MakeGateway(v)
	state := hostops.State{Closed: []string{"net.ipv4.ip_forward"}}
	if _, problems := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{v}}, state); len(problems) > 0 {
		t.Errorf("without NAT: %v", problems)
	}
	v.Gateway.NAT = true
	_, problems := hostops.Plan(hostops.Desired{VPCs: []hostops.VPC{v}}, state)
	if len(problems) != 1 || problems[0].VPC != v.Name || !strings.Contains(problems[0].Reason, "sysctl -w net.ipv4.ip_forward=1") {
		t.Errorf("with NAT: %v", problems)
	}
}
