package watcher

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// gateway is what the VPC's gateway is to be on this host, nil if it has none.
func (v *vpc) gateway(mine *cluster.Member) *hostops.Gateway {
	switch {
	case !v.Gateway.Exists():
		return nil
	case v.Gateway.Mode == cluster.GatewayActive:
		return &hostops.Gateway{Active: true, NAT: v.Gateway.NAT}
	}
	return &hostops.Gateway{
		MAC:       cluster.GatewayMAC(v.VNI, v.Gateway.Mode, mine.VTEP),
		Addresses: v.Gateway.Addresses.List(),
		Anycast:   v.Gateway.Mode != cluster.GatewayPerHost,
		NAT:       v.Gateway.NAT,
	}
}

// routes reports whether an attachment is the VPC's gateway that one host has at a time.
func (v *vpc) routes(endpoint string, a attachment) bool {
	return endpoint == cluster.GatewayEndpoint && a.Kind == hostops.PortVIP && v.Gateway.Mode == cluster.GatewayActive &&
		a.Own != nil && a.Own.MAC == cluster.GatewayMAC(v.VNI, cluster.GatewayActive, netip.Addr{})
}

// gatewaysOf are where the routes of what is attached lead. Those of what is no network
// namespace are its own matter.
func (v *vpc) gatewaysOf(a attachment) []netip.Addr {
	if a.Kind != hostops.PortNetns || a.NoGateway || a.Own == nil {
		return nil
	}
	return v.gatewaysFor(v.addressesOf(a.Own))
}

// gatewaysFor are where the routes of a workload with these addresses lead: to the
// gateway of each family in which it has one, and in which there is a route.
func (v *vpc) gatewaysFor(addresses []netip.Prefix) (gs []netip.Addr) {
	routes := v.Gateway.Routes.List()
	for _, g := range v.Gateway.Addresses.List() {
		of := func(p netip.Prefix) bool { return p.Addr().Is4() == g.Addr().Is4() }
		if slices.ContainsFunc(addresses, of) && (len(routes) == 0 || slices.ContainsFunc(routes, of)) {
			gs = append(gs, g.Addr())
		}
	}
	return gs
}
