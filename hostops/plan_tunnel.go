package hostops

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// tunnelKey is what a kernel has one tunnel of.
type tunnelKey struct {
	vni  cluster.VNI
	port uint16
	v6   bool
}

// holders finds tunnels by what they hold: ours, and others'.
type holders struct{ ours, others map[tunnelKey][]string }

func holdersOf(s State) holders {
	h := holders{map[tunnelKey][]string{}, map[tunnelKey][]string{}}
	for name, d := range s.Devices {
		if d.Kind == KindTunnel {
			k := tunnelKey{d.VNI, d.Port, d.Local.Is6()}
			h.ours[k] = append(h.ours[k], name)
		}
	}
	for name, o := range s.Others {
		if o.Kind == KindTunnel {
			k := tunnelKey{o.VNI, o.Port, o.V6}
			h.others[k] = append(h.others[k], name)
		}
	}
	for _, m := range []map[tunnelKey][]string{h.ours, h.others} {
		for _, names := range m {
			slices.Sort(names)
		}
	}
	return h
}

// tunnels plans the VPC's tunnels and the filter's entries for them.
func (p *planner) tunnels(v VPC) {
	if p.actual.Filter.Foreign {
		return
	}
	ts := p.unblocked(v)
	onFilter := Target{v.Name, "filter"}
	vnis, sources := p.sources(v, ts)
	if fresh := p.fresh(ts); len(fresh) > 0 {
		p.add(Admit{onFilter, fresh})
	}
	var denied []Op
	for _, vni := range vnis {
		if p.admitted[vni] { // and has no entries
			continue
		}
		missing, extra := difference(sources[vni], p.actual.Filter.Sources[vni])
		if len(extra) > 0 {
			denied = append(denied, Deny{onFilter, vni, extra})
		}
		if len(missing) > 0 {
			p.add(Allow{onFilter, vni, missing})
		}
		if _, ok := p.actual.Filter.VNIs[vni]; !ok && slices.ContainsFunc(ts, func(t Tunnel) bool { return v.vniOf(t) == vni }) {
			p.add(Guard{onFilter, vni})
		}
	}
	last := p.places(v, ts)
	h := newHandover(ts)
	for _, t := range ts {
		if t.Pair == 0 {
			p.shared(v, t, &h)
		}
	}
	for _, t := range ts {
		if t.Pair != 0 {
			p.own(v, t, h)
		}
	}
	p.silence(h)
	p.remove(denied...)
	p.remove(last...)
}

// fresh lists the pairs that the filter knows nothing of.
func (p *planner) fresh(ts []Tunnel) (fresh []Source) {
	for _, t := range ts {
		if t.Pair == 0 {
			continue
		}
		if _, guarded := p.actual.Filter.VNIs[t.Pair]; guarded || p.actual.Filter.Sources[t.Pair].Len() > 0 {
			continue
		}
		p.admitted[t.Pair] = true
		for _, peer := range t.Peers {
			fresh = append(fresh, Source{t.Pair, peer.Underlay})
		}
	}
	return fresh
}

// sources lists who may send by each VNI of the tunnels, the VPC's own first.
func (p *planner) sources(v VPC, ts []Tunnel) (vnis []cluster.VNI, sources map[cluster.VNI][]netip.Addr) {
	vnis, sources = make([]cluster.VNI, 0, len(ts)+1), make(map[cluster.VNI][]netip.Addr, len(ts)+1)
	if !p.blocked[v.VNI] {
		vnis, sources[v.VNI] = append(vnis, v.VNI), nil
	}
	for _, t := range ts {
		vni := v.vniOf(t)
		if _, known := sources[vni]; !known {
			vnis = append(vnis, vni)
		}
		sources[vni] = appendAddrs(sources[vni], t.Peers)
	}
	return vnis, sources
}

// unblocked returns the tunnels whose VNI nothing that is not ours stands in the
// way of: neither a device by its name nor a tunnel that holds the VNI, which
// must not be guarded.
func (p *planner) unblocked(v VPC) []Tunnel {
	for _, t := range v.Tunnels {
		name, vni := v.nameOf(t), v.vniOf(t)
		if p.taken(name) {
			p.problem(v.Name, "device %s is there and is not meshvpc's: remove or rename it", name)
			p.blocked[vni] = true
			continue
		}
		for _, other := range p.holders.others[tunnelKey{vni, t.Port, t.Local.Is6()}] {
			or := ", or give the VPC another VNI"
			if t.Pair != 0 {
				or = ""
			}
			p.problem(v.Name, "VNI %d on UDP port %d is held by device %s, which is not meshvpc's: remove it%s", vni, t.Port, other, or)
			p.blocked[vni] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(v.Tunnels), func(t Tunnel) bool { return p.blocked[v.vniOf(t)] })
}

// handover is for peers that have a tunnel of their own: when they change from
// and to a shared tunnel, next to nothing lies between the two operations that
// change how they are sent to.
type handover struct {
	own          AddrSet
	joins, parts map[netip.Addr]Target // the shared tunnel whose flood list changes
	silent       []Target              // shared tunnels that are to be silent when all have parted
}

func newHandover(ts []Tunnel) handover {
	h := handover{own: Addrs(), joins: map[netip.Addr]Target{}, parts: map[netip.Addr]Target{}}
	for _, t := range ts {
		if t.Pair != 0 {
			for _, peer := range t.Peers {
				h.own.Set(peer.Underlay, struct{}{})
			}
		}
	}
	return h
}

// shared plans a tunnel that peers share, and its flood list.
func (p *planner) shared(v VPC, t Tunnel, h *handover) {
	on, d, ok := p.tunnel(v, t)
	if !ok {
		return
	}
	if t.ReceiveOnly && !d.Silent {
		h.silent = append(h.silent, on)
	}
	missing, extra := difference(t.flood(), d.Flood)
	p.adds = slices.Grow(p.adds, 2*len(missing)) // an FDB entry each, too
	for _, a := range missing {
		if h.own.Has(a) {
			h.joins[a] = on
			continue
		}
		p.add(AddPeer{on, a})
	}
	for _, a := range extra {
		if h.own.Has(a) {
			h.parts[a] = on
			continue
		}
		p.remove(RemovePeer{on, a})
	}
	p.fdb(on, v, t, d.FDB)
}

// own plans a pair's own tunnel.
func (p *planner) own(v VPC, t Tunnel, h handover) {
	on, d, ok := p.tunnel(v, t)
	if ok {
		missing, extra := difference(t.flood(), d.Flood)
		for _, a := range missing {
			p.add(AddPeer{on, a})
		}
		for _, a := range extra {
			p.remove(RemovePeer{on, a})
		}
		p.fdb(on, v, t, d.FDB)
	}
	for _, peer := range t.Peers {
		if shared, joins := h.joins[peer.Underlay]; joins {
			p.add(AddPeer{shared, peer.Underlay})
		}
	}
	if !ok {
		return
	}
	for _, peer := range t.Peers { // while what is not known any more still floods there
		if shared, parts := h.parts[peer.Underlay]; parts {
			p.add(Forget{shared, peer.Underlay})
		}
	}
	if !t.ReceiveOnly {
		p.sending(on, v, d)
	} else if !d.Silent {
		p.add(SetSending{on, false})
	}
	for _, peer := range t.Peers {
		if shared, parts := h.parts[peer.Underlay]; parts {
			p.add(RemovePeer{shared, peer.Underlay})
			delete(h.parts, peer.Underlay)
		}
	}
}

// silence takes shared tunnels out of use from which all peers have parted. Until
// then both ends go on sending by them to what they have learned behind them, and
// learn it anew from each other: each has to stop before the other stops receiving.
func (p *planner) silence(h handover) {
	if len(h.parts) > 0 { // a peer has no other tunnel yet
		return
	}
	for _, on := range h.silent {
		p.add(SetSending{on, false})
	}
}

// tunnel plans one tunnel without its peers. It returns what the plan so far
// makes of it; ok is false if the tunnel is not there and will not be.
func (p *planner) tunnel(v VPC, t Tunnel) (on Target, d Device, ok bool) {
	name, vni := v.nameOf(t), v.vniOf(t)
	on = Target{v.Name, name}
	d, there := p.actual.Devices[name]
	carried := p.carried(v, t)
	if there && (d.Kind != KindTunnel || d.Owner != v.VNI || d.VNI != vni || d.Port != t.Port || (d.Local.IsValid() && d.Local.Is6() != t.Local.Is6())) {
		if !carried {
			return on, d, false
		}
		p.add(DeleteDevice{on}) // what cannot be changed in place
		p.gone[name] = true
		there = false
	}
	switch {
	case !there && !carried:
		return on, d, false
	case !there:
		p.makeRoom(v, t)
		learns := t.Pair == 0 && !v.Static
		p.add(CreateTunnel{on, v.VNI, vni, t.Local, t.Device, t.Port, v.MTU, v.aliasOf(t), t.Group, learns})
		d = Device{
			Kind: KindTunnel, Owner: v.VNI, Local: t.Local, Underlay: t.Device, MTU: v.MTU, Alias: v.aliasOf(t), Quiet: true,
			Learning: learns, Group: t.Group,
		}
		d.Flood = p.joined(on, t, nil)
	case carried:
		d = p.underlay(on, t, d)
	}
	if learns := t.Pair == 0 && !v.Static; d.Learning != learns {
		p.add(SetLearning{on, learns})
	}
	p.common(on, d, v.MTU, v.aliasOf(t))
	if d.Master != v.Name {
		if d.Up { // a new port is not isolated yet, and must not forward
			p.add(SetDown{on})
			d.Up = false
		}
		p.add(SetMaster{on, v.Name})
		d.Isolated, d.Odd, d.Sends, d.Static, d.Silent, d.FDB = false, false, true, false, false, halved(d.FDB)
	}
	if d.Odd {
		p.add(ResetPort{on})
	}
	if !d.Isolated {
		p.add(SetIsolated{on})
	}
	if (t.Pair == 0 || v.Static && !d.Up) && !t.ReceiveOnly {
		p.sending(on, v, d)
		d.Sends, d.Static = !v.Static, v.Static
	}
	if !d.Up {
		if t.ReceiveOnly && !d.Silent {
			p.add(SetSending{on, false})
			d.Sends, d.Static, d.Silent = false, false, true
		}
		p.add(SetUp{on})
	}
	return on, d, true
}

// underlay plans where a tunnel that is there sends from and receives by. The
// kernel joins a group when the tunnel comes up and leaves it when it goes down,
// and floods to it by the device that the tunnel was on when it was given the
// group: one that moves is given it anew.
func (p *planner) underlay(on Target, t Tunnel, d Device) Device {
	group := func(a netip.Addr) {
		if d.Up {
			p.add(SetDown{on})
			d.Up = false
		}
		p.add(SetGroup{on, a})
		d.Flood = d.Flood.Clone()
		d.Flood.Delete(d.Group)
		d.Group = a
	}
	if d.Local != t.Local || d.Underlay != t.Device {
		if d.Group.IsValid() {
			group(netip.Addr{})
		}
		p.add(SetUnderlay{on, t.Local, t.Device})
	}
	if d.Group != t.Group {
		group(t.Group)
		d.Flood = p.joined(on, t, d.Flood)
	}
	return d
}

// joined returns the flood list of a tunnel that was given its group, which has
// a place in it until it is told otherwise.
func (p *planner) joined(on Target, t Tunnel, flood AddrSet) AddrSet {
	switch {
	case !t.Group.IsValid():
	case t.ToGroup && flood == nil:
		return Addrs(t.Group)
	case t.ToGroup:
		flood.Set(t.Group, struct{}{})
	default:
		p.add(RemovePeer{on, t.Group})
	}
	return flood
}

// halved is a tunnel's FDB in another bridge, which was told nothing of it.
func halved(fdb *Table[cluster.MAC, netip.Addr]) *Table[cluster.MAC, netip.Addr] {
	half := NewTable[cluster.MAC, netip.Addr]()
	for mac := range fdb.Keys() {
		half.Set(mac, netip.Addr{})
	}
	return half
}

// fdb tells both tables where the peers' VTEPs and known workloads are, so that a frame for one
// never floods and no tenant can draw it to itself.
func (p *planner) fdb(on Target, v VPC, t Tunnel, have *Table[cluster.MAC, netip.Addr]) {
	set, extra := entries([]Tunnel{t}, have, func(p Peer) (cluster.MAC, netip.Addr) { return VTEPMAC(p.VTEP), p.Underlay }, p.behind(v, t))
	for _, e := range set {
		at, _ := v.place(e.key)
		if at.Yields && p.hears(v, at) {
			continue
		}
		p.add(SetFDB{on, e.key, e.value, at.Yields})
	}
	p.firmness(on, v, t, have)
	for _, mac := range extra {
		if v.has(mac, func(at netip.Addr) bool { return !at.IsValid() }) {
			p.add(RemoveFDB{on, mac}) // it came here: it is to be heard as soon as it speaks
			continue
		}
		p.remove(RemoveFDB{on, mac})
	}
}

// makeRoom removes a tunnel of ours, under another name, that holds what t needs.
func (p *planner) makeRoom(v VPC, t Tunnel) {
	for _, name := range p.holders.ours[tunnelKey{v.vniOf(t), t.Port, t.Local.Is6()}] {
		if !p.planned[name] && !p.gone[name] {
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

// Overhead is what a tunnel takes from the underlay's MTU, in bytes.
func Overhead(local netip.Addr) int {
	if local.Is4() {
		return cluster.OverheadIPv4
	}
	return cluster.OverheadIPv6
}

func appendAddrs(as []netip.Addr, peers []Peer) []netip.Addr {
	as = slices.Grow(as, len(peers))
	for _, peer := range peers {
		as = append(as, peer.Underlay)
	}
	return as
}
