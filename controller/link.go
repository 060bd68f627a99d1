package controller

import (
	"cmp"
	"slices"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// link is all records of a pair that has a tunnel of its own, had one, or shall
// have one.
type link struct {
	pair    cluster.Pair
	ends    [2]linkItem // at A and at B; Key "": none; Value nil: none that can be used
	held    []allocItem // reverse keys
	blocked bool        // a newer version is in the store
	met     bool        // both ends are members, this pass has looked after it
}

// end returns the link of a pair, and which end of it node is.
func (v *vpc) end(node, peer string) (l *link, end int) {
	p := cluster.PairOf(v.name, node, peer)
	l = v.links[[2]string{p.A, p.B}]
	if l == nil {
		l = &link{pair: p}
		v.links[[2]string{p.A, p.B}] = l
	}
	if node == p.A {
		return l, 0
	}
	return l, 1
}

func (l *link) String() string { return l.pair.A + " – " + l.pair.B }

// stands is what the records say; ok is false if there are none. If they are not
// the same at both ends, that is a fault, and what holds the VNI is right.
func (l *link) stands() (is cluster.HostLink, ok bool) {
	if l == nil {
		return cluster.HostLink{}, false
	}
	a, b := l.ends[0].Value, l.ends[1].Value
	switch {
	case a == nil && b == nil:
		return cluster.HostLink{}, false
	case a == nil, b != nil && !l.holds(a.VNI) && l.holds(b.VNI):
		return *b, true
	}
	return *a, true
}

// agrees reports whether both ends are told the same.
func (l *link) agrees() bool {
	a, b := l.ends[0].Value, l.ends[1].Value
	return a != nil && b != nil && a.VNI == b.VNI && a.Use == b.Use
}

func (l *link) holds(vni cluster.VNI) bool {
	return slices.ContainsFunc(l.held, func(it allocItem) bool { return !it.Value.Released && vniOf(it) == vni })
}

// vniOf is the VNI whose reverse key it is.
func vniOf(it allocItem) cluster.VNI {
	vni, err := cluster.ParseVNI(lastPart(it.Key))
	if err != nil {
		return 0 // cannot be: the key was parsed
	}
	return vni
}

// nextUse is the use that follows on is; "" means that the link is over. Both
// says that both ends have put is in force.
func nextUse(is cluster.LinkUse, p2p, both bool) cluster.LinkUse {
	switch {
	case is == cluster.LinkPreparing && !p2p:
		return cluster.LinkRetiring
	case is == cluster.LinkPreparing && both:
		return cluster.LinkActive
	case is == cluster.LinkActive && !p2p:
		return cluster.LinkRestoring
	case is == cluster.LinkRestoring && p2p:
		return cluster.LinkActive
	case is == cluster.LinkRestoring && both:
		return cluster.LinkRetiring
	case is == cluster.LinkRetiring && p2p:
		return cluster.LinkPreparing
	case is == cluster.LinkRetiring && both:
		return ""
	}
	return is
}

// firstUse is the use to begin with, or to begin again with after the records
// were lost: then the hosts go on reporting what they have. Shared says that the
// pair has the shared tunnel. "" means that there is no link, and none is to be:
// a host that has retired its tunnel removes it by itself.
func firstUse(a, b cluster.Link, p2p, shared bool) cluster.LinkUse {
	reported := func(uses ...cluster.LinkUse) bool {
		return slices.Contains(uses, a.Use) || slices.Contains(uses, b.Use)
	}
	switch carries := reported(cluster.LinkActive, cluster.LinkRestoring); {
	case carries, p2p && !shared:
		return cluster.LinkActive
	case p2p:
		return cluster.LinkPreparing
	case reported(cluster.LinkPreparing):
		return cluster.LinkRetiring
	}
	return ""
}

// tell makes both ends what link says, and leaves no other.
func (l *link) tell(u *unit, says cluster.HostLink) {
	for i, it := range l.ends {
		it.Key = l.pair.Keys()[i]
		if it.Value != nil && it.Value.VNI == says.VNI && it.Value.Use == says.Use {
			u.change.Require(it.Key, it.Mod)
			continue
		}
		r := says
		if it.Value != nil {
			r.Needs = it.Value.Needs
		}
		store.Put(&u.change, it, &r)
	}
}

// unlink ends a link: both records, and what it holds.
func (w *world) unlink(l *link) unit {
	u := unit{verb: "unlink", object: l.String()}
	for _, it := range l.ends {
		if it.Mod != 0 {
			u.change.Remove(it.Key, it.Mod)
		}
	}
	for _, it := range l.held {
		if !it.Value.Released && !w.blockedKey(it.Key) {
			allocator.Release(&u.change, it)
		}
	}
	return u
}

// dropLinks ends the links of which an end is gone for good, and reports whether
// there are more of them than a pass may change.
func (w *world) dropLinks(v *vpc, p *plan, gone func(node string) bool) (more bool) {
	var over []*link
	for _, l := range v.links {
		if !l.met && !l.blocked && (l.pair.A == l.pair.B || gone(l.pair.A) || gone(l.pair.B)) {
			over = append(over, l)
		}
	}
	slices.SortFunc(over, func(x, y *link) int {
		return cmp.Or(cmp.Compare(x.pair.A, y.pair.A), cmp.Compare(x.pair.B, y.pair.B))
	})
	for _, l := range over {
		if len(p.links) >= linksAtOnce {
			return true
		}
		p.addLink(w.unlink(l))
	}
	return false
}

// gone reports whether a node is no member of v and will not become one again
// by what is known of it.
func (w *world) gone(v *vpc, node string) bool {
	n := w.nodes[node]
	a, assigned := v.assigns[node]
	_, member := v.members[node]
	switch {
	case member, w.blocks(v, node):
		return false
	case n != nil && n.State == cluster.NodeLeft:
		return true
	case assigned:
		return a.Value.State == cluster.AssignedLeaving
	}
	return !v.uses(node)
}
