package hostops

import (
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// places plans who may send from which MAC: in a static VPC frames from any other
// are dropped. What a MAC has left is taken out last, so that one that moves is
// heard all the time.
func (p *planner) places(v VPC, ts []Tunnel) (last []Op) {
	on, f, want := Target{v.Name, "filter"}, p.actual.Filter, v.placed(ts)
	for _, vni := range slices.Sorted(maps.Keys(want)) {
		missing, extra := placeDifference(want[vni], f.Places[vni])
		if len(missing) > 0 {
			p.add(AllowPlaces{on, vni, missing})
		}
		if !has(f.Placed, vni) {
			p.add(GuardPlaces{on, vni})
		}
		if len(extra) > 0 {
			last = append(last, DenyPlaces{on, vni, extra})
		}
	}
	if v.Static {
		return last
	}
	free := map[cluster.VNI]bool{}
	for _, t := range ts {
		if vni := v.vniOf(t); has(f.Placed, vni) && !free[vni] {
			free[vni] = true
			p.add(UnguardPlaces{on, vni})
		}
	}
	return last
}

// restPlaces removes what the filter knows of places and is not wanted.
func (p *planner) restPlaces(static map[cluster.VNI]bool) {
	f := p.actual.Filter
	for _, vni := range slices.Sorted(maps.Keys(f.Placed)) {
		if !p.keeps(vni) {
			p.remove(UnguardPlaces{Target{"", "filter"}, vni})
		}
	}
	for _, vni := range slices.Sorted(maps.Keys(f.Places)) {
		if !p.keeps(vni) || p.judged[vni] && !static[vni] {
			p.remove(DenyPlaces{Target{"", "filter"}, vni, slices.SortedFunc(f.Places[vni].Keys(), Placed.compare)})
		}
	}
}

// staticVNIs are those of all tunnels of static VPCs.
func staticVNIs(d Desired) map[cluster.VNI]bool {
	vnis := map[cluster.VNI]bool{}
	for _, v := range d.VPCs {
		for _, t := range v.Tunnels {
			if v.Static {
				vnis[v.vniOf(t)] = true
			}
		}
	}
	return vnis
}

func placeDifference(want []Placed, have PlaceSet) (missing, extra []Placed) {
	for _, w := range want {
		if !have.Has(w) {
			missing = append(missing, w)
		}
	}
	if len(want)-len(missing) == have.Len() {
		return missing, nil
	}
	for h := range have.Keys() {
		if _, wanted := slices.BinarySearchFunc(want, h, Placed.compare); !wanted {
			extra = append(extra, h)
		}
	}
	slices.SortFunc(extra, Placed.compare)
	return missing, extra
}

// answer plans what the bridge answers ARP and neighbour solicitations with.
func (p *planner) answer(v VPC, have *Table[netip.Addr, cluster.MAC]) {
	on, want := Target{v.Name, v.Name}, v.answers()
	for _, a := range slices.SortedFunc(maps.Keys(want), netip.Addr.Compare) {
		if mac, ok := have.Get(a); !ok || mac != want[a] {
			p.add(SetAnswer{on, a, want[a]})
		}
	}
	for _, a := range slices.SortedFunc(have.Keys(), netip.Addr.Compare) {
		if !has(want, a) {
			p.remove(RemoveAnswer{on, a})
		}
	}
}

// behind yields the workloads of a static VPC that a tunnel sends to; nil: the VPC
// is none.
func (p *planner) behind(v VPC, t Tunnel) iter.Seq2[cluster.MAC, netip.Addr] {
	if !v.Static {
		return nil
	}
	return func(yield func(cluster.MAC, netip.Addr) bool) {
		for _, peer := range t.Peers {
			if peer.ReceiveOnly || t.ReceiveOnly {
				continue
			}
			for _, mac := range p.atPeers[v.Name][peer.Underlay] {
				if !yield(mac, peer.Underlay) {
					return
				}
			}
		}
	}
}

// hears reports whether the bridge has heard a MAC at a port of its own since its
// place was settled.
func (p *planner) hears(v VPC, at Place) bool {
	h, ok := p.actual.Devices[v.Name].Heard.Get(at.MAC)
	return ok && h.Count > at.Unheard
}

// firmness plans which entries that lead where they should are given up to a port
// where the bridge hears the MAC. One that was not, and is to be, is made anew: the
// kernel would keep it as it is.
func (p *planner) firmness(on Target, v VPC, t Tunnel, have *Table[cluster.MAC, netip.Addr]) {
	yielding, behind := p.actual.Devices[on.Object].Yielding, p.behind(v, t)
	if behind == nil || yielding.Len() == 0 && !v.yields() {
		return
	}
	for mac, peer := range behind {
		at, _ := v.place(mac)
		if is, _ := have.Get(mac); is != peer || yielding.Has(mac) == at.Yields {
			continue
		}
		if at.Yields {
			p.add(RemoveFDB{on, mac})
		}
		p.add(SetFDB{on, mac, peer, at.Yields})
	}
}

// yields reports whether any of v's places does.
func (v VPC) yields() bool {
	return slices.ContainsFunc(v.Places, func(p Place) bool { return p.Yields })
}

// sending plans how a tunnel's port sends, which is not to receive only.
func (p *planner) sending(on Target, v VPC, d Device) {
	switch {
	case v.Static && !d.Static:
		p.add(SetStatic{on})
	case !v.Static && !d.Sends:
		p.add(SetSending{on, true})
	}
}
