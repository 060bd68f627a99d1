package controller

import (
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// leave does the next thing for a node that is to be no member of v: tells its
// host, or cleans up after a host that is done, or does nothing but wait. With
// force it does not wait for a host that is not alive, and leaves the word
// there for it.
func (w *world) leave(v *vpc, node string, force bool) unit {
	n := w.nodes[node]
	a, assigned := v.assigns[node]
	switch {
	case n != nil && n.State == cluster.NodeLeft:
		return w.apart(v, node) // its own record is the word to its host
	case !assigned && v.uses(node):
		return w.tell(v, node)
	case !assigned, a.Value.State == cluster.AssignedLeaving && v.left(node):
		return w.finish(v, node)
	case a.Value.State == cluster.AssignedMember:
		return w.tell(v, node)
	case force && !w.alive[node]:
		u := unit{verb: "leave behind", object: node}
		w.dropMember(v, node, &u)
		return u
	}
	return unit{}
}

// tellForgotten tells those hosts to take the VPC down that report it, are not
// to have it, and have no record that says either.
func (w *world) tellForgotten(v *vpc, p *plan) {
	spec := v.spec.Value // nil: the VPC is being deleted, and it was lost
	for _, node := range slices.Sorted(maps.Keys(v.status)) {
		n := w.nodes[node]
		_, member := v.members[node]
		_, assigned := v.assigns[node]
		switch {
		case member, assigned, !v.uses(node), n == nil, n.State == cluster.NodeLeft, w.blocks(v, node):
		case spec != nil && spec.State == cluster.VPCActive && spec.Members.Selects(node, n):
		default:
			p.add(w.tell(v, node))
		}
	}
}

// tell tells a host to take the VPC down.
func (w *world) tell(v *vpc, node string) unit {
	u := unit{verb: "tell to leave", object: node}
	it, _ := store.At[*cluster.HostVPC](w.view, cluster.KeyHostVPC(node, v.name))
	store.Put(&u.change, it, &cluster.HostVPC{State: cluster.AssignedLeaving})
	return u
}

// apart ends the membership of a removed node at once, so that its peers drop
// it. Its assignment goes when its host is done, or gone.
func (w *world) apart(v *vpc, node string) unit {
	u := unit{verb: "take apart", object: node}
	w.dropMember(v, node, &u)
	a, assigned := v.assigns[node]
	switch {
	case !assigned:
	case v.left(node), !w.alive[node]:
		u.change.Remove(a.Key, a.Mod)
		w.dropStatus(v, node, &u)
	case a.Value.State == cluster.AssignedMember:
		store.Put(&u.change, a, &cluster.HostVPC{State: cluster.AssignedLeaving})
	}
	return u
}

// finish deletes what a host that is done had.
func (w *world) finish(v *vpc, node string) unit {
	u := unit{verb: "finish leaving of", object: node}
	if a, ok := v.assigns[node]; ok {
		u.change.Remove(a.Key, a.Mod)
	}
	w.dropMember(v, node, &u)
	w.dropStatus(v, node, &u)
	return u
}

// dropMember deletes the member record and releases the address.
func (w *world) dropMember(v *vpc, node string, u *unit) {
	m, ok := v.members[node]
	if !ok {
		return
	}
	u.change.Remove(m.Key, m.Mod)
	it, ok := v.vteps[cluster.KeyAllocVTEP(v.name, m.Value.VTEP)]
	if ok && it.Value.Holder == node && !it.Value.Released && !w.blockedKey(it.Key) {
		allocator.Release(&u.change, it)
	}
}

func (w *world) dropStatus(v *vpc, node string, u *unit) {
	if s, ok := v.status[node]; ok {
		u.change.Remove(s.Key, s.Mod)
		v.handled[node] = true
	}
}
