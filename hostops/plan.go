package hostops

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Plan lists, in order, the operations that turn actual into desired, and what
// of desired cannot be. Pure: same input, same plan; desired is only read.
//
// The order holds promises: all that adds comes before all that removes; a
// source is allowed before it is a peer and denied after; a tunnel is guarded
// before it exists and isolated before it is up; a bridge is sealed before it is
// up, and before it has ports.
//
// What is ours and of no desired VPC is removed, or left as desired.Hold says.
// A VPC with a problem keeps what it has: only what the problem blocks is left
// out, and other VPCs go on.
func Plan(desired Desired, actual State) ([]Op, []Problem) {
	p := planner{
		desired: desired,
		actual:  actual,
		names:   map[string]bool{},
		vnis:    map[cluster.VNI]bool{},
		gone:    map[string]bool{},
	}
	vpcs := p.valid(desired)
	p.filter(vpcs)
	for _, v := range vpcs {
		p.vpc(v)
	}
	p.rest()
	return slices.Concat(p.adds, p.removes), p.problems
}

// planner gathers one plan.
type planner struct {
	desired  Desired
	actual   State
	names    map[string]bool      // devices and namespaces that are wanted
	vnis     map[cluster.VNI]bool // VNIs that are wanted
	gone     map[string]bool      // devices that the adds remove
	reowned  []cluster.VNI        // former owners of wanted devices
	adds     []Op
	removes  []Op
	problems []Problem
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
		for _, t := range v.Tunnels {
			p.names[TunnelOf(v.VNI, t.Local)] = true
		}
		p.vnis[v.VNI] = true
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
	return out
}

// filter makes sure that the filter judges the right port.
func (p *planner) filter(vpcs []VPC) {
	var port uint16
	for _, v := range vpcs {
		for _, t := range v.Tunnels {
			port = cmp.Or(port, t.Port)
		}
	}
	f := &p.actual.Filter
	switch {
	case f.Foreign && port != 0:
		p.problem("", "nftables table inet %s is not meshvpc's: rename or remove it", FilterName)
	case port != 0 && f.Port != port:
		p.add(CreateFilter{Target{"", "filter"}, port})
		*f = Filter{Exists: true, Port: port, Shields: f.Shields, NoShields: f.NoShields, Seals: f.Seals}
	}
}

// vpc plans one VPC.
func (p *planner) vpc(v VPC) {
	if !p.bridge(v) {
		return
	}
	p.shield(v)
	p.namespace(v)
	p.tunnels(v)
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
	if !there {
		p.add(CreateBridge{on, v.VNI})
		d = Device{Kind: KindBridge, Owner: v.VNI}
	}
	if _, sealed := p.actual.Filter.Seals[v.Name]; !sealed || !there {
		p.add(Seal{on})
	}
	if d.Owner != v.VNI {
		p.add(SetOwner{on, v.VNI})
		p.reowned = append(p.reowned, d.Owner)
	}
	p.common(on, d, v.MTU, CleanAlias(NamespaceOf(v.Name)))
	if !d.Up {
		p.add(SetUp{on})
	}
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

// namespace plans the VPC's namespace and its port.
func (p *planner) namespace(v VPC) {
	name, port := NamespaceOf(v.Name), PortOf(v.VNI)
	on, onPort := Target{v.Name, name}, Target{v.Name, port}
	ns, there := p.actual.Namespaces[name]
	if there && ns.Owner == 0 {
		p.problem(v.Name, "network namespace %s is there and is not meshvpc's: remove it, or give the VPC another name", name)
		return
	}
	if _, taken := p.actual.Others[port]; taken {
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
func (p *planner) neighbours(on Target, v VPC, have map[netip.Addr]cluster.MAC) {
	set, extra := entries(v.Tunnels, have, func(p Peer) (netip.Addr, cluster.MAC) { return p.VTEP, VTEPMAC(p.VTEP) })
	for _, e := range set {
		p.add(SetNeighbour{on, e.key, e.value})
	}
	for _, a := range extra {
		p.remove(RemoveNeighbour{on, a})
	}
}

// entry is one entry of a table.
type entry[K, V comparable] struct {
	key   K
	value V
}

// entries lists what to set in a table of the peers' VTEPs, and what to remove,
// in a settled order. Of peers with the same key the first counts. Most often
// nothing is to be done, or peers are new: then it makes no table of all that
// is wanted.
func entries[K, V comparable](tunnels []Tunnel, have map[K]V, of func(Peer) (K, V)) (set []entry[K, V], extra []K) {
	right, moved := 0, false
	for _, t := range tunnels {
		for _, p := range t.Peers {
			if !p.VTEP.IsValid() {
				continue
			}
			k, v := of(p)
			switch is, ok := have[k]; {
			case ok && is == v:
				right++
			default:
				moved = moved || ok
				set = append(set, entry[K, V]{k, v})
			}
		}
	}
	if right == len(have) && !moved {
		return firsts(set), nil
	}
	want := make(map[K]V, right+len(set))
	for _, t := range tunnels {
		for _, p := range t.Peers {
			if !p.VTEP.IsValid() {
				continue
			}
			if k, v := of(p); !has(want, k) {
				want[k] = v
			}
		}
	}
	set = slices.DeleteFunc(set, func(e entry[K, V]) bool { return want[e.key] != e.value })
	for k := range have {
		if !has(want, k) {
			extra = append(extra, k)
		}
	}
	slices.SortFunc(extra, func(a, b K) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return firsts(set), extra
}

// firsts keeps the first entry of each key.
func firsts[K, V comparable](es []entry[K, V]) []entry[K, V] {
	seen := make(map[K]struct{}, len(es))
	return slices.DeleteFunc(es, func(e entry[K, V]) bool {
		twice := has(seen, e.key)
		seen[e.key] = struct{}{}
		return twice
	})
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// tunnels plans the VPC's tunnels and the filter's entries for them.
func (p *planner) tunnels(v VPC) {
	if p.actual.Filter.Foreign || p.foreignTunnel(v) {
		return
	}
	onFilter := Target{v.Name, "filter"}
	var sources []netip.Addr
	for _, t := range v.Tunnels {
		sources = appendAddrs(sources, t.Peers)
	}
	missing, extra := difference(sources, p.actual.Filter.Sources[v.VNI])
	if len(missing) > 0 {
		p.add(Allow{onFilter, v.VNI, missing})
	}
	if _, ok := p.actual.Filter.VNIs[v.VNI]; !ok && len(v.Tunnels) > 0 {
		p.add(Guard{onFilter, v.VNI})
	}
	for _, t := range v.Tunnels {
		p.tunnel(v, t)
	}
	if len(extra) > 0 {
		p.remove(Deny{onFilter, v.VNI, extra})
	}
}

// foreignTunnel reports whether something that is not ours holds what a tunnel
// of the VPC needs.
func (p *planner) foreignTunnel(v VPC) bool {
	blocked := false
	for _, t := range v.Tunnels {
		own := TunnelOf(v.VNI, t.Local)
		if _, taken := p.actual.Others[own]; taken {
			p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", own)
			blocked = true
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(p.actual.Others)) {
			o := p.actual.Others[name]
			if o.Kind == KindTunnel && o.VNI == v.VNI && o.Port == t.Port && o.V6 == t.Local.Is6() {
				p.problem(v.Name, "VNI %d on UDP port %d is held by device %s, which is not meshvpc's: remove it, or give the VPC another VNI", v.VNI, t.Port, name)
				blocked = true
			}
		}
	}
	return blocked
}

// tunnel plans one tunnel and its peers.
func (p *planner) tunnel(v VPC, t Tunnel) {
	name := TunnelOf(v.VNI, t.Local)
	on := Target{v.Name, name}
	d, there := p.actual.Devices[name]
	carried := p.carried(v, t)
	if there && (d.Kind != KindTunnel || d.VNI != v.VNI || d.Port != t.Port || (d.Local.IsValid() && d.Local.Is6() != t.Local.Is6())) {
		if !carried {
			return
		}
		p.add(DeleteDevice{on}) // what cannot be changed in place
		there = false
	}
	switch {
	case !there && !carried:
		return
	case !there:
		p.makeRoom(v, t)
		p.add(CreateTunnel{on, v.VNI, v.VNI, t.Local, t.Device, t.Port})
		d = Device{Kind: KindTunnel, Owner: v.VNI, Learning: true}
	case carried && (d.Local != t.Local || d.Underlay != t.Device):
		p.add(SetUnderlay{on, t.Local, t.Device})
	}
	if !d.Learning {
		p.add(SetLearning{on})
	}
	p.common(on, d, v.MTU, tunnelsOf(v.Name))
	if d.Master != v.Name {
		if d.Up { // a new port is not isolated yet, and must not forward
			p.add(SetDown{on})
			d.Up = false
		}
		p.add(SetMaster{on, v.Name})
		d.Isolated, d.Odd, d.FDB = false, false, halved(d.FDB)
	}
	if d.Odd {
		p.add(ResetPort{on})
	}
	if !d.Isolated {
		p.add(SetIsolated{on})
	}
	if !d.Up {
		p.add(SetUp{on})
	}
	p.peers(on, t.Peers, d.Flood)
	p.fdb(on, t, d.FDB)
}

// halved is a tunnel's FDB in another bridge, which was told nothing of it.
func halved(fdb map[cluster.MAC]netip.Addr) map[cluster.MAC]netip.Addr {
	half := make(map[cluster.MAC]netip.Addr, len(fdb))
	for mac := range fdb {
		half[mac] = netip.Addr{}
	}
	return half
}

// fdb tells both tables where the peers' VTEPs are, so that a frame for one
// never floods and no tenant can draw it to itself.
func (p *planner) fdb(on Target, t Tunnel, have map[cluster.MAC]netip.Addr) {
	set, extra := entries([]Tunnel{t}, have, func(p Peer) (cluster.MAC, netip.Addr) { return VTEPMAC(p.VTEP), p.Underlay })
	for _, e := range set {
		p.add(SetFDB{on, e.key, e.value})
	}
	for _, mac := range extra {
		p.remove(RemoveFDB{on, mac})
	}
}

// makeRoom removes a tunnel of ours, under another name, that holds what t needs.
func (p *planner) makeRoom(v VPC, t Tunnel) {
	for _, name := range slices.Sorted(maps.Keys(p.actual.Devices)) {
		d := p.actual.Devices[name]
		if d.Kind == KindTunnel && d.VNI == v.VNI && d.Port == t.Port && d.Local.Is6() == t.Local.Is6() && !p.names[name] {
			p.add(DeleteDevice{Target{v.Name, name}})
			p.gone[name] = true
		}
	}
}

// carried reports whether the underlay can carry the tunnel, and notes why not.
func (p *planner) carried(v VPC, t Tunnel) bool {
	under, ok := p.actual.Others[t.Device]
	if !ok {
		p.problem(v.Name, "underlay device %s is not there", t.Device)
		return false
	}
	if !slices.ContainsFunc(under.Addresses, func(a netip.Prefix) bool { return a.Addr() == t.Local }) {
		p.problem(v.Name, "underlay address %s is not on device %s: add it, or name another underlay", t.Local, t.Device)
		return false
	}
	if overhead := Overhead(t.Local); v.MTU > under.MTU-overhead {
		p.problem(v.Name, "MTU %d does not fit: device %s has %d, less %d for VXLAN leaves %d", v.MTU, t.Device, under.MTU, overhead, under.MTU-overhead)
		return false
	}
	return true
}

// Overhead is what a tunnel takes from the underlay's MTU, in bytes: 50 over
// IPv4, 70 over IPv6 (RFC 7348 §5).
func Overhead(local netip.Addr) int {
	if local.Is4() {
		return 50
	}
	return 70
}

// peers plans a flood list.
func (p *planner) peers(on Target, want []Peer, have AddrSet) {
	missing, extra := difference(appendAddrs(nil, want), have)
	for _, a := range missing {
		p.add(AddPeer{on, a})
	}
	for _, a := range extra {
		p.remove(RemovePeer{on, a})
	}
}

func appendAddrs(as []netip.Addr, peers []Peer) []netip.Addr {
	as = slices.Grow(as, len(peers))
	for _, peer := range peers {
		as = append(as, peer.Underlay)
	}
	return as
}

// difference lists, sorted, what have lacks of want and has beyond it. Most
// often that is nothing, and want is sorted: then it makes no set of it.
func difference(want []netip.Addr, have AddrSet) (missing, extra []netip.Addr) {
	found, sorted := 0, true
	for i, a := range want {
		if _, ok := have[a]; ok {
			found++
		} else {
			missing = append(missing, a)
		}
		sorted = sorted && (i == 0 || want[i-1].Less(a))
	}
	slices.SortFunc(missing, netip.Addr.Compare)
	missing = slices.Compact(missing)
	if sorted && found == len(have) {
		return missing, nil
	}
	keep := make(AddrSet, len(want))
	for _, a := range want {
		keep[a] = struct{}{}
	}
	for a := range have {
		if _, ok := keep[a]; !ok {
			extra = append(extra, a)
		}
	}
	slices.SortFunc(extra, netip.Addr.Compare)
	return missing, extra
}

// rest removes what is ours and not wanted. What the desired state holds stays,
// the filter for it too.
func (p *planner) rest() {
	groups := map[cluster.VNI]bool{}
	for _, name := range slices.Sorted(maps.Keys(p.actual.Devices)) {
		d := p.actual.Devices[name]
		switch {
		case p.gone[name]:
		case p.names[name] && (d.Kind == KindBridge || p.vnis[d.Owner]):
		case p.held(d.Owner):
		case p.vnis[d.Owner] || slices.Contains(p.reowned, d.Owner):
			p.remove(DeleteDevice{Target{"", name}})
		case !groups[d.Owner]:
			groups[d.Owner] = true
			p.remove(DeleteDevices{Target{"", fmt.Sprintf("VNI %d", d.Owner)}, d.Owner})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.actual.Namespaces)) {
		if n := p.actual.Namespaces[name]; n.Owner != 0 && !p.names[name] && !p.held(n.Owner) {
			p.remove(DeleteNamespace{Target{"", name}})
		}
	}
	f := p.actual.Filter
	if f.Exists && !p.needsFilter() {
		p.remove(DeleteFilter{Target{"", "filter"}})
		return
	}
	for _, v := range slices.Sorted(maps.Keys(f.VNIs)) {
		if !p.vnis[v] && !p.held(v) {
			p.remove(Unguard{Target{"", "filter"}, v})
		}
	}
	for _, v := range slices.Sorted(maps.Keys(f.Sources)) {
		if !p.vnis[v] && !p.held(v) {
			p.remove(Deny{Target{"", "filter"}, v, slices.SortedFunc(maps.Keys(f.Sources[v]), netip.Addr.Compare)})
		}
	}
	for _, v := range slices.Sorted(maps.Keys(f.Shields)) {
		if !p.vnis[v] && !p.held(v) {
			p.remove(Unshield{Target{"", "filter"}, v})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Seals)) {
		if d, there := p.actual.Devices[name]; !p.names[name] && !(there && p.held(d.Owner)) {
			p.remove(Unseal{Target{"", name}})
		}
	}
}

// held reports whether what is marked for owner stays though it is not wanted.
func (p *planner) held(owner cluster.VNI) bool {
	return !p.vnis[owner] && !slices.Contains(p.reowned, owner) && !p.desired.Removes(owner)
}

// needsFilter reports whether any VPC is wanted or held.
func (p *planner) needsFilter() bool {
	if len(p.vnis) > 0 {
		return true
	}
	f := p.actual.Filter
	for _, owners := range []iter.Seq[cluster.VNI]{maps.Keys(f.VNIs), maps.Keys(f.Sources), maps.Keys(f.Shields)} {
		for v := range owners {
			if p.held(v) {
				return true
			}
		}
	}
	for _, d := range p.actual.Devices {
		if p.held(d.Owner) {
			return true
		}
	}
	return false
}
