package watcher

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

func TestGatewayOfHost(t *testing.T) {
	addresses, err := cluster.ParseGateway("10.10.11.1/24,fd00:11::1/64")
	if err != nil {
		t.Fatal(err)
	}
	mine := &cluster.Member{VTEP: netip.MustParseAddr("10.100.0.7")}
	v := &vpc{VNI: 10000}
	if g := v.gateway(mine); g != nil || v.gatewaysFor([]netip.Prefix{netip.MustParsePrefix("10.10.11.5/24")}) != nil {
		t.Errorf("a VPC without a gateway has %+v", g)
	}
	for mode, want := range map[cluster.GatewayMode]hostops.Gateway{
		"":                     {MAC: cluster.MAC{0x0e, 0x67, 0, 0, 0x27, 0x10}, Addresses: addresses.List(), Anycast: true},
		cluster.GatewayPerHost: {MAC: cluster.MAC{0x0e, 0x68, 10, 100, 0, 7}, Addresses: addresses.List()},
	} {
		v.Gateway = cluster.Gateway{Addresses: addresses, Mode: mode}
		if diff := cmp.Diff(&want, v.gateway(mine), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("mode %q (-want +got):\n%s", mode, diff)
		}
	}
	v.Gateway = cluster.Gateway{Addresses: addresses, Mode: cluster.GatewayActive, NAT: true}
	if diff := cmp.Diff(&hostops.Gateway{Active: true, NAT: true}, v.gateway(mine)); diff != "" {
		t.Errorf("one at a time (-want +got):\n%s", diff)
	}
	for name, tt := range map[string]struct {
		has, want []string
		routes    cluster.Routes
	}{
		"both families":  {has: []string{"10.10.11.5/24", "fd00:11::5/64"}, want: []string{"10.10.11.1", "fd00:11::1"}},
		"IPv6 alone":     {has: []string{"fd00:11::5/64"}, want: []string{"fd00:11::1"}},
		"none":           {},
		"routes of IPv4": {has: []string{"10.10.11.5/24", "fd00:11::5/64"}, routes: "192.168.0.0/16", want: []string{"10.10.11.1"}},
		"routes of IPv6": {has: []string{"10.10.11.5/24"}, routes: "fd00:9::/48"},
	} {
		v.Gateway.Routes = tt.routes
		var has []netip.Prefix
		for _, p := range tt.has {
			has = append(has, netip.MustParsePrefix(p))
		}
		var got []string
		for _, a := range v.gatewaysFor(has) {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("gateways of a workload with %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestGatewaysOfAttachment(t *testing.T) {
	addresses, err := cluster.ParseGateway("10.10.11.1/24")
	if err != nil {
		t.Fatal(err)
	}
	v := &vpc{Gateway: cluster.Gateway{Addresses: addresses}}
	own := &cluster.EndpointOwn{IPs: []netip.Addr{netip.MustParseAddr("10.10.11.5")}}
	for name, tt := range map[string]struct {
		at   attachment
		want int
	}{
		"namespace":                  {attachment{Kind: hostops.PortNetns, Own: own}, 1},
		"one with routes of its own": {attachment{Kind: hostops.PortNetns, Own: own, NoGateway: true}, 0},
		"no addresses yet":           {attachment{Kind: hostops.PortNetns}, 0},
		"virtual machine":            {attachment{Kind: hostops.PortTap, Own: own}, 0},
	} {
		if got := v.gatewaysOf(tt.at); len(got) != tt.want {
			t.Errorf("%s: gateways %v, want %d", name, got, tt.want)
		}
	}
}

// TestActiveGatewayOfHost: the endpoint that the controller makes is the port by which
// the gateway forwards, and no other VIP is.
func TestActiveGatewayOfHost(t *testing.T) {
	mac := cluster.GatewayMAC(10000, cluster.GatewayActive, netip.Addr{})
	vip := func(node string, mac cluster.MAC) attachment {
		return attachment{Kind: hostops.PortVIP, Standby: true, Own: &cluster.EndpointOwn{State: cluster.OwnAssigned, Node: node, MAC: mac, Era: 1, Epoch: 1}}
	}
	for name, tt := range map[string]struct {
		endpoint        string
		mode            cluster.GatewayMode
		at              attachment
		router, standby bool
	}{
		"here":             {cluster.GatewayEndpoint, cluster.GatewayActive, vip("h1", mac), true, false},
		"elsewhere":        {cluster.GatewayEndpoint, cluster.GatewayActive, vip("h2", mac), true, true},
		"another VIP":      {"www", cluster.GatewayActive, vip("h1", cluster.MAC{2, 0, 0, 0, 0, 1}), false, false},
		"of a user's":      {cluster.GatewayEndpoint, cluster.GatewayActive, vip("h1", cluster.MAC{2, 0, 0, 0, 0, 1}), false, false},
		"before it is one": {cluster.GatewayEndpoint, "", vip("h1", mac), false, false},
	} {
		v := &vpc{VNI: 10000, Gateway: cluster.Gateway{Mode: tt.mode}, Attachments: map[string]attachment{tt.endpoint: tt.at}}
		p := v.ports("blue", "h1")[0]
		if p.Router != tt.router || p.Trusted != tt.router || p.Standby != tt.standby {
			t.Errorf("%s: %+v; want a router: %v, in standby: %v", name, p, tt.router, tt.standby)
		}
	}
}
