package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

func TestGatewayOfSpec(t *testing.T) {
	for name, tt := range map[string]struct {
		network, gateway string
		mode             GatewayMode
		nat              bool
		field, says      string // "": it is right
	}{
		"none":                       {},
		"both families":              {network: "10.10.11.0/24,fd00:11::/64", gateway: "10.10.11.1/24,fd00:11::1/64"},
		"each its own MAC":           {network: "10.10.11.0/24", gateway: "10.10.11.254/24", mode: GatewayPerHost},
		"without a network":          {gateway: "10.10.11.1/24"},
		"of a network of two":        {network: "10.10.11.0/31", gateway: "10.10.11.0/31"},
		"another length":             {network: "10.10.11.0/24", gateway: "10.10.11.1/25", field: "gateway", says: "the VPC's network 10.10.11.0/24 has the length 24, not 25: want 10.10.11.1/24"},
		"outside":                    {network: "10.10.11.0/24", gateway: "10.10.12.1/24", field: "gateway", says: "the address is not in the VPC's network 10.10.11.0/24"},
		"outside, IPv6":              {network: "10.10.11.0/24,fd00:11::/64", gateway: "fd00:12::1/64", field: "gateway", says: "not in the VPC's network fd00:11::/64"},
		"the network itself":         {network: "10.10.11.0/24", gateway: "10.10.11.0/24", field: "gateway", says: "the address of the network itself"},
		"broadcast":                  {network: "10.10.11.0/24", gateway: "10.10.11.255/24", field: "gateway", says: "the broadcast address of 10.10.11.0/24"},
		"last of IPv6":               {gateway: "fd00:11::ffff/112"},
		"of the peer network":        {gateway: "10.100.0.1/24", field: "gateway", says: "overlaps the peer network 10.100.0.0/16"},
		"around the peer network":    {gateway: "10.0.0.1/8", field: "gateway", says: "overlaps the peer network 10.100.0.0/16"},
		"link-local":                 {gateway: "fe80::1/64", field: "gateway", says: "cannot be given to hosts"},
		"multicast":                  {gateway: "224.0.0.5/24", field: "gateway", says: "cannot be given to hosts"},
		"no such mode":               {gateway: "10.10.11.1/24", mode: "both", field: "gateway_mode", says: "want anycast or per-host"},
		"one at a time":              {gateway: "10.10.11.1/24", mode: "active", field: "gateway_mode", says: "it needs failover"},
		"a mode without a gateway":   {mode: GatewayPerHost, field: "gateway_mode", says: "there is no gateway"},
		"NAT":                        {gateway: "10.10.11.1/24", nat: true},
		"NAT without a gateway":      {nat: true, field: "nat", says: "there is no gateway"},
		"a network that grew beside": {network: "10.10.10.0/23", gateway: "10.10.11.1/24", field: "gateway", says: "want 10.10.11.1/23"},
	} {
		t.Run(name, func(t *testing.T) {
			s := VPCSpec{State: VPCActive, Members: SelectAll, PeerNetwork: DefaultPeerNetwork, GatewayMode: tt.mode, NAT: tt.nat}
			var err error
			if s.Network, err = ParseNetworks(tt.network); err != nil {
				t.Fatal(err)
			}
			if s.Gateway, err = ParseGateway(tt.gateway); err != nil {
				t.Fatal(err)
			}
			wrong := s.Check()
			switch {
			case tt.field == "" && len(wrong) > 0:
				t.Errorf("refused: %v", wrong)
			case tt.field != "" && (len(wrong) != 1 || wrong[0].Field != tt.field || !strings.Contains(wrong[0].Error(), tt.says)):
				t.Errorf("refused: %v; want %s: …%s…", wrong, tt.field, tt.says)
			}
		})
	}
}

// Hosts that know nothing of a gateway keep off what is in force with one.
func TestGatewayNeeds(t *testing.T) {
	n := VPCNet{}
	n.Learn(LearnStatic)
	static := n.Needs
	g, err := ParseGateway("10.10.11.1/24")
	if err != nil {
		t.Fatal(err)
	}
	n.Route(Gateway{Addresses: g})
	if n.Needs <= static || n.Needs > Version {
		t.Errorf("with a gateway version %d is needed, %d without, this is %d", n.Needs, static, Version)
	}
	n.Learn("")
	if n.Needs <= static {
		t.Errorf("another way of learning forgets the gateway: version %d", n.Needs)
	}
	if n.Route(Gateway{}); n.Needs != 0 {
		t.Errorf("without a gateway version %d is needed", n.Needs)
	}
}

func TestGatewayMAC(t *testing.T) {
	a, b := netip.MustParseAddr("10.100.0.1"), netip.MustParseAddr("10.100.0.2")
	macs := map[MAC]bool{}
	for _, m := range []MAC{
		GatewayMAC(10000, GatewayAnycast, a), GatewayMAC(10001, "", a), GatewayMAC(10000, GatewayPerHost, a), GatewayMAC(10000, GatewayPerHost, b),
	} {
		if macs[m] || !m.Unicast() {
			t.Errorf("MAC %s is another's, or no host's", m)
		}
		macs[m] = true
	}
	if GatewayMAC(10000, "", a) != GatewayMAC(10000, GatewayAnycast, b) {
		t.Error("two hosts have two anycast MACs")
	}
}
