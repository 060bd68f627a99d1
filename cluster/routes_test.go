package cluster

import (
	"strings"
	"testing"
)

func TestRoutesOfSpec(t *testing.T) {
	const dual, four = "10.10.11.1/24,fd00:11::1/64", "10.10.11.1/24"
	for name, tt := range map[string]struct {
		gateway, routes string
		noNAT           bool
		want            Routes
		says            string // "": it is right
	}{
		"none":                   {gateway: dual},
		"sorted":                 {gateway: dual, routes: "fd00:9::/48, 192.168.0.0/16,172.16.0.0/12", want: "172.16.0.0/12,192.168.0.0/16,fd00:9::/48"},
		"everything":             {gateway: dual, routes: "0.0.0.0/0,::/0", want: "0.0.0.0/0,::/0"},
		"around the network":     {gateway: four, routes: "10.0.0.0/8", want: "10.0.0.0/8"},
		"a next hop":             {gateway: four, routes: "192.168.0.0/16 via 10.10.11.7", says: "want a prefix alone, without a next hop"},
		"no prefix":              {gateway: four, routes: "192.168.0.0", says: "want prefixes like 192.168.0.0/16"},
		"host bits":              {gateway: four, routes: "192.168.1.0/16", says: "host bits are set; want 192.168.0.0/16"},
		"twice":                  {gateway: four, routes: "192.168.0.0/16,192.168.0.0/16", says: "192.168.0.0/16: it is there twice"},
		"no gateway":             {routes: "192.168.0.0/16", noNAT: true, says: "there is no gateway"},
		"no NAT":                 {gateway: four, routes: "192.168.0.0/16", noNAT: true, says: "leads nowhere without NAT"},
		"no IPv6 gateway":        {gateway: four, routes: "fd00:9::/48", says: "the gateway has no IPv6 address"},
		"the VPC's network":      {gateway: four, routes: "10.10.11.0/24", says: "it is in the VPC's network 10.10.11.0/24"},
		"in the VPC's network":   {gateway: dual, routes: "fd00:11::8/128", says: "it is in the VPC's network fd00:11::/64"},
		"in the peer network":    {gateway: four, routes: "10.100.7.0/24", says: "it is in the peer network 10.100.0.0/16"},
		"link-local":             {gateway: four, routes: "169.254.169.254/32", says: "no gateway leads to these addresses"},
		"IPv4 in disguise":       {gateway: dual, routes: "::ffff:10.0.0.0/104", says: "want it as an IPv4 prefix"},
		"too many":               {gateway: four, routes: strings.TrimSuffix(strings.Repeat("192.168.0.0/16,", maxRoutes+1), ","), says: "65 of them, want 64 at most"},
		"of a multicast address": {gateway: four, routes: "224.0.0.0/4", says: "no gateway leads to these addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			s := VPCSpec{State: VPCActive, Members: SelectAll, PeerNetwork: DefaultPeerNetwork, NAT: !tt.noNAT}
			var err error
			if s.Gateway, err = ParseGateway(tt.gateway); err != nil {
				t.Fatal(err)
			}
			s.Routes, err = ParseRoutes(tt.routes)
			if err == nil {
				err = s.Validate()
			}
			switch {
			case tt.says == "" && (err != nil || s.Routes != tt.want || routesOf(s.Routes.List()) != tt.want):
				t.Errorf("%q, %v; want %q", s.Routes, err, tt.want)
			case tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("refused: %v; want …%s…", err, tt.says)
			}
		})
	}
}
