package hostops

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// Place is where a MAC of a VPC is, as records say.
type Place struct {
	MAC       cluster.MAC  `json:"mac"`
	Addresses []netip.Addr `json:"addresses,omitempty"` // that the workload has
	// At is the underlay address of the peer that has it, not valid: this host.
	At netip.Addr `json:"at,omitzero"`
	// Yields: a bridge that hears the MAC at a port of its own does not believe At any
	// more, and it is not told again: but of what it heard up to Unheard (see Heard).
	Yields  bool   `json:"yields,omitempty"`
	Unheard uint64 `json:"unheard,omitempty"`
}

// place is the place of a MAC.
func (v VPC) place(mac cluster.MAC) (p Place, ok bool) {
	if !v.Static {
		return p, false
	}
	i, ok := slices.BinarySearchFunc(v.Places, mac, func(p Place, m cluster.MAC) int { return slices.Compare(p.MAC[:], m[:]) })
	if ok {
		p = v.Places[i]
	}
	return p, ok
}

// Placed is who may send frames from a MAC.
type Placed struct {
	MAC  cluster.MAC
	From netip.Addr // underlay address
}

func (p Placed) compare(q Placed) int {
	return cmp.Or(slices.Compare(p.MAC[:], q.MAC[:]), p.From.Compare(q.From))
}

// PlaceSet is a set of those.
type PlaceSet = *Table[Placed, struct{}]

// Place lets frames of a VNI that are from a MAC pass from where it is.
func (f *Filter) Place(v cluster.VNI, ps ...Placed) {
	if f.Places == nil {
		f.Places = map[cluster.VNI]PlaceSet{}
	}
	if f.Places[v] == nil {
		f.Places[v] = NewTable[Placed, struct{}]()
	}
	for _, p := range ps {
		f.Places[v].Set(p, struct{}{})
	}
}

// Unplace takes Place back.
func (f *Filter) Unplace(v cluster.VNI, ps ...Placed) {
	for _, p := range ps {
		f.Places[v].Delete(p)
	}
	if f.Places[v].Len() == 0 {
		delete(f.Places, v)
	}
}

// workloads are the MACs of a static VPC's workloads, by the peer that has them.
func (v VPC) workloads() map[netip.Addr][]cluster.MAC {
	if !v.Static {
		return nil
	}
	at := map[netip.Addr][]cluster.MAC{}
	for _, w := range v.Places {
		if w.At.IsValid() {
			at[w.At] = append(at[w.At], w.MAC)
		}
	}
	return at
}

// has reports whether a workload with that MAC is where is says.
func (v VPC) has(mac cluster.MAC, is func(at netip.Addr) bool) bool {
	p, ok := v.place(mac)
	return ok && is(p.At)
}

// answers are the addresses of workloads, and their MACs.
func (v VPC) answers() map[netip.Addr]cluster.MAC {
	if !v.Static {
		return nil
	}
	all := map[netip.Addr]cluster.MAC{}
	for _, w := range v.Places {
		for _, a := range w.Addresses {
			all[a] = w.MAC
		}
	}
	return all
}

// placed lists, sorted, whose frames may come by each VNI of a static VPC.
func (v VPC) placed(ts []Tunnel) map[cluster.VNI][]Placed {
	if !v.Static {
		return nil
	}
	all, at := map[cluster.VNI][]Placed{}, v.workloads()
	for _, t := range ts {
		vni := v.vniOf(t)
		for _, p := range t.Peers {
			if p.VTEP.IsValid() {
				all[vni] = append(all[vni], Placed{VTEPMAC(p.VTEP), p.Underlay})
			}
			for _, mac := range at[p.Underlay] {
				all[vni] = append(all[vni], Placed{mac, p.Underlay})
			}
		}
		if all[vni] == nil {
			all[vni] = []Placed{}
		}
	}
	for vni, ps := range all {
		slices.SortFunc(ps, Placed.compare)
		all[vni] = slices.Compact(ps)
	}
	return all
}
