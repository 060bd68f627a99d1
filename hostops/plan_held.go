package hostops

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
)

// protect plans what keeps a held VPC closed: its seal, its shield, and who may
// send to its tunnels. The desired state does not know it (an agent without
// memory), so all of it is read off the host: who is flooded to may send. Only
// what was wiped is made anew; what is there stays as it is.
func (p *planner) protect() {
	f := p.actual.Filter
	if f.Foreign {
		return
	}
	var held []string // that lack something: most often nothing does
	for name, d := range p.actual.Devices {
		switch {
		case d.Kind == KindTunnel && has(f.VNIs, d.VNI) || d.Use != UseVPC && has(f.Bindings, name):
		case d.Kind == KindBridge && has(f.Seals, name) && has(f.Shields, d.Owner):
		case d.Kind == KindPort && d.Use == UseVPC && p.warded(name, d):
		case d.Use != UseVPC && !has(p.ports, name) && (p.held(d.Owner) || p.keeping[d.Owner]):
			held = append(held, name)
		case d.Use == UseVPC && !p.names[name] && !p.gone[name] && p.held(d.Owner):
			held = append(held, name)
		}
	}
	slices.Sort(held)
	for _, name := range held {
		switch d := p.actual.Devices[name]; {
		case d.Use != UseVPC:
			p.protectPort(name, d)
		case d.Kind == KindBridge:
			p.protectBridge(name, d)
		case d.Kind == KindTunnel:
			p.protectTunnel(d)
		case d.Kind == KindPort:
			p.protectWard(name, d)
			p.protectUplink(name, d)
		}
	}
}

func (p *planner) protectBridge(name string, d Device) {
	f := p.actual.Filter
	if _, sealed := f.Seals[name]; !sealed {
		p.add(Seal{Target{"", name}})
	}
	ns := p.actual.Namespaces[NamespaceOf(name)]
	if _, shielded := f.Shields[d.Owner]; shielded || f.NoShields || ns.Owner != d.Owner || ns.Port == nil || len(ns.Port.Addresses) == 0 {
		return
	}
	p.add(Shield{Target{"", "filter"}, d.Owner, ns.Port.Addresses[0].Masked()})
}

// protectPort binds a workload's port that is held, or kept, to what its alias says.
// What is lent has none that is ours.
func (p *planner) protectPort(name string, d Device) {
	f := p.actual.Filter
	if _, bound := f.Bindings[name]; bound || f.NoShields || d.Use != UseMade {
		return
	}
	if b, ok := bindingIn(d.Alias); ok {
		p.add(Bind{Target{"", name}, b})
	}
}

func (p *planner) protectTunnel(d Device) {
	f := p.actual.Filter
	if _, guarded := f.VNIs[d.VNI]; guarded || d.Group.IsValid() || d.Flood.Len() == 0 { // nobody knows who sends to a group
		return
	}
	on := Target{"", "filter"}
	if p.judged[d.VNI] { // a wanted VPC has the VNI, and says who may send
		p.add(Guard{on, d.VNI})
		return
	}
	if missing, _ := difference(slices.SortedFunc(d.Flood.Keys(), netip.Addr.Compare), f.Sources[d.VNI]); len(missing) > 0 {
		p.add(Allow{on, d.VNI, missing})
	}
	p.add(Guard{on, d.VNI})
}

// portOfHeld is the UDP port of a held tunnel, 0 if none is held.
func (p *planner) portOfHeld() uint16 {
	for _, name := range slices.Sorted(maps.Keys(p.actual.Devices)) {
		if d := p.actual.Devices[name]; d.Kind == KindTunnel && !p.names[name] && p.held(d.Owner) {
			return d.Port
		}
	}
	return 0
}

// warded reports whether a port of a namespace has what keeps it closed.
func (p *planner) warded(name string, d Device) bool {
	switch f := p.actual.Filter; name {
	case GatewayPortOf(d.Owner):
		return has(f.Wards, name)
	case UplinkOf(d.Owner):
		return f.Uplinks != 0
	}
	return true
}

// protectUplink makes the rules for uplinks anew for one that is held.
func (p *planner) protectUplink(name string, d Device) {
	if name == UplinkOf(d.Owner) && p.actual.Filter.Uplinks == 0 {
		p.add(GuardUplinks{Target{"", name}, cmp.Or(p.portOfHeld(), vxlanPort)})
	}
}
