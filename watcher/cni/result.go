package cni

import (
	"net"
	"net/netip"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// resultOf is what a runtime is told of a port: the devices of host and container,
// addresses, and routes, after what plugins before this one said.
func resultOf(c call, a local.Attached) *types100.Result {
	r := &types100.Result{}
	if c.previous != nil {
		*r = *c.previous
	}
	r.CNIVersion = types100.ImplementedSpecVersion
	inner := len(r.Interfaces) + 1
	r.Interfaces = append(r.Interfaces,
		&types100.Interface{Name: a.Device, Mtu: a.MTU},
		&types100.Interface{Name: c.device, Mac: a.MAC.String(), Mtu: a.MTU, Sandbox: c.netns})
	for _, ip := range a.Addresses {
		gateway, _ := gatewayOf(a, ip.Addr())
		r.IPs = append(r.IPs, &types100.IPConfig{Interface: &inner, Address: toIPNet(ip), Gateway: gateway.AsSlice()})
	}
	for _, to := range cluster.RoutesBy(a.Gateways, a.Routes) {
		r.Routes = append(r.Routes, &types.Route{Dst: toIPNet(to.To), GW: to.Via.AsSlice()})
	}
	if !c.DNS.IsEmpty() {
		r.DNS = c.DNS
	}
	return r
}

// gatewayOf is the gateway of an address's family.
func gatewayOf(a local.Attached, ip netip.Addr) (netip.Addr, bool) {
	for _, g := range a.Gateways {
		if g.Is4() == ip.Is4() {
			return g, true
		}
	}
	return netip.Addr{}, false
}

func toIPNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// toPrefix is the reverse of toIPNet; what is no prefix is not valid.
func toPrefix(n net.IPNet) netip.Prefix {
	a, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones)
}
