package hostops

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// VIPPrefix begins the names of VIPs' inner ends; what follows is as in the name of
// the host's end, so that each tells the other.
const VIPPrefix = "vip"

// VIPOf is the inner end, in the VPC's namespace, of a VIP's port: 15 characters.
func VIPOf(vpc, endpoint string) string { return vipOn(EndpointPortOf(vpc, endpoint)) }

func vipOn(device string) string { return VIPPrefix + strings.TrimPrefix(device, endpointPrefix) }

// deviceOfVIP is the host's end of a VIP's port with that inner end.
func deviceOfVIP(inner string) (string, bool) {
	rest, is := strings.CutPrefix(inner, VIPPrefix)
	return endpointPrefix + rest, is
}

// IsVIP reports whether a device of a VPC's namespace is the inner end of a VIP's port.
func IsVIP(inner string) bool { return strings.HasPrefix(inner, VIPPrefix) }

// inner is the name of the other end of a VIP's port.
func (p Port) inner() string {
	if p.Router {
		return InnerActive
	}
	return vipOn(p.Device)
}

// SetVIP makes the inner end of a VIP's port, the Object, what it has to be: with
// exactly these addresses, and up. What is sent from them leaves by it; from a Router,
// which what others send leaves by too, as routes say.
type SetVIP struct {
	Target
	Namespace string
	Inner     string
	MTU       int // bytes
	Addresses []netip.Prefix
	Forwards  bool
}

func (o SetVIP) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %s of port %s: MTU %d", o.Inner, o.Object, o.MTU)
	for _, a := range o.Addresses {
		fmt.Fprintf(&b, ", address %s", a)
	}
	if len(o.Addresses) == 0 {
		b.WriteString(", no address")
	}
	if o.Forwards {
		b.WriteString(", forwards")
	}
	return b.String() + ", up"
}

// inside is the inner end of a VIP's port, the zero value if it is not there.
func (p *planner) inside(v VPC, port Port) NamespacePort {
	name := NamespaceOf(v.Name)
	if in := p.actual.Namespaces[name].Further[port.inner()]; in != nil && !p.renewed[name] {
		return *in
	}
	return NamespacePort{}
}

// vip plans the inner end of a VIP's port. In standby it has no address: where an
// address is served elsewhere, nothing on this host takes it for its own.
func (p *planner) vip(on Target, v VPC, port Port) {
	have, want, forwards := p.inside(v, port), port.Addresses, port.Router && !port.Standby
	if port.Router {
		want = Gateway{MAC: port.MAC, Addresses: want}.all()
	}
	if port.Standby {
		want = nil
	}
	if have.MAC != port.MAC || have.MTU != v.MTU || !have.Up || have.Forwards != forwards || have.Sourced == port.Router || !sameAddresses(have.Addresses, want) {
		p.add(SetVIP{on, NamespaceOf(v.Name), port.inner(), v.MTU, slices.Clone(want), forwards})
	}
}

// vipDevices are the host's ends of all VIPs' ports: they are a part of their VPCs.
func vipDevices(d Desired) map[string]bool {
	all := map[string]bool{}
	for _, v := range d.VPCs {
		for _, p := range v.Ports {
			if p.Kind == PortVIP {
				all[p.Device] = true
			}
		}
	}
	return all
}
