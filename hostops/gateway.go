package hostops

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Names of the inner ends of ports in a VPC's namespace.
const (
	InnerVTEP    = "vtep0"
	InnerGateway = "gw0"
	InnerActive  = "gw1" // of the gateway that one host has at a time

	GatewayPrefix = "gw" // begins the gateways'
)

// Gateway is a VPC's router on this host: a further port of the VPC's namespace,
// "mg-<vni>", with a MAC and addresses of its own.
type Gateway struct {
	// Active: one host has it at a time, by a Router among the VPC's Ports, which has MAC
	// and addresses. What it takes beside that is ready on each.
	Active bool `json:"active,omitempty"`

	MAC cluster.MAC `json:"mac"`
	// Addresses have the length of the VPC's networks, at most one a family.
	Addresses []netip.Prefix `json:"addresses"`
	// Anycast: other hosts' gateways have the same MAC. So it speaks with this host's
	// workloads only.
	Anycast bool `json:"anycast,omitempty"`
	// NAT: what is for elsewhere leaves by an uplink to this host, with the host's
	// own address.
	NAT bool `json:"nat,omitempty"`
}

// linkLocal is the address by which the gateway does neighbour discovery for others'
// packets: a port of ours has none made by the kernel (RFC 4291, appendix A).
func (g Gateway) linkLocal() netip.Prefix {
	m := g.MAC
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}), 64)
}

// all are the addresses of the gateway's port.
func (g Gateway) all() []netip.Prefix {
	as := slices.Clone(g.Addresses)
	if slices.ContainsFunc(as, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		as = append(as, g.linkLocal())
	}
	return as
}

// Routing is what a VPC's namespace forwards. The zero value is nothing.
type Routing struct {
	Gateway bool // what comes in by InnerGateway or InnerActive, and goes out there
	NAT     bool // and what goes out by InnerUplink, as from there, and answers to it
}

func (r Routing) String() string {
	switch {
	case r.NAT:
		return "by the gateway and the uplink"
	case r.Gateway:
		return "by the gateway"
	}
	return "nothing"
}

// routing is what the VPC's namespace is to forward.
func (v VPC) routing() Routing {
	return Routing{Gateway: v.Gateway != nil, NAT: v.Gateway != nil && v.Gateway.NAT}
}

// Ward keeps a MAC and addresses for one port of ours in a VPC, and within this host:
// no other port speaks as them, and nobody asks for them, or answers, by a tunnel.
type Ward struct {
	VNI       cluster.VNI // the VPC's
	MAC       cluster.MAC
	Addresses []netip.Addr
	// Local: the port sends nothing by tunnels at all.
	Local bool
}

// Equal reports whether w and o keep the same.
func (w Ward) Equal(o Ward) bool {
	return w.VNI == o.VNI && w.MAC == o.MAC && w.Local == o.Local && slices.Equal(w.Addresses, o.Addresses)
}

func (w Ward) String() string {
	where := "anywhere"
	if w.Local {
		where = "local"
	}
	b := fmt.Sprintf("VNI %d %s %s", w.VNI, where, w.MAC)
	for _, a := range w.Addresses {
		b += " " + a.String()
	}
	return b
}

// ParseWard reads what String has written.
func ParseWard(s string) (w Ward, ok bool) {
	words := strings.Fields(s)
	if len(words) < 4 || words[0] != "VNI" {
		return w, false
	}
	v, err := cluster.ParseVNI(words[1])
	if err != nil || w.MAC.UnmarshalText([]byte(words[3])) != nil {
		return w, false
	}
	w.VNI, w.Local = v, words[2] == "local"
	for _, word := range words[4:] {
		a, err := netip.ParseAddr(word)
		if err != nil {
			return w, false
		}
		w.Addresses = append(w.Addresses, a)
	}
	return w, w.String() == s
}

// ward is what the gateway's port is to have for itself.
func (v VPC) ward() Ward {
	w := Ward{VNI: v.VNI, MAC: v.Gateway.MAC, Local: v.Gateway.Anycast}
	for _, p := range v.Gateway.all() {
		w.Addresses = append(w.Addresses, p.Addr())
	}
	return w
}

// The operations that keep what a port has for it.
type (
	// SetWard keeps all others from what the port, the Object, has.
	SetWard struct {
		Target
		Ward Ward
	}
	// RemoveWard takes SetWard back.
	RemoveWard struct{ Target }
)

func (o SetWard) String() string {
	text := fmt.Sprintf("keep MAC %s, %s for port %s of VNI %d, and off its tunnels", o.Ward.MAC, addrs(o.Ward.Addresses), o.Object, o.Ward.VNI)
	if o.Ward.Local {
		text += ", by which it sends nothing"
	}
	return text
}
func (o RemoveWard) String() string { return "stop keeping MAC and addresses for port " + o.Object }

// equalGateways compares those of two VPCs.
func equalGateways(a, b *Gateway) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Active == b.Active && a.MAC == b.MAC && a.Anycast == b.Anycast && a.NAT == b.NAT && slices.Equal(a.Addresses, b.Addresses)
}
