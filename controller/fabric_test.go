package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// fabric is what hosts have made of their records, as cluster.LinkUse and
// cluster.HostLink tell them to. It watches over every change that no pair which
// worked stops working.
type fabric struct {
	store *store.Store
	ends  map[end]inForce
	open  map[end]int64 // whose peer may send by the shared tunnel, see watcher's absorbOpen
	works map[end]bool  // frames of the first get to the second
	// told are the pairs of which a host was told to leave, and may be told to stay
	// before it has heard of it: what they had ends with the former membership.
	told     map[end]bool
	problems []string
}

// end is one member's side of a pair.
type end struct{ vpc, node, peer string }

func (e end) other() end { return end{e.vpc, e.peer, e.node} }

// inForce is what an end has in force. Without a use it is the shared tunnel,
// if neither member is P2P.
type inForce struct {
	vni  cluster.VNI
	use  cluster.LinkUse
	none bool // no path yet
	// shared says that neither member is P2P, as far as that counts
	shared bool
}

func (f inForce) sendsShared() bool {
	return !f.none && (f.use == "" || f.use == cluster.LinkPreparing || f.use == cluster.LinkRetiring)
}

func (f inForce) receivesShared() bool { return !f.none && (f.use != cluster.LinkActive || f.shared) }

func (f inForce) sendsOwn() bool {
	return f.use == cluster.LinkActive || f.use == cluster.LinkRestoring
}

func newFabric(s *store.Store) *fabric {
	return &fabric{store: s, ends: map[end]inForce{}, open: map[end]int64{}, told: map[end]bool{}, works: map[end]bool{}}
}

// apply puts in force what the records tell node of a VPC.
func (f *fabric) apply(v *store.View, vpc, node string) {
	mine, ok := store.At[*cluster.Member](v, cluster.KeyMember(vpc, node))
	if !ok {
		return
	}
	assigned, _ := store.At[*cluster.HostVPC](v, cluster.KeyHostVPC(node, vpc))
	peers := map[string]*cluster.Member{}
	p2pAt := map[string]int64{}
	for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(vpc)) {
		name := lastPart(it.Key)
		if it.Value.Transport == cluster.P2P {
			p2pAt[name] = it.Mod
		}
		if name != node {
			peers[name] = it.Value
		}
	}
	for e := range f.ends {
		if e.vpc == vpc && e.node == node && peers[e.peer] == nil {
			f.drop(e)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		if _, _, ok := mine.Value.LinkTo(peers[name]); !ok {
			continue
		}
		e := end{vpc, node, name}
		is, known := f.ends[e]
		it, ok := store.At[*cluster.HostLink](v, cluster.KeyHostLink(node, vpc, name))
		newest := max(p2pAt[node], p2pAt[name])
		if ok && it.Value.Use != cluster.LinkActive {
			f.open[e] = it.Mod
		} else if newest > f.open[e] {
			delete(f.open, e)
		}
		_, open := f.open[e]
		shared := open || newest == 0
		switch {
		case ok:
			is = inForce{vni: it.Value.VNI, use: it.Value.Use, shared: shared}
		case is.use == cluster.LinkRetiring:
			is = inForce{} // whatever the members are: they may be read later
		case is.use == "" && (!known || is.none): // else it is there, and nothing says to take it down
			is = inForce{none: !shared || assigned.Value != nil && assigned.Value.P2P}
		}
		f.set(e, is)
	}
}

// stays reports whether a node is not to leave a VPC, whatever a view shows.
func (f *fabric) stays(vpc, node string) bool {
	a, err := store.Get[*cluster.HostVPC](context.Background(), f.store, cluster.KeyHostVPC(node, vpc))
	return err == nil && a.Value.State == cluster.AssignedMember
}

// set changes an end, and looks at the host's VNIs and, unless a host is to
// leave, at the pair.
func (f *fabric) set(e end, is inForce) {
	f.ends[e] = is
	for _, way := range []end{e, e.other()} {
		from, ok1 := f.ends[way]
		to, ok2 := f.ends[way.other()]
		works := ok1 && ok2 && (from.sendsShared() && to.receivesShared() || from.sendsOwn() && to.vni == from.vni)
		if from.sendsOwn() && to.sendsOwn() && to.vni == from.vni {
			delete(f.told, e)
			delete(f.told, e.other())
		}
		left := f.told[e] || f.told[e.other()]
		if f.works[way] && !works && !left && f.stays(e.vpc, e.node) && f.stays(e.vpc, e.peer) {
			f.problems = append(f.problems, fmt.Sprintf("frames from %s to %s in %s are lost: %+v, %+v", way.node, way.peer, way.vpc, from, to))
		}
		f.works[way] = works
	}
	for o, has := range f.ends {
		if is.vni != 0 && o.node == e.node && o != e && has.vni == is.vni {
			f.problems = append(f.problems, fmt.Sprintf("%s has VNI %d for %v and for %v", e.node, is.vni, e, o))
		}
	}
}

func (f *fabric) drop(e end) {
	delete(f.ends, e)
	delete(f.open, e)
	delete(f.works, e)
	delete(f.works, e.other())
}

// tellToLeave: the membership of a node in a VPC has ended.
func (f *fabric) tellToLeave(vpc, node string) {
	for e := range f.ends {
		if e.vpc == vpc && (e.node == node || e.peer == node) {
			f.told[e] = true
		}
	}
}

// leave takes all of a VPC from a node.
func (f *fabric) leave(vpc, node string) {
	for e := range f.ends {
		if e.vpc == vpc && e.node == node {
			f.drop(e)
		}
	}
}

// links is what node reports of the tunnels that pairs have.
func (f *fabric) links(vpc, node string) []cluster.Link {
	var links []cluster.Link
	for e, is := range f.ends {
		if e.vpc == vpc && e.node == node && is.use != "" {
			links = append(links, cluster.Link{Peer: e.peer, State: cluster.LinkUp, VNI: is.vni, Use: is.use})
		}
	}
	slices.SortFunc(links, func(a, b cluster.Link) int { return cmp.Compare(a.Peer, b.Peer) })
	return links
}

func sortedPairs(v *vpc) [][2]string {
	return slices.SortedFunc(maps.Keys(v.links), func(x, y [2]string) int {
		return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]))
	})
}

// holdsAny reports whether the pair holds a VNI that is not in quarantine.
func (l *link) holdsAny() bool {
	return slices.ContainsFunc(l.held, func(it allocItem) bool { return !it.Value.Released })
}
