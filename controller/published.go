package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// learned is all records of one MAC that nodes have learned.
type learned struct {
	record store.Item[*cluster.PublishedMAC] // Value nil: none
	claims []claim
}

// claim is what one node says of a MAC. Those with a smaller mod are older.
type claim struct {
	node     string
	port     string
	sequence uint64
	key      string
	mod      int64
}

// mac returns the records of a MAC.
func (v *vpc) mac(m cluster.MAC) *learned {
	l := v.macs[m]
	if l == nil {
		l = &learned{record: store.Item[*cluster.PublishedMAC]{Key: cluster.KeyPublished(v.name, m)}}
		v.macs[m] = l
	}
	return l
}

// readMACs takes what nodes claim, but of a machine that had the name before, or wants
// it; and what is published.
func (w *world) readMACs() {
	for it := range store.Below[*cluster.MACStatus](w.view, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if n := w.nodes[k.Node]; err != nil || n != nil && n.ID != it.Value.NodeID {
			continue
		}
		l := w.vpc(k.VPC).mac(macOf(k))
		l.claims = append(l.claims, claim{k.Node, it.Value.Port, it.Value.Sequence, it.Key, it.Mod})
	}
	for it := range store.Below[*cluster.PublishedMAC](w.view, cluster.PrefixVPCs) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			w.vpc(k.VPC).mac(macOf(k)).record = it
		}
	}
}

// macOf is the MAC in a key that ParseKey took.
func macOf(k cluster.Key) cluster.MAC {
	m, _ := cluster.ParseMAC(k.Name)
	return m
}

// publish makes records of what nodes claim, and takes them back; reason is what there
// is no room for. What is published already comes before what is new.
func (w *world) publish(v *vpc, p *plan) (reason string) {
	if len(v.macs) == 0 {
		return ""
	}
	taken, count := v.endpointMACs(), map[string]int{}
	all := slices.SortedFunc(maps.Keys(v.macs), func(a, b cluster.MAC) int {
		return cmp.Or(v.macs[a].since()-v.macs[b].since(), a.Compare(b))
	})
	total, refused := 0, false
	for _, mac := range all {
		l := v.macs[mac]
		if w.blockedKey(l.record.Key) {
			continue
		}
		var next *cluster.PublishedMAC
		if v.spec.Value.Learning == cluster.LearnPublish && !taken[mac] {
			var again time.Time
			next, again = settleMAC(l.record.Value, v.valid(l.claims), w.now)
			w.again = earlier(w.again, again)
		}
		if next != nil && (total == cluster.MaxPublished || count[next.Node] == cluster.MaxPublishedNode) {
			next, refused = nil, true
		}
		if next != nil {
			total++
			count[next.Node]++
		}
		p.add(l.put(mac, next))
	}
	if refused {
		return fmt.Sprintf("not all MACs are published: a VPC has %d at most, and a node %d of them", cluster.MaxPublished, cluster.MaxPublishedNode)
	}
	return ""
}

// since orders what is published, and then what is claimed, by age.
func (l *learned) since() int {
	if l.record.Mod != 0 {
		return 0
	}
	oldest := int64(1)
	for i, c := range l.claims {
		if i == 0 || c.mod < oldest {
			oldest = c.mod
		}
	}
	return int(oldest)
}

// put writes what a MAC's record is to be, nil for none, if it is not so.
func (l *learned) put(mac cluster.MAC, next *cluster.PublishedMAC) (u unit) {
	is := l.record.Value
	switch {
	case next == nil && l.record.Mod != 0:
		u.verb, u.object = "unpublish", mac.String()
		u.change.Remove(l.record.Key, l.record.Mod)
	case next != nil && (is == nil || !samePublished(is, next)):
		u.verb, u.object = "publish", fmt.Sprintf("%s at %s", mac, next.Node)
		store.Put(&u.change, l.record, next)
	}
	return u
}

func samePublished(a, b *cluster.PublishedMAC) bool {
	x, y := *a, *b
	x.Duplicate, y.Duplicate, x.Since, y.Since, x.Moving, y.Moving = nil, nil, cluster.Time{}, cluster.Time{}, cluster.Time{}, cluster.Time{}
	return x == y && (a.Duplicate == nil) == (b.Duplicate == nil)
}

// endpointMACs are those that endpoints have or ask for: nobody else can.
func (v *vpc) endpointMACs() map[cluster.MAC]bool {
	macs := map[cluster.MAC]bool{}
	for _, e := range v.endpoints {
		if own := e.own.Value; own != nil {
			macs[own.MAC] = true
		}
		if spec := e.spec.Value; spec != nil {
			macs[spec.MAC] = true
		}
	}
	return macs
}

// valid are the claims of members.
func (v *vpc) valid(claims []claim) []claim {
	return slices.DeleteFunc(slices.Clone(claims), func(c claim) bool {
		_, member := v.members[c.node]
		return !member
	})
}

// settleMAC decides where a MAC is: at the first that claimed it, until another claims it
// with a greater sequence. One that would come to its MovesMost-th move within
// MovesWithin stays where it is, as long as that node claims it, for FrozenFor: then it
// is looked at again.
func settleMAC(is *cluster.PublishedMAC, claims []claim, now time.Time) (_ *cluster.PublishedMAC, again time.Time) {
	best, any := first(claims)
	switch {
	case !any:
		return nil, again
	case is == nil:
		return &cluster.PublishedMAC{Node: best.node, Port: best.port, Sequence: best.sequence, Since: cluster.At(now)}, again
	}
	next := *is
	owner, owned := claimOf(claims, is.Node)
	if owned {
		next.Port, next.Sequence = cluster.CleanText(owner.port), max(is.Sequence, owner.sequence)
	}
	if d := is.Duplicate; d != nil {
		if end := d.At.Add(cluster.FrozenFor); owned && now.Before(end) {
			return &next, end
		}
		next.Duplicate, next.Moves, next.Moving = nil, 0, cluster.Time{}
	}
	if best.node == is.Node || owned && best.sequence <= next.Sequence {
		return &next, again
	}
	if since := now.Sub(next.Moving.Time); next.Moves == 0 || since < 0 || since > cluster.MovesWithin {
		next.Moves, next.Moving = 0, cluster.At(now)
	}
	next.Moves = min(next.Moves+1, cluster.MovesMost)
	if next.Moves == cluster.MovesMost && owned {
		next.Duplicate = &cluster.Duplicate{Node: best.node, Port: cluster.CleanText(best.port), At: cluster.At(now)}
		return &next, now.Add(cluster.FrozenFor)
	}
	next.Node, next.Port, next.Since = best.node, cluster.CleanText(best.port), cluster.At(now)
	next.Sequence = max(best.sequence, next.Sequence+1)
	return &next, again
}

// first is the claim with the greatest sequence; of several the oldest.
func first(claims []claim) (c claim, any bool) {
	if len(claims) == 0 {
		return c, false
	}
	return slices.MinFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(b.sequence, a.sequence), cmp.Compare(a.mod, b.mod), strings.Compare(a.node, b.node))
	}), true
}

func claimOf(claims []claim, node string) (c claim, there bool) {
	i := slices.IndexFunc(claims, func(c claim) bool { return c.node == node })
	if i < 0 {
		return c, false
	}
	return claims[i], true
}

// oldClaims deletes what nodes claim that are no members any more, or of a VPC that
// publishes nothing: their agents would, and may have ended.
func (w *world) oldClaims(v *vpc, p *plan) {
	if v.blocked || v.spec.Value == nil && v.net.Value != nil { // nobody can tell
		return
	}
	publishes := v.spec.Value != nil && v.spec.Value.Learning == cluster.LearnPublish
	for _, mac := range slices.SortedFunc(maps.Keys(v.macs), cluster.MAC.Compare) {
		for _, c := range v.macs[mac].claims {
			_, assigned := v.assigns[c.node]
			_, member := v.members[c.node]
			if (publishes && (assigned || member)) || w.alive[c.node] && (assigned || member) || w.blockedKey(c.key) {
				continue
			}
			u := unit{verb: "forget", object: mac.String() + " of " + c.node}
			u.change.Remove(c.key, c.mod)
			p.add(u)
		}
	}
}
