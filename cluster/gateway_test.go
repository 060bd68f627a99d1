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
		"no such mode":               {gateway: "10.10.11.1/24", mode: "both", field: "gateway_mode", says: "want anycast, per-host or active"},
		"one at a time":              {network: "10.10.11.0/24", gateway: "10.10.11.1/24", mode: GatewayActive, nat: true},
		"active without a network":   {gateway: "10.10.11.1/24", mode: GatewayActive, field: "gateway_mode", says: "10.10.11.1 is of no network of the VPC, as an address that moves has to be; name the network 10.10.11.0/24"},
		"active, IPv4 network alone": {network: "10.10.11.0/24", gateway: "10.10.11.1/24,fd00:11::1/64", mode: GatewayActive, field: "gateway_mode", says: "name the network fd00:11::/64"},
		"active without a gateway":   {mode: GatewayActive, field: "gateway_mode", says: "there is no gateway"},
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
	for _, g := range []Gateway{{Addresses: g, Mode: GatewayActive}, {Addresses: g, NAT: true, Routes: "192.168.0.0/16"}} {
		if n.Route(g); n.Needs < versionActive {
			t.Errorf("%s needs version %d, want %d", g, n.Needs, versionActive)
		}
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
		GatewayMAC(10000, GatewayActive, a),
	} {
		if macs[m] || !m.Unicast() {
			t.Errorf("MAC %s is another's, or no host's", m)
		}
		macs[m] = true
	}
	for _, m := range []GatewayMode{GatewayAnycast, GatewayActive} {
		if GatewayMAC(10000, m, a) != GatewayMAC(10000, m, b) {
			t.Errorf("two hosts have two %s MACs", m)
		}
	}
}

// TestIsGateway: what the controller makes is told from what a user has made of that
// name, whatever is said of its failover.
func TestIsGateway(t *testing.T) {
	ours := EndpointSpec{MAC: GatewayMAC(10000, GatewayActive, netip.Addr{}), Failover: Failover{Mode: ModeVIP, Place: Place{SelectAll}}}
	workload, other := ours, ours
	workload.Failover = Failover{}
	other.MAC = MAC{2, 0, 0, 0, 0, 1}
	for name, tt := range map[string]struct {
		of   *EndpointSpec
		name string
		want bool
	}{
		"the controller's": {&ours, GatewayEndpoint, true},
		"another name":     {&ours, "web1", false},
		"another MAC":      {&other, GatewayEndpoint, false},
		"a workload":       {&workload, GatewayEndpoint, false},
		"none":             {nil, GatewayEndpoint, false},
	} {
		if got := tt.of.IsGateway(tt.name); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}
