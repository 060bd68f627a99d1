package hostops

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Plan lists, in order, the operations that turn actual into desired, and what
// of desired cannot be. Pure: same input, same plan; desired is only read.
//
// The order holds promises: all that adds comes before all that removes; a
// source is allowed before it is a peer and denied after; who is fenced is so before
// anything else; a tunnel is guarded
// before it exists and isolated before it is up; a bridge is sealed before it is
// up, and before it has ports.
//
// What is ours and of no desired VPC is removed, or left as desired.Hold says.
// What is held stays protected: a filter that was wiped is made anew for it.
// A VPC with a problem keeps what it has: only what the problem blocks is left
// out, and other VPCs go on.
func Plan(desired Desired, actual State) ([]Op, []Problem) {
	p := planner{
		desired:  desired,
		actual:   actual,
		names:    map[string]bool{},
		vnis:     map[cluster.VNI]bool{},
		gone:     map[string]bool{},
		planned:  map[string]bool{},
		judged:   map[cluster.VNI]bool{},
		admitted: map[cluster.VNI]bool{},
		blocked:  map[cluster.VNI]bool{},
		renewed:  map[string]bool{},
		ports:    map[string]wanted{},
		keeping:  map[cluster.VNI]bool{},
		holders:  holdersOf(actual),

		atPeers: map[string]map[netip.Addr][]cluster.MAC{},
	}
	vpcs := p.valid(desired)
	p.reown(vpcs)
	p.wantPorts(desired)
	p.desired.Fenced = wantFenced(desired, actual)
	p.filter(vpcs)
	p.fences()
	for _, v := range vpcs {
		p.vpc(v)
	}
	p.protect()
	p.rest()
	return concat(p.adds, p.removes), p.problems
}

// planner gathers one plan.
type planner struct {
	desired  Desired
	actual   State
	names    map[string]bool      // devices and namespaces that are wanted
	vnis     map[cluster.VNI]bool // of the VPCs that are wanted
	gone     map[string]bool      // devices that the adds remove
	renewed  map[string]bool      // namespaces that are made anew, with nothing in them
	planned  map[string]bool      // tunnels that can be planned
	judged   map[cluster.VNI]bool // VNIs of wanted tunnels
	admitted map[cluster.VNI]bool // those that an Admit is for
	blocked  map[cluster.VNI]bool // those of them that something else stands in the way of
	ports    map[string]wanted    // for whom a port's device is, by device
	heldVNIs map[cluster.VNI]bool // of held tunnels, once the adds are planned; nil: not looked for yet
	keeping  map[cluster.VNI]bool // VPCs that keep ports that are not wanted
	holders  holders
	// atPeers are the workloads of static VPCs, by VPC and peer.
	atPeers  map[string]map[netip.Addr][]cluster.MAC
	reowned  []cluster.VNI // former owners of wanted bridges
	adds     []Op
	removes  []Op
	problems []Problem
}

// concat is slices.Concat that copies nothing if b is all, or a is: of a mesh's
// first plan there are thousands.
func concat[T any](a, b []T) []T {
	switch {
	case len(a) == 0:
		return b
	case len(b) == 0:
		return a
	}
	return slices.Concat(a, b)
}

func (p *planner) add(ops ...Op)    { p.adds = append(p.adds, ops...) }
func (p *planner) remove(ops ...Op) { p.removes = append(p.removes, ops...) }
func (p *planner) problem(vpc, format string, args ...any) {
	p.problems = append(p.problems, Problem{VPC: vpc, Reason: fmt.Sprintf(format, args...)})
}

// valid returns the VPCs that can be planned together, and notes what every
// desired VPC wants, so that nothing of it is removed.
func (p *planner) valid(desired Desired) []VPC {
	var out []VPC
	holder := map[cluster.VNI]string{}
	for _, v := range desired.VPCs {
		p.names[v.Name] = true
		p.names[NamespaceOf(v.Name)] = true
		p.names[PortOf(v.VNI)] = true
		if v.Gateway != nil {
			p.names[GatewayPortOf(v.VNI)] = !v.Gateway.Active || p.names[GatewayPortOf(v.VNI)]
			p.names[UplinkOf(v.VNI)] = v.Gateway.NAT || p.names[UplinkOf(v.VNI)]
		}
		for _, t := range v.Tunnels {
			p.names[v.nameOf(t)] = true
			p.judged[v.vniOf(t)] = true
		}
		p.vnis[v.VNI], p.judged[v.VNI] = true, true
		p.keeping[v.VNI] = p.keeping[v.VNI] || v.KeepPorts
		other, taken := holder[v.VNI]
		switch {
		case v.Name == "" || len(v.Name) > 15 || strings.ContainsAny(v.Name, "/ \t\n\x00") || v.Name[0] == '.':
			p.problem(v.Name, "VPC name %q cannot name a device: choose another name", v.Name)
		case v.VNI.Validate() != nil:
			p.problem(v.Name, "VNI %d is not from 1 to %d", v.VNI, cluster.MaxVNI)
		case taken:
			p.problem(v.Name, "VNI %d is used by VPC %s already: choose another VNI", v.VNI, other)
		case !v.VTEP.IsValid():
			p.problem(v.Name, "no VTEP address is assigned yet")
		default:
			holder[v.VNI] = v.Name
			out = append(out, v)
		}
	}
	for i, v := range out {
		out[i].Tunnels = p.pairs(v, holder)
		for _, t := range out[i].Tunnels {
			p.planned[v.nameOf(t)] = true
		}
	}
	return out
}

// pairs returns the VPC's tunnels without those of pairs that cannot be: their
// VNI must be nobody else's.
func (p *planner) pairs(v VPC, holder map[cluster.VNI]string) []Tunnel {
	if !slices.ContainsFunc(v.Tunnels, func(t Tunnel) bool { return t.Pair != 0 }) {
		return v.Tunnels
	}
	ts := make([]Tunnel, 0, len(v.Tunnels))
	for _, t := range v.Tunnels {
		other, taken := holder[t.Pair]
		switch {
		case t.Pair == 0:
		case len(t.Peers) != 1 || t.Pair.Validate() != nil:
			p.problem(v.Name, "tunnel %s: a pair has one peer and a VNI from 1 to %d", v.nameOf(t), cluster.MaxVNI)
			continue
		case taken:
			p.problem(v.Name, "VNI %d of the pair with %s is used by VPC %s already", t.Pair, t.Peers[0].Node, other)
			continue
		default:
			holder[t.Pair] = v.Name
		}
		ts = append(ts, t)
	}
	return ts
}

// reown notes whose bridges the wanted VPCs take over: what else those have is
// not held.
func (p *planner) reown(vpcs []VPC) {
	for _, v := range vpcs {
		if d, there := p.actual.Devices[v.Name]; there && d.Owner != v.VNI {
			p.reowned = append(p.reowned, d.Owner)
		}
	}
}

// filter makes sure that the filter judges the right port.
func (p *planner) filter(vpcs []VPC) {
	var port uint16
	for _, v := range vpcs {
		for _, t := range v.Tunnels {
			port = cmp.Or(port, t.Port)
		}
	}
	if port == 0 {
		port = p.portOfHeld()
	}
	f := &p.actual.Filter
	switch {
	case f.Foreign && port != 0:
		p.problem("", "nftables table inet %s is not meshvpc's: rename or remove it", FilterName)
	case port != 0 && f.Port != port:
		p.add(CreateFilter{Target{"", "filter"}, port})
		*f = Filter{Exists: true, Port: port, Shields: f.Shields, NoShields: f.NoShields, Seals: f.Seals, Bindings: f.Bindings, Gated: f.Gated,
			Wards: f.Wards, Uplinks: f.Uplinks, Budgets: f.Budgets, NoBudgets: f.NoBudgets}
	}
}

// vpc plans one VPC.
func (p *planner) vpc(v VPC) {
	if !p.bridge(v) {
		return
	}
	p.shield(v)
	p.budget(v)
	if v = p.gateway(v); v.Gateway != nil && !v.Gateway.Active {
		p.ward(v)
	}
	p.atPeers[v.Name] = v.workloads()
	p.namespace(v)
	p.tunnels(v)
	p.workloads(v)
}

// bridge reports whether the VPC's bridge is or will be there.
func (p *planner) bridge(v VPC) bool {
	if o, taken := p.actual.Others[v.Name]; taken {
		p.problem(v.Name, "device %s is there and is not meshvpc's (%s, link group %d): remove or rename it, or give the VPC another name",
			v.Name, cmp.Or(o.Kind, "no known kind"), o.Group)
		return false
	}
	on := Target{v.Name, v.Name}
	d, there := p.actual.Devices[v.Name]
	if d.Use != UseVPC {
		p.problem(v.Name, "device %s is the port of a workload: detach it, or give the VPC another name", v.Name)
		return false
	}
	if !there {
		p.add(CreateBridge{on, v.VNI})
		d = Device{Kind: KindBridge, Owner: v.VNI}
	}
	if _, sealed := p.actual.Filter.Seals[v.Name]; !sealed || !there {
		p.add(Seal{on})
	}
	if d.Owner != v.VNI {
		p.add(SetOwner{on, v.VNI})
	}
	p.common(on, d, v.MTU, CleanAlias(NamespaceOf(v.Name)))
	if !d.Up {
		p.add(SetUp{on})
	}
	p.answer(v, d.Answers)
	return true
}

// common plans what every device has.
func (p *planner) common(on Target, d Device, mtu int, alias string) {
	if d.MTU != mtu {
		p.add(SetMTU{on, mtu})
	}
	if d.Alias != alias {
		p.add(SetAlias{on, alias})
	}
	if !d.Quiet && d.Kind == KindBridge {
		p.add(SetBridge{on})
	} else if !d.Quiet {
		p.add(SetQuiet{on})
	}
	for _, a := range d.Addresses {
		p.remove(StripAddress{on, a})
	}
}

// gateway is v without a gateway that cannot be here.
func (p *planner) gateway(v VPC) VPC {
	switch f := p.actual.Filter; {
	case v.Gateway == nil || f.Foreign:
		v.Gateway = nil
	case f.NoShields:
		p.problem(v.Name, "this kernel cannot keep others from speaking as the gateway: use one with CONFIG_NF_TABLES_BRIDGE, or take the gateway out")
		v.Gateway = nil
	case v.Gateway.Active:
	case p.taken(GatewayPortOf(v.VNI)):
		p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", GatewayPortOf(v.VNI))
		v.Gateway = nil
	case len(v.Gateway.Addresses) == 0 || !v.Gateway.MAC.Unicast():
		p.problem(v.Name, "a gateway needs a MAC and an address")
		v.Gateway = nil
	}
	return v
}

// shield keeps tenants from the VPC's VTEP addresses.
func (p *planner) shield(v VPC) {
	f := p.actual.Filter
	if f.Foreign || f.NoShields {
		return
	}
	if network := v.VTEP.Masked(); f.Shields[v.VNI] != network {
		p.add(Shield{Target{v.Name, "filter"}, v.VNI, network})
	}
}
