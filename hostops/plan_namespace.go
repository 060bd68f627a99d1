package hostops

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// namespacePort is what one of the ports of a VPC's namespace is to be.
type namespacePort struct {
	device, alias string // of the host's end
	inner         string // name of the other end
	mac           cluster.MAC
	addresses     []netip.Prefix
	forwards      bool
}

// portsOfNamespace are the ports of a VPC's namespace, the VTEP's first.
func portsOfNamespace(v VPC) []namespacePort {
	ports := []namespacePort{{
		device: PortOf(v.VNI), alias: portOf(v.Name), inner: InnerVTEP, mac: VTEPMAC(v.VTEP.Addr()), addresses: []netip.Prefix{v.VTEP},
	}}
	if v.Gateway != nil && !v.Gateway.Active {
		ports = append(ports, namespacePort{
			device: GatewayPortOf(v.VNI), alias: gatewayOf(v.Name), inner: InnerGateway, mac: v.Gateway.MAC, addresses: v.Gateway.all(), forwards: true,
		})
	}
	return ports
}

// namespace plans the VPC's namespace and its ports.
func (p *planner) namespace(v VPC) {
	name := NamespaceOf(v.Name)
	on := Target{v.Name, name}
	ns, there := p.actual.Namespaces[name]
	if there && ns.Owner == 0 {
		p.problem(v.Name, "network namespace %s is there and is not meshvpc's: remove it, or give the VPC another name", name)
		return
	}
	ports := portsOfNamespace(v)
	if p.taken(ports[0].device) {
		p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", ports[0].device)
		return
	}
	if there && (ns.Owner != v.VNI || ns.misfit(v)) {
		p.add(DeleteNamespace{on})
		there = false
	}
	if !there {
		p.renewed[name] = true
		p.add(CreateNamespace{on, v.VNI})
		ns = Namespace{Owner: v.VNI}
	}
	if !ns.Quiet || !ns.Filtered || ns.Routing != v.routing() {
		p.add(SetNamespace{on, v.routing()})
	}
	var neighbours *Table[netip.Addr, cluster.MAC]
	if ns.Port != nil && ns.Port.MAC == ports[0].mac {
		neighbours = ns.Port.Neighbours
	}
	p.port(v, ports[0], ns.Port)
	p.neighbours(on, v, neighbours)
	for _, w := range ports[1:] { // last: what fails of them keeps nothing else from being done
		p.port(v, w, ns.port(w.inner))
	}
	p.uplink(v, ns)
}

// misfit reports whether the other end of any port is not where it was made.
func (n Namespace) misfit(v VPC) bool {
	for inner, device := range map[string]string{InnerVTEP: PortOf(v.VNI), InnerGateway: GatewayPortOf(v.VNI), InnerUplink: UplinkOf(v.VNI)} {
		if p := n.port(inner); p != nil && p.Peer != device {
			return true
		}
	}
	for inner, p := range n.Further {
		if device, is := deviceOfVIP(inner); is && p.Peer != device {
			return true
		}
	}
	for _, port := range v.Ports {
		if p := n.Further[InnerActive]; port.Router && p != nil && p.Peer != port.Device {
			return true
		}
	}
	return false
}

// port is the inner end of that name, nil if there is none.
func (n Namespace) port(inner string) *NamespacePort {
	if inner == InnerVTEP {
		return n.Port
	}
	return n.Further[inner]
}

// port plans one port of the VPC's namespace, whose inner end is have.
func (p *planner) port(v VPC, w namespacePort, have *NamespacePort) {
	on, onPort := Target{v.Name, NamespaceOf(v.Name)}, Target{v.Name, w.device}
	d, there := p.actual.Devices[w.device]
	if have == nil || have.MAC != w.mac {
		if there {
			p.add(DeleteDevice{onPort})
		}
		p.add(CreatePort{onPort, on.Object, v.VNI, w.mac, w.inner, UseVPC})
		d, have = Device{Kind: KindPort, Owner: v.VNI}, &NamespacePort{}
	}
	p.common(onPort, d, v.MTU, w.alias)
	if d.Master != v.Name {
		p.add(SetMaster{onPort, v.Name})
		d.Pinned, d.Odd = cluster.MAC{}, false
	}
	if d.Odd {
		p.add(ResetPort{onPort})
	}
	if d.Pinned != w.mac {
		p.add(PinMAC{onPort, w.mac})
	}
	if !d.Up {
		p.add(SetUp{onPort})
	}
	if have.MTU != v.MTU || !have.Up || have.Forwards != w.forwards {
		p.add(SetPort{on, v.MTU, w.inner, w.forwards})
	}
	for _, a := range w.addresses {
		if !slices.Contains(have.Addresses, a) {
			p.add(AddAddress{on, a, w.inner})
		}
	}
	for _, a := range have.Addresses {
		if !slices.Contains(w.addresses, a) {
			p.remove(RemoveAddress{on, a, w.inner})
		}
	}
}

// neighbours tells the namespace its peers' MACs, so that a probe asks nobody.
func (p *planner) neighbours(on Target, v VPC, have *Table[netip.Addr, cluster.MAC]) {
	set, extra := entries(v.Tunnels, have, func(p Peer) (netip.Addr, cluster.MAC) { return p.VTEP, VTEPMAC(p.VTEP) }, nil)
	p.adds = slices.Grow(p.adds, len(set))
	for _, e := range set {
		p.add(SetNeighbour{on, e.key, e.value})
	}
	for _, a := range extra {
		p.remove(RemoveNeighbour{on, a})
	}
}

// ward keeps what the gateway has for it.
func (p *planner) ward(v VPC) {
	on := Target{v.Name, GatewayPortOf(v.VNI)}
	if has, there := p.actual.Filter.Wards[on.Object]; !there || !has.Equal(v.ward()) {
		p.add(SetWard{on, v.ward()})
	}
}

// restWards removes the wards of ports that are neither wanted nor stay.
func (p *planner) restWards() {
	var gone []string
	for name, w := range p.actual.Filter.Wards {
		if !p.names[name] && !p.held(w.VNI) {
			gone = append(gone, name)
		}
	}
	slices.Sort(gone)
	for _, name := range gone {
		p.remove(RemoveWard{Target{"", name}})
	}
}

// protectWard keeps what a held gateway has for it, as its port says.
func (p *planner) protectWard(name string, d Device) {
	if has(p.actual.Filter.Wards, name) || p.actual.Filter.NoShields {
		return
	}
	for _, n := range p.actual.Namespaces {
		if in := n.Further[InnerGateway]; in != nil && in.Peer == name && n.Owner == d.Owner {
			w := Ward{VNI: d.Owner, MAC: in.MAC, Local: in.MAC == cluster.GatewayMAC(d.Owner, cluster.GatewayAnycast, netip.Addr{})}
			for _, a := range in.Addresses {
				w.Addresses = append(w.Addresses, a.Addr())
			}
			p.add(SetWard{Target{"", name}, w})
		}
	}
}
