package hostops

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// wanted is for whom a port is.
type wanted struct{ vpc, endpoint string }

// wantPorts notes which devices are wanted for workloads, for the first who wants
// one: even those that cannot be planned now are not removed.
func (p *planner) wantPorts(desired Desired) {
	for _, v := range desired.VPCs {
		for _, port := range v.Ports {
			if !has(p.ports, port.Device) {
				p.ports[port.Device] = wanted{v.Name, port.Endpoint}
			}
		}
	}
}

// taken reports whether something that is no part of a VPC itself has a name.
func (p *planner) taken(name string) bool {
	return has(p.actual.Others, name) || p.actual.Devices[name].Use != UseVPC
}

// workloads plans the ports of a VPC's workloads. One that cannot be keeps none of
// the others from being planned.
func (p *planner) workloads(v VPC) {
	if p.actual.Filter.Foreign {
		return
	}
	for _, port := range v.Ports {
		problem := Problem{VPC: v.Name, Endpoint: port.Endpoint}
		if first := p.ports[port.Device]; first != (wanted{v.Name, port.Endpoint}) {
			problem.Reason = fmt.Sprintf("device %s is attached for endpoint %s of VPC %s already: detach it there", port.Device, first.endpoint, first.vpc)
		} else {
			problem.Reason, problem.Gone = p.refused(v, port)
		}
		if problem.Reason != "" {
			p.problems = append(p.problems, problem)
			p.shut(v, port)
			continue
		}
		p.workload(v, port)
	}
}

// shut takes a standby's port down that cannot be as desired: it may be up from before
// something else was desired, and its VPC's owner waits for it to pass nothing.
func (p *planner) shut(v VPC, port Port) {
	d := p.actual.Devices[port.Device]
	mine := d.Use != UseVPC && d.Owner == v.VNI && d.Master == v.Name && p.ports[port.Device] == (wanted{v.Name, port.Endpoint})
	if mine && port.Standby && d.Up {
		p.add(SetDown{Target{v.Name, port.Device}})
	}
}

// refused says why a port cannot be.
func (p *planner) refused(v VPC, port Port) (why string, gone bool) {
	name := port.Device
	d, there := p.actual.Devices[name]
	o, foreign := p.actual.Others[name]
	use := UseMade
	if port.Kind == PortDevice {
		use = UseLent
	}
	switch {
	case name == "" || len(name) > 15 || strings.ContainsAny(name, "/: \t\n\x00") || name[0] == '.':
		return fmt.Sprintf("%q cannot name a device: choose another name", name), false
	case !port.MAC.Unicast():
		return fmt.Sprintf("a workload cannot have the MAC %s", port.MAC), false
	case p.names[name], there && (d.Use != use || port.Kind != PortDevice && d.Kind != kindOf(port)):
		return fmt.Sprintf("device %s is meshvpc's own, and in use: name another", name), false
	case there && d.Owner != v.VNI && p.held(d.Owner):
		return fmt.Sprintf("device %s is a port of another VPC (VNI %d): detach it there", name, d.Owner), false
	case port.Kind == PortVIP && p.actual.Filter.NoShields:
		return "this kernel cannot keep the port from speaking as others: use one with CONFIG_NF_TABLES_BRIDGE", false
	case !port.Trusted && p.actual.Filter.NoShields:
		return "this kernel cannot keep the port from speaking as others: attach it with --trust, or use a kernel with CONFIG_NF_TABLES_BRIDGE", false
	case port.Gated && p.actual.Filter.NoShields:
		return "this kernel cannot shut the port by itself, as an endpoint that is exclusive strict asks for: use a kernel with CONFIG_NF_TABLES_BRIDGE, or another node", false
	case port.Kind == PortTap && foreign:
		return fmt.Sprintf("device %s is there and is not meshvpc's: attach it with --device, or name another", name), false
	case (port.Kind == PortNetns || port.Kind == PortVIP) && foreign:
		return fmt.Sprintf("device %s is there and is not meshvpc's: remove or rename it", name), false
	case port.Kind == PortDevice && !there && !foreign:
		return fmt.Sprintf("device %s is not there", name), false
	case port.Kind == PortDevice && !there:
		return p.inUse(name, o), false
	}
	if space, known := p.actual.Spaces[port.Namespace]; port.Kind == PortNetns && known && space.gone(port) {
		return fmt.Sprintf("network namespace %s is gone: detach the endpoint, or attach it where its workload is now", port.Namespace), true
	}
	return "", false
}

// kindOf is what is made for a port.
func kindOf(p Port) Kind {
	if p.Kind == PortTap {
		return KindTap
	}
	return KindPort
}

// inUse says what a device does already that somebody would lend.
func (p *planner) inUse(name string, o Other) string {
	switch {
	case name == "lo" || o.Kind == KindBridge || o.Kind == KindTunnel:
		return fmt.Sprintf("device %s cannot be a port (%s): name another", name, cmp.Or(string(o.Kind), "loopback"))
	case o.Master != "":
		return fmt.Sprintf("device %s is a port of %s: take it out first", name, o.Master)
	}
	for _, a := range o.Addresses {
		if !kernelMade(a) {
			return fmt.Sprintf("device %s has the address %s: it is this host's; remove it, or name another device", name, a)
		}
	}
	if tunnel := p.carries(name); tunnel != "" {
		return fmt.Sprintf("device %s carries tunnel %s: name another", name, tunnel)
	}
	return ""
}

// kernelMade reports whether an address is one that the kernel gives to any device.
func kernelMade(a netip.Prefix) bool { return a.Addr().Is6() && a.Addr().IsLinkLocalUnicast() }

// carries names a tunnel that is, or is to be, on an underlay device; "" if none.
func (p *planner) carries(name string) string {
	for _, v := range p.desired.VPCs {
		for _, t := range v.Tunnels {
			if t.Device == name {
				return v.nameOf(t)
			}
		}
	}
	for _, tunnel := range slices.Sorted(maps.Keys(p.actual.Devices)) {
		if p.actual.Devices[tunnel].Underlay == name {
			return tunnel
		}
	}
	for _, tunnel := range slices.Sorted(maps.Keys(p.actual.Others)) {
		if p.actual.Others[tunnel].Underlay == name {
			return tunnel
		}
	}
	return ""
}

// workload plans one port. What keeps it from speaking as others is there before it
// is up, and it is announced before: so that a crash between the two announces it
// again, and that it does not hear itself.
func (p *planner) workload(v VPC, port Port) {
	on := Target{v.Name, port.Device}
	d := p.made(v, port)
	if d.Owner != v.VNI {
		p.add(SetOwner{on, v.VNI})
	}
	if port.Standby && d.Up { // first: a driver may be unable to do the rest
		p.add(SetDown{on})
		d.Up = false
	}
	p.gate(on, port)
	p.bind(on, port)
	if !d.Quiet {
		p.add(SetQuiet{on})
	}
	for _, a := range d.Addresses {
		p.remove(StripAddress{on, a})
	}
	if d.MTU != v.MTU {
		p.add(SetMTU{on, v.MTU})
	}
	changed := d.Master != v.Name
	if changed {
		p.add(SetMaster{on, v.Name})
		d.Pinned, d.Odd = cluster.MAC{}, false
	}
	if d.Odd {
		p.add(ResetPort{on})
	}
	if alias := v.aliasOfPort(port); port.Kind != PortDevice && d.Alias != alias {
		if port.Kind == PortNetns {
			p.add(SetInner{on, port.MAC, v.MTU, port.Namespace, port.Inode, port.Inner, port.Addresses, cluster.RoutesBy(port.Gateways, port.Routes)})
		}
		p.add(SetAlias{on, alias})
		changed = true
	}
	if port.Kind == PortVIP && !port.Standby {
		p.vip(on, v, port)
	}
	want := port.MAC
	if port.Standby {
		want = cluster.MAC{}
	}
	if d.Pinned != want {
		if d.Pinned != (cluster.MAC{}) {
			p.add(UnpinMAC{on, d.Pinned})
		}
		if !port.Standby {
			p.add(PinMAC{on, port.MAC})
		}
	}
	if port.Kind == PortVIP && port.Standby { // last: whoever has the MAC now is reached first
		p.vip(on, v, port)
	}
	if !port.Standby && (changed || !d.Up) {
		p.add(Announce{on, v.Name, port.MAC, port.binding().Addresses})
	}
	if !port.Standby && !d.Up {
		p.add(SetUp{on})
	}
}

// made plans that a port's device is there, and returns what the plan so far makes
// of it.
func (p *planner) made(v VPC, port Port) Device {
	on := Target{v.Name, port.Device}
	d, there := p.actual.Devices[port.Device]
	switch port.Kind {
	case PortDevice:
		if !there {
			o := p.actual.Others[port.Device]
			p.add(Lend{on, v.VNI})
			d = Device{Kind: o.Kind, Owner: v.VNI, Use: UseLent, MTU: o.MTU, Up: o.Up, Quiet: true}
		}
	case PortTap:
		if !there {
			p.add(CreateTap{on, v.VNI, port.user()})
			return Device{Kind: KindTap, Owner: v.VNI, Use: UseMade}
		}
		if d.User != port.user() {
			p.add(SetTap{on, port.user()})
		}
	case PortVIP:
		in := p.inside(v, port)
		if there && in.MAC != port.MAC {
			p.add(DeleteDevice{on})
			there = false
		}
		if !there {
			p.add(CreatePort{on, NamespaceOf(v.Name), v.VNI, port.MAC, port.inner(), UseMade})
			return Device{Kind: KindPort, Owner: v.VNI, Use: UseMade}
		}
	default:
		space, known := p.actual.Spaces[port.Namespace]
		_, vip := p.actual.Namespaces[NamespaceOf(v.Name)].Further[port.inner()]
		if there && (vip || known && space.ID != d.Space) {
			p.add(DeleteDevice{on}) // the path leads to a new namespace
			there = false
		}
		if !there {
			p.add(CreatePair{on, v.VNI, port.MAC, v.MTU, port.Namespace, port.Inode, port.Inner})
			return Device{Kind: KindPort, Owner: v.VNI, Use: UseMade, MTU: v.MTU}
		}
	}
	return d
}

// bind plans what the port may send as.
func (p *planner) bind(on Target, port Port) {
	has, bound := p.actual.Filter.Bindings[on.Object]
	switch {
	case port.Trusted && bound:
		p.remove(Unbind{on, []string{on.Object}})
	case !port.Trusted && (!bound || !has.lets(port)):
		p.add(Bind{on, port.binding()})
	}
}

// release is how a device of ours goes.
func release(on Target, d Device) Op {
	if d.Use == UseLent {
		return GiveBack{on}
	}
	return DeleteDevice{on}
}

// unbind takes the bindings of ports back that are neither wanted nor stay.
func (p *planner) unbind() {
	var gone []string
	for name := range p.actual.Filter.Bindings {
		if !has(p.ports, name) && !p.staysPort(name) {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		p.remove(Unbind{Target{"", "filter"}, gone})
	}
}
