package controller

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestGatewayInForce: what is asked for is in force, no endpoint gets its address, and
// one that has it keeps the gateway from being.
func TestGatewayInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		gateway := func(s string) cluster.Networks {
			n, err := cluster.ParseGateway(s)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
		s := spec("all", "10.100.0.0/16")
		s.Network = cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}
		s.Gateway = gateway("10.10.11.1/24")
		r.vpc("blue", s)
		settle()
		net := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue"))
		if net.Gateway != s.AskedGateway() || net.Needs < 3 {
			t.Errorf("in force: %+v, want the gateway, for hosts that know of it", net)
		}
		r.put(cluster.KeyEndpointSpec("blue", "e1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true})
		settle()
		own := get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("blue", "e1"))
		if !slices.Equal(own.IPs, []netip.Addr{netip.MustParseAddr("10.10.11.2")}) {
			t.Errorf("the first endpoint has %v; want the first address that is not the gateway's", own.IPs)
		}
		r.put(cluster.KeyEndpointSpec("blue", "e2"), &cluster.EndpointSpec{State: cluster.EndpointActive, IPs: []netip.Addr{netip.MustParseAddr("10.10.11.1")}})
		settle()
		if own := get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("blue", "e2")); own.State != cluster.OwnPending || !strings.Contains(own.Reason, "10.10.11.1 is reserved") {
			t.Errorf("an endpoint that asks for the gateway's address: %+v", own)
		}
		s.Gateway = gateway("10.10.11.2/24")
		r.put(cluster.KeyVPCSpec("blue"), s)
		settle()
		net = get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue"))
		if net.Gateway.Addresses != gateway("10.10.11.1/24") || !strings.Contains(net.Reason, "endpoint e1 has the address 10.10.11.2") {
			t.Errorf("in force: %+v; want the old gateway, and why", net)
		}
		s.Gateway = cluster.Networks{}
		r.put(cluster.KeyVPCSpec("blue"), s)
		settle()
		if net := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); net.Gateway.Exists() || net.Needs != 0 || net.Reason != "" {
			t.Errorf("in force: %+v, want none, for all", net)
		}
	})
}

// TestActiveGateway: the controller makes the endpoint of a gateway of mode active, keeps
// it to the gateway and what the operator says of its failover, and takes it back.
func TestActiveGateway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		s := spec("all", "10.100.0.0/16")
		s.Network = cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/24")}
		s.GatewayMode = cluster.GatewayActive
		ask := func(address string) {
			var err error
			if s.Gateway, err = cluster.ParseGateway(address); err != nil {
				t.Fatal(err)
			}
			r.put(cluster.KeyVPCSpec("blue"), s)
			settle()
		}
		key := cluster.KeyEndpointSpec("blue", cluster.GatewayEndpoint)
		net := func() *cluster.VPCNet { return get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")) }
		holds := func(address string) {
			t.Helper()
			mac := cluster.GatewayMAC(net().VNI, cluster.GatewayActive, netip.Addr{})
			own := get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("blue", cluster.GatewayEndpoint))
			if own.MAC != mac || !slices.Equal(own.IPs, []netip.Addr{netip.MustParseAddr(address)}) || own.Reason != "" {
				t.Errorf("the gateway's endpoint has %+v; want %s and %s", own, mac, address)
			}
		}

		// One of that name is in the way, as long as it is there.
		r.put(key, &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true})
		ask("10.10.11.9/24")
		if n := net(); n.Gateway.Exists() || !strings.Contains(n.Reason, "the name of its endpoint, gateway, is taken by another: delete that one") {
			t.Errorf("in force: %+v; want no gateway, and why", n)
		}
		r.put(key, &cluster.EndpointSpec{State: cluster.EndpointDeleting, Auto: true})
		settle()
		if n := net(); n.Gateway != s.AskedGateway() || n.Needs != 5 || n.Reason != "" {
			t.Errorf("in force: %+v; want the gateway, for hosts that know of this", n)
		}
		holds("10.10.11.9")
		e := get[*cluster.EndpointSpec](r, key)
		if !e.IsGateway(cluster.GatewayEndpoint) || !slices.Equal(e.Failover.Place, cluster.Place{cluster.SelectAll}) {
			t.Errorf("asked for: %+v; want a VIP on all members", e)
		}

		e.Failover.Preferred = "h1" // as "endpoint move" has it
		r.put(key, e)
		ask("10.10.11.1/24")
		holds("10.10.11.1")
		if e := get[*cluster.EndpointSpec](r, key); e.Failover.Preferred != "h1" {
			t.Errorf("an operator's word is lost: %+v", e)
		}
		e.State = cluster.EndpointDeleting
		r.put(key, e)
		settle()
		holds("10.10.11.1") // it is made again

		s.GatewayMode = ""
		ask("10.10.11.1/24")
		if left := r.dump(cluster.PrefixEndpoints("blue")); left != "" || net().Gateway != s.AskedGateway() || net().Needs != 3 {
			t.Errorf("anycast: left is %q, in force %+v", left, net())
		}
	})
}
