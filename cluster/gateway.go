package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
)

// GatewayMode is which hosts have a VPC's gateway, and under which MAC.
type GatewayMode string

// The modes of gateways. Anycast, or empty: every member has the same address and
// MAC. PerHost: every member has the same address, and a MAC of its own. Active: one
// member has it at a time, as an endpoint that failover moves (see GatewayEndpoint).
const (
	GatewayAnycast GatewayMode = "anycast"
	GatewayPerHost GatewayMode = "per-host"
	GatewayActive  GatewayMode = "active"
)

// GatewayEndpoint is the name of the endpoint of mode vip, on all members, that the
// controller makes for a gateway of mode active. No other endpoint gets it.
const GatewayEndpoint = "gateway"

// IsGateway reports whether a spec of that name is the controller's, for a gateway of
// mode active, as its MAC tells.
func (s *EndpointSpec) IsGateway(name string) bool {
	return s != nil && name == GatewayEndpoint && s.Failover.Mode == ModeVIP && [2]byte(s.MAC[:2]) == [2]byte{0x0e, activeMAC}
}

// activeMAC is the second byte of an active gateway's MAC.
const activeMAC = 0x6a

// ParseGatewayMode reads what an operator asks for; anycast is what a gateway has that
// names none. Errors wrap ErrInvalid.
func ParseGatewayMode(s string) (GatewayMode, error) {
	m := GatewayMode(s)
	if m == GatewayAnycast {
		m = ""
	}
	return m, m.check()
}

func (m GatewayMode) check() error {
	switch m {
	case "", GatewayAnycast, GatewayPerHost, GatewayActive:
		return nil
	}
	return fmt.Errorf("%w gateway mode %q: want anycast, per-host or active", ErrInvalid, CleanText(string(m)))
}

// Gateway is a VPC's router, on every member, or on one at a time: without one nothing
// leaves the VPC. The zero value is none.
type Gateway struct {
	// Addresses are the gateway's own, at most one a family, each with the length of
	// the VPC's network.
	Addresses Networks    `json:"addresses,omitzero"`
	Mode      GatewayMode `json:"mode,omitempty"`
	// NAT: what is for elsewhere leaves by the member whose gateway it is sent to, with
	// that host's own address. It reaches whatever the host can, but for the host itself.
	NAT bool `json:"nat,omitempty"`
	// Routes are what attached workloads are told to send by the gateway; none:
	// everything.
	Routes Routes `json:"routes,omitempty"`
}

// AskedGateway is the gateway that the operator asks for.
func (s *VPCSpec) AskedGateway() Gateway { return Gateway{s.Gateway, s.GatewayMode, s.NAT, s.Routes} }

// ParseGateway reads addresses with lengths, at most one a family, joined by a comma;
// "" is none. Errors wrap ErrInvalid.
func ParseGateway(s string) (Networks, error) {
	n, err := ParseNetworks(s)
	if err != nil {
		return n, fmt.Errorf("%w gateway %q: want an address with its network's length, like 10.10.11.1/24, or one of each family, like 10.10.11.1/24,fd00:11::1/64", ErrInvalid, CleanText(s))
	}
	return n, nil
}

// Exists reports whether there is a gateway.
func (g Gateway) Exists() bool { return len(g.Addresses.List()) > 0 }

// In is the gateway's address in a network, the zero Addr if there is none.
func (g Gateway) In(network netip.Prefix) netip.Addr {
	for _, p := range g.Addresses.List() {
		if network.Contains(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// String is the addresses and what is special about it.
func (g Gateway) String() string {
	if !g.Exists() {
		return "none"
	}
	text := g.Addresses.String() + " " + string(cmp.Or(g.Mode, GatewayAnycast))
	if g.NAT {
		text += ", NAT"
	}
	if g.Routes != "" {
		text += ", routes " + string(g.Routes)
	}
	return text
}

// Validate checks what needs no other field of a VPC.
func (g Gateway) Validate() error { return g.check(netip.Prefix{}, Networks{}) }

// check is the first rule that the gateway breaks, beside the peer network, if that is
// a good one, and the VPC's own.
func (g Gateway) check(peer netip.Prefix, own Networks) error {
	if err := g.checkAddresses(peer, own); err != nil {
		return err
	}
	if err := g.Mode.check(); err != nil {
		return err
	}
	if err := g.checkMode(); err != nil {
		return err
	}
	if err := g.checkNAT(); err != nil {
		return err
	}
	return g.checkRoutes(peer, own)
}

func (g Gateway) checkAddresses(peer netip.Prefix, own Networks) error {
	for _, p := range g.Addresses.List() {
		if err := checkGatewayAddress(p, peer, own); err != nil {
			return err
		}
	}
	return nil
}

func (g Gateway) checkMode() error {
	if !g.Exists() && g.Mode != "" {
		return fmt.Errorf("%w gateway mode %s: there is no gateway; name its address", ErrInvalid, g.Mode)
	}
	return nil
}

// checkActive wants the addresses of a gateway of mode active to be the VPC's own, as
// those of an endpoint are.
func (g Gateway) checkActive(own Networks) error {
	if g.Mode != GatewayActive {
		return nil
	}
	for _, p := range g.Addresses.List() {
		if _, ok := own.Of(p.Addr()); !ok {
			return fmt.Errorf("%w gateway mode active: %s is of no network of the VPC, as an address that moves has to be; name the network %s", ErrInvalid, p.Addr(), p.Masked())
		}
	}
	return nil
}

func (g Gateway) checkNAT() error {
	if !g.Exists() && g.NAT {
		return fmt.Errorf("%w NAT: there is no gateway that could do it; name its address", ErrInvalid)
	}
	return nil
}

func checkGatewayAddress(p, peer netip.Prefix, own Networks) error {
	network := p.Masked()
	if err := checkNetwork("network of the gateway", network); err != nil {
		return err
	}
	last := network.Addr().BitLen() - p.Bits() // bits for hosts
	of, has := own.IPv6, own.IPv6.IsValid()
	if p.Addr().Is4() {
		of, has = own.IPv4, own.IPv4.IsValid()
	}
	switch {
	case !sendable(p.Addr()):
		return fmt.Errorf("%w gateway %s: no host can have this address", ErrInvalid, p)
	case peer.IsValid() && network.Overlaps(peer):
		return fmt.Errorf("%w gateway %s: its network %s overlaps the peer network %s, where the hosts' own addresses are", ErrInvalid, p, network, peer)
	case has && !of.Contains(p.Addr()):
		return fmt.Errorf("%w gateway %s: the address is not in the VPC's network %s", ErrInvalid, p, of)
	case has && of.Bits() != p.Bits():
		return fmt.Errorf("%w gateway %s: the VPC's network %s has the length %d, not %d: want %s", ErrInvalid, p, of, of.Bits(), p.Bits(), netip.PrefixFrom(p.Addr(), of.Bits()))
	case last > 1 && p.Addr() == network.Addr():
		return fmt.Errorf("%w gateway %s: it is the address of the network itself: want another of %s", ErrInvalid, p, network)
	case last > 1 && p.Addr().Is4() && !network.Contains(p.Addr().Next()):
		return fmt.Errorf("%w gateway %s: it is the broadcast address of %s: want another", ErrInvalid, p, network)
	}
	return nil
}

// Route puts a gateway in force. A host that does not know of it keeps what it has,
// and says so.
func (n *VPCNet) Route(g Gateway) {
	n.Gateway = g
	n.raise()
}

// raise makes what is in force readable by those hosts alone that know of all of it.
func (n *VPCNet) raise() {
	n.Needs = 0
	if n.Learning == LearnStatic {
		n.Needs = versionStatic
	}
	if n.Gateway.Exists() {
		n.Needs = versionGateway
	}
	if n.Learning == LearnPublish {
		n.Needs = versionPublish
	}
	if n.Gateway.Mode == GatewayActive || n.Gateway.Routes != "" {
		n.Needs = versionActive
	}
}

// GatewayMAC is the MAC of a VPC's gateway: the same on every host, or on whichever has
// it; if each has its own, one that follows from the host's VTEP address.
func GatewayMAC(v VNI, m GatewayMode, vtep netip.Addr) MAC {
	mac := MAC{0x0e, 0x67, 0, byte(v >> 16), byte(v >> 8), byte(v)}
	switch m {
	case GatewayPerHost:
		b := vtep.As16()
		return MAC{0x0e, 0x68, b[12], b[13], b[14], b[15]}
	case GatewayActive:
		mac[1] = activeMAC
	}
	return mac
}
