package hostops

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// namespace plans the VPC's namespace and its port.
func (p *planner) namespace(v VPC) {
	name, port := NamespaceOf(v.Name), PortOf(v.VNI)
	on, onPort := Target{v.Name, name}, Target{v.Name, port}
	ns, there := p.actual.Namespaces[name]
	if there && ns.Owner == 0 {
		p.problem(v.Name, "network namespace %s is there and is not meshvpc's: remove it, or give the VPC another name", name)
		return
	}
	if p.taken(port) {
		p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", port)
		return
	}
	if there && (ns.Owner != v.VNI || (ns.Port != nil && ns.Port.Peer != port)) {
		p.add(DeleteNamespace{on})
		there = false
	}
	if !there {
		p.add(CreateNamespace{on, v.VNI})
		ns = Namespace{Owner: v.VNI}
	}
	if !ns.Quiet || !ns.Filtered {
		p.add(SetNamespace{on})
	}
	d, hasPort := p.actual.Devices[port]
	mac := VTEPMAC(v.VTEP.Addr())
	inner := ns.Port
	if inner == nil || inner.MAC != mac {
		if hasPort {
			p.add(DeleteDevice{onPort})
		}
		p.add(CreatePort{onPort, name, v.VNI, mac})
		d, inner = Device{Kind: KindPort, Owner: v.VNI}, &NamespacePort{}
	}
	p.common(onPort, d, v.MTU, portOf(v.Name))
	if d.Master != v.Name {
		p.add(SetMaster{onPort, v.Name})
		d.Pinned, d.Odd = cluster.MAC{}, false
	}
	if d.Odd {
		p.add(ResetPort{onPort})
	}
	if d.Pinned != mac {
		p.add(PinMAC{onPort, mac})
	}
	if !d.Up {
		p.add(SetUp{onPort})
	}
	if inner.MTU != v.MTU || !inner.Up {
		p.add(SetPort{on, v.MTU})
	}
	if !slices.Contains(inner.Addresses, v.VTEP) {
		p.add(AddAddress{on, v.VTEP})
	}
	for _, a := range inner.Addresses {
		if a != v.VTEP {
			p.remove(RemoveAddress{on, a})
		}
	}
	p.neighbours(on, v, inner.Neighbours)
}

// neighbours tells the namespace its peers' MACs, so that a probe asks nobody.
func (p *planner) neighbours(on Target, v VPC, have *Table[netip.Addr, cluster.MAC]) {
	set, extra := entries(v.Tunnels, have, func(p Peer) (netip.Addr, cluster.MAC) { return p.VTEP, VTEPMAC(p.VTEP) })
	p.adds = slices.Grow(p.adds, len(set))
	for _, e := range set {
		p.add(SetNeighbour{on, e.key, e.value})
	}
	for _, a := range extra {
		p.remove(RemoveNeighbour{on, a})
	}
}
