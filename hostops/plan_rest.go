package hostops

import (
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// rest removes what is ours and not wanted. What the desired state holds stays,
// the filter for it too.
func (p *planner) rest() {
	var extra []string // most often nothing is
	for name, d := range p.actual.Devices {
		switch {
		case p.gone[name]:
		case d.Use != UseVPC && (has(p.ports, name) || p.keeping[d.Owner]):
		case d.Use == UseVPC && p.names[name] && (d.Kind == KindBridge || p.vnis[d.Owner]):
		case p.held(d.Owner):
		default:
			extra = append(extra, name)
		}
	}
	slices.Sort(extra)
	groups := map[cluster.VNI]bool{}
	for _, name := range extra {
		d := p.actual.Devices[name]
		switch {
		case p.vnis[d.Owner] || slices.Contains(p.reowned, d.Owner):
			p.remove(release(Target{"", name}, d))
		case !groups[d.Owner]:
			groups[d.Owner] = true
			p.remove(DeleteDevices{Target{"", fmt.Sprintf("VNI %d", d.Owner)}, d.Owner})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.actual.Namespaces)) {
		if n := p.actual.Namespaces[name]; n.Owner != 0 && !p.names[name] && !p.held(n.Owner) {
			p.remove(DeleteNamespace{Target{"", name}})
			for _, in := range n.Further {
				p.gone[in.Peer] = true // with it
			}
		}
	}
	f := p.actual.Filter
	if f.Exists && !p.needsFilter() {
		p.remove(DeleteFilter{Target{"", "filter"}})
		return
	}
	p.unbind()
	p.ungate()
	for _, v := range slices.Sorted(maps.Keys(f.VNIs)) {
		if !p.keeps(v) {
			p.remove(Unguard{Target{"", "filter"}, v})
		}
	}
	for _, v := range slices.Sorted(maps.Keys(f.Sources)) {
		if !p.keeps(v) {
			p.remove(Deny{Target{"", "filter"}, v, slices.SortedFunc(f.Sources[v].Keys(), netip.Addr.Compare)})
		}
	}
	p.restPlaces(staticVNIs(p.desired))
	p.restWards()
	p.restUplinks()
	for _, v := range slices.Sorted(maps.Keys(f.Shields)) {
		if !p.vnis[v] && !p.held(v) {
			p.remove(Unshield{Target{"", "filter"}, v})
		}
	}
	for _, v := range slices.Sorted(maps.Keys(f.Budgets)) {
		if !p.vnis[v] && !p.held(v) {
			p.remove(UnlimitFlood{Target{"", "filter"}, v})
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

// keeps reports whether the filter's entries of a VNI stay: those of a wanted
// tunnel, and of one that is held. Others protect nothing.
func (p *planner) keeps(v cluster.VNI) bool {
	if p.judged[v] {
		return true
	}
	if p.heldVNIs == nil {
		p.heldVNIs = map[cluster.VNI]bool{}
		for name, d := range p.actual.Devices {
			if d.Kind == KindTunnel && p.held(d.Owner) && !p.gone[name] {
				p.heldVNIs[d.VNI] = true
			}
		}
	}
	return p.heldVNIs[v]
}

// needsFilter reports whether any VPC is wanted or held.
func (p *planner) needsFilter() bool {
	if len(p.vnis) > 0 {
		return true
	}
	f := p.actual.Filter
	for _, owners := range []iter.Seq[cluster.VNI]{maps.Keys(f.VNIs), maps.Keys(f.Sources)} {
		for v := range owners {
			if p.keeps(v) {
				return true
			}
		}
	}
	for v := range f.Shields {
		if p.held(v) {
			return true
		}
	}
	for _, w := range f.Wards {
		if p.held(w.VNI) {
			return true
		}
	}
	for name, d := range p.actual.Devices {
		if p.held(d.Owner) && !p.gone[name] {
			return true
		}
	}
	return false
}
