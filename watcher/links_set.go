package watcher

import (
	"container/heap"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// target is a link that should be probed.
type target struct {
	id  linkID
	to  netip.Addr
	mtu int
}

// slot is the place of a link among all. A link that waits for its first probe is
// one for all that came to the VPC with it: a host that comes to a mesh of
// thousands needs half a minute until it has asked each.
type slot struct {
	id   linkID
	to   netip.Addr
	link *link
}

func (s *slot) is(o slot) bool { return s.to == o.to && s.id == o.id }
func (s *slot) waits() bool    { return s.link.id != s.id }

// set makes targets, of which none is there twice, the links that are probed. A
// new link, or one whose address moved, is unknown and due at once, or with the
// host's other links in a VPC whose links are known: else a peer that comes to a
// mesh gets a probe from all its hosts in the moment in which all are busy to take
// it in.
//
// Targets come VPC by VPC, sorted by its name, and else in about the order of the
// last time: only what lies between the
// first and the last difference costs more than a look.
func (ls *links) set(now time.Time, targets iter.Seq[target]) {
	from, old, n := 0, len(ls.slots), 0
	for range targets {
		n++
	}
	var changed []slot // in the place of slots from to old
	for t := range targets {
		s := slot{id: t.id, to: t.to}
		if changed == nil && from < old && ls.slots[from].is(s) {
			from++
			continue
		}
		if changed == nil {
			changed = make([]slot, 0, n-from)
		}
		changed = append(changed, s)
	}
	for from < old && len(changed) > 0 && ls.slots[old-1].is(changed[len(changed)-1]) {
		old, changed = old-1, changed[:len(changed)-1]
	}
	ls.replace(now, from, old, changed)
	i := 0
	for t := range targets {
		if l := ls.slots[i].link; l.mtu != t.mtu {
			l.mtu, l.fullAt = t.mtu, time.Time{}
		}
		i++
	}
}

// replace puts changed in the place of the slots from to old. Those that stay keep
// their link.
func (ls *links) replace(now time.Time, from, old int, changed []slot) {
	gone := make(map[linkID]*link, old-from)
	for _, s := range ls.slots[from:old] {
		gone[s.id] = s.link
	}
	for i := range changed {
		s := &changed[i]
		if l := gone[s.id]; l != nil && (l.id != s.id || l.to == s.to) {
			s.link = l
			delete(gone, s.id)
		}
	}
	for id, l := range gone {
		ls.count[l.state]--
		if l.id == id {
			heap.Remove(&ls.queue, l.index)
			delete(ls.known, id)
		}
	}
	ls.begin(now, changed)
	switch {
	case len(ls.slots) == 0:
		ls.slots, ls.line = changed, 0
	case old > from || len(changed) > 0:
		ls.slots, ls.line = slices.Replace(ls.slots, from, old, changed...), 0
	}
}

// begin gives those of slots that have none a link.
func (ls *links) begin(now time.Time, slots []slot) {
	if !slices.ContainsFunc(slots, func(s slot) bool { return s.link == nil }) {
		return
	}
	mesh, waiting := map[string]bool{}, map[string]*link{}
	for _, l := range ls.queue {
		if l.state != cluster.LinkUnknown {
			mesh[l.id.vpc] = true
		}
	}
	var soon []*link
	for i := range slots {
		s := &slots[i]
		if s.link != nil {
			continue
		}
		ls.count[cluster.LinkUnknown]++
		if mesh[s.id.vpc] {
			s.link = &link{id: s.id, to: s.to, state: cluster.LinkUnknown, since: now}
			soon = append(soon, s.link)
			continue
		}
		if waiting[s.id.vpc] == nil {
			waiting[s.id.vpc] = &link{state: cluster.LinkUnknown, since: now, next: now}
		}
		s.link = waiting[s.id.vpc]
	}
	slices.SortFunc(soon, func(a, b *link) int { return a.id.compare(b.id) })
	for _, l := range soon {
		l.next = ls.together(now.Add(probeLull + probeTogether/2)) // the first after the lull
		ls.known[l.id] = l
		heap.Push(&ls.queue, l)
	}
}

// of are the links of one VPC.
func (ls *links) of(vpc string) []slot {
	from, _ := slices.BinarySearchFunc(ls.slots, vpc, func(s slot, vpc string) int { return strings.Compare(s.id.vpc, vpc) })
	list := ls.slots[from:]
	if i := slices.IndexFunc(list, func(s slot) bool { return s.id.vpc != vpc }); i >= 0 {
		list = list[:i]
	}
	return list
}

// unknown reports whether any link of a VPC is.
func (ls *links) unknown(vpc string) bool {
	return slices.ContainsFunc(ls.of(vpc), func(s slot) bool { return s.link.state == cluster.LinkUnknown })
}

// first is the link that is due first, which does not wait any more; nil: there is
// none.
func (ls *links) first() *link {
	for ls.line < len(ls.slots) && !ls.slots[ls.line].waits() {
		ls.line++
	}
	if ls.line < len(ls.slots) {
		s := &ls.slots[ls.line]
		if len(ls.queue) == 0 || ls.queue[0].next.After(s.link.next) {
			l := *s.link
			l.id, l.to, s.link = s.id, s.to, &l
			ls.known[l.id] = &l
			heap.Push(&ls.queue, &l)
		}
	}
	if len(ls.queue) == 0 {
		return nil
	}
	return ls.queue[0]
}
