package hostops

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// GroupUplink marks the host's end of an uplink, in the top byte of a link group: it is
// no port of a bridge, and what comes in by it is routed.
const GroupUplink = 0x6c000000

// InnerUplink is the inner end of an uplink in a VPC's namespace.
const InnerUplink = "up0"

// UplinkOf is the host's end of a VPC's uplink.
func UplinkOf(v cluster.VNI) string { return numbered("mu-", v) }

// uplinkAddresses are those of the two ends of a VPC's uplink, IPv4 first. No other VPC
// has them, and nobody else: 240.0.0.0/4 was never given out (RFC 1112), and has room
// for a /30 of each VNI; the IPv6 ones are unique local (RFC 4193).
func uplinkAddresses(v cluster.VNI) (host, inner []netip.Prefix) {
	at := func(n byte) []netip.Prefix {
		low := 0xf0000000 | uint32(v)<<2
		b := [16]byte{0xfd, 0x6d, 0x65, 0x73, 0x68, byte(v >> 16), byte(v >> 8), byte(v), 15: n}
		return []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(low >> 24), byte(low >> 16), byte(low >> 8), byte(low) + n}), 30),
			netip.PrefixFrom(netip.AddrFrom16(b), 126),
		}
	}
	return at(1), at(2)
}

// uplinkMAC is the inner end's.
func uplinkMAC(v cluster.VNI) cluster.MAC {
	return cluster.MAC{0x0e, 0x69, 0, byte(v >> 16), byte(v >> 8), byte(v)}
}

// The operations on uplinks.
type (
	// GuardUplinks makes the rules for what comes in by uplinks: it reaches neither the
	// host itself, nor other VPCs' uplinks, nor anybody's UDP Port, where tunnels end; it
	// leaves with the host's own address; and only answers come back.
	GuardUplinks struct {
		Target
		Port uint16
	}
	// UnguardUplinks takes GuardUplinks back.
	UnguardUplinks struct{ Target }
	// SetUplink makes the host's end of an uplink, the Object, forward, with these
	// addresses, and brings it up.
	SetUplink struct {
		Target
		MTU       int // bytes
		Addresses []netip.Prefix
	}
	// SetDefault makes the default routes of a namespace, the Object, by one of its ports.
	SetDefault struct {
		Target
		Inner    string
		Gateways []netip.Addr
	}
)

func (o GuardUplinks) String() string {
	return fmt.Sprintf("guard uplinks: nothing to this host, other VPCs or UDP port %d, the host's address outside, answers only come back", o.Port)
}
func (o UnguardUplinks) String() string { return "stop guarding uplinks" }
func (o SetUplink) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set uplink %s: MTU %d", o.Object, o.MTU)
	for _, a := range o.Addresses {
		fmt.Fprintf(&b, ", address %s", a)
	}
	return b.String() + ", forwards, up"
}
func (o SetDefault) String() string {
	return fmt.Sprintf("set default routes%s in namespace %s: %s", on(o.Inner), o.Object, addrs(o.Gateways))
}

// uplink plans the way out of a VPC's namespace.
func (p *planner) uplink(v VPC, ns Namespace) {
	if v.Gateway == nil || !v.Gateway.NAT {
		return
	}
	name := UplinkOf(v.VNI)
	on, inside := Target{v.Name, name}, Target{v.Name, NamespaceOf(v.Name)}
	if p.taken(name) {
		p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", name)
		return
	}
	if port := cmp.Or(p.actual.Filter.Port, vxlanPort); p.actual.Filter.Uplinks != port { // one for all VPCs' uplinks
		p.add(GuardUplinks{on, port})
	}
	d, there := p.actual.Devices[name]
	have := ns.Further[InnerUplink]
	if have == nil || have.MAC != uplinkMAC(v.VNI) || !there {
		if there {
			p.add(DeleteDevice{on})
		}
		p.add(CreatePort{on, inside.Object, v.VNI, uplinkMAC(v.VNI), InnerUplink, UseVPC})
		d, have = Device{Kind: KindPort, Owner: v.VNI}, &NamespacePort{}
	}
	host, inner := uplinkAddresses(v.VNI)
	if d.Alias != uplinkAlias(v.Name) {
		p.add(SetAlias{on, uplinkAlias(v.Name)})
	}
	if d.MTU != v.MTU || !d.Up || !d.Quiet || !d.Forwards || !sameAddresses(d.Addresses, host) {
		p.add(SetUplink{on, v.MTU, host})
	}
	if have.MTU != v.MTU || !have.Up || !have.Forwards {
		p.add(SetPort{inside, v.MTU, InnerUplink, true})
	}
	for _, a := range inner {
		if !slices.Contains(have.Addresses, a) {
			p.add(AddAddress{inside, a, InnerUplink})
		}
	}
	for _, a := range have.Addresses {
		if !slices.Contains(inner, a) {
			p.remove(RemoveAddress{inside, a, InnerUplink})
		}
	}
	if by := []netip.Addr{host[0].Addr(), host[1].Addr()}; !slices.Equal(have.Gateways, by) {
		p.add(SetDefault{inside, InnerUplink, by})
	}
	for _, setting := range p.actual.Closed {
		p.problem(v.Name, "NAT gets no answers: this host does not forward them; allow it: sysctl -w %s=1", setting)
	}
}

func uplinkAlias(vpc string) string { return CleanAlias("uplink-of-" + vpc) }

func sameAddresses(a, b []netip.Prefix) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p netip.Prefix) bool { return !slices.Contains(b, p) })
}

// vxlanPort is where tunnels end if there is none yet that says otherwise (RFC 7348 §5).
const vxlanPort = 4789

// restUplinks takes the rules for uplinks back once there is none.
func (p *planner) restUplinks() {
	if p.actual.Filter.Uplinks == 0 {
		return
	}
	for _, v := range p.desired.VPCs {
		if v.Gateway != nil && v.Gateway.NAT {
			return
		}
	}
	for name, d := range p.actual.Devices {
		if name == UplinkOf(d.Owner) && p.held(d.Owner) {
			return
		}
	}
	p.remove(UnguardUplinks{Target{"", "filter"}})
}
