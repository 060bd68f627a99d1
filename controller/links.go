package controller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// linksAtOnce is how many links of one VPC a pass changes: a few dozen
// transactions, between which nothing else is decided.
const linksAtOnce = 1000

// part is a member as links see it.
type part struct {
	name    string
	item    memberItem // Value is what this pass makes of it
	wants   cluster.Transport
	can     bool // speak p2p
	written bool // by this pass
	waits   bool // some pair that shall be p2p may still send by the shared tunnel
	back    bool // it became P2P too early
}

func (p *part) is(t cluster.Transport) bool { return p.item.Value.Transport == t }

// linkCount sums up the pairs that shall be p2p.
type linkCount struct {
	wanted  int  // have, or need, a VNI of their own
	without int  // have none, because the range is used up
	full    bool // it is
}

// links gives every pair that shall be p2p a tunnel of its own, and takes it from
// the others.
func (m *membership) links() {
	if m.concernsLinks() {
		slices.SortFunc(m.parts, func(a, b part) int { return cmp.Compare(a.name, b.name) })
		for i := range m.parts {
			for j := i + 1; j < len(m.parts); j++ {
				m.link(&m.parts[i], &m.parts[j])
			}
		}
		late := slices.ContainsFunc(m.parts, func(p part) bool { return p.wants == cluster.P2P && p.waits })
		for i := range m.parts {
			m.settle(&m.parts[i], late)
		}
		m.w.dropLinks(m.v, m.p, func(node string) bool { return m.w.gone(m.v, node) })
	}
	if n := m.pairs; n.full {
		r := m.w.config.VNIs
		m.reasons = append(m.reasons, fmt.Sprintf("%d pairs need a VNI of their own, %d of them have none: the cluster's range %d-%d has %d left; "+
			"ask for another transport or fewer members, or delete VPCs", n.wanted, n.without, r.First, r.Last, m.alloc.VNIsLeft(r)))
	}
}

// concernsLinks reports whether there is any pair to look after; most VPCs have
// none.
func (m *membership) concernsLinks() bool {
	return len(m.v.links) > 0 || slices.ContainsFunc(m.parts, func(p part) bool {
		return p.wants == cluster.P2P || p.is(cluster.P2P) || len(m.w.own.of(m.v.status[p.name])) > 0
	})
}

// link does the next thing for the pair of two members.
func (m *membership) link(a, b *part) {
	l := m.v.links[[2]string{a.name, b.name}]
	p2p := a.wants == cluster.P2P || b.wants == cluster.P2P
	if l == nil && !p2p && !m.reportsLink(a, b) {
		return
	}
	if l == nil {
		l, _ = m.v.end(a.name, b.name)
	}
	l.met = true
	stands, ok := l.stands()
	apart := m.apart(a, b, p2p)
	shared := !a.is(cluster.P2P) && !b.is(cluster.P2P)
	if p2p && !apart {
		m.pairs.wanted++
		if !ok || !l.agrees() || stands.Use != cluster.LinkActive || shared && !m.inForce(l, stands) {
			a.waits, b.waits = true, true
		}
	}
	switch {
	case l.blocked:
	case ok && !apart && !shared && stands.Use == cluster.LinkPreparing:
		// One became P2P while the other's record was lost, and with it this pair. A
		// host takes a P2P member for newer than the link then, and would not wait.
		a.back, b.back = true, true
		m.write(l, stands)
	case apart && ok:
		m.write(l, stands) // as it is
	case apart:
		m.release(l, 0)
	case ok:
		next := stands
		next.Use = nextUse(stands.Use, p2p, m.inForce(l, stands))
		m.write(l, next)
	default:
		use := firstUse(m.w.reported(m.v, a.name, b.name), m.w.reported(m.v, b.name, a.name), p2p, shared)
		if use == "" {
			m.release(l, 0)
			return
		}
		m.write(l, cluster.HostLink{Use: use})
	}
}

func (m *membership) reportsLink(a, b *part) bool {
	return m.w.reported(m.v, a.name, b.name).VNI != 0 || m.w.reported(m.v, b.name, a.name).VNI != 0
}

// apart reports whether two members cannot have a tunnel of their own at all.
func (m *membership) apart(a, b *part, p2p bool) bool {
	if _, _, ok := a.item.Value.LinkTo(b.item.Value); !ok {
		return true // as their hosts say
	}
	for _, p := range [2]*part{a, b} {
		if p2p && !p.can {
			m.reasons = append(m.reasons, fmt.Sprintf("%s – %s need a tunnel of their own, which %s cannot have: it is not capable of p2p", a.name, b.name, p.name))
			return true
		}
	}
	return false
}

// inForce reports whether both ends say that they have put what stands in force.
func (m *membership) inForce(l *link, stands cluster.HostLink) bool {
	a, b := m.w.reported(m.v, l.pair.A, l.pair.B), m.w.reported(m.v, l.pair.B, l.pair.A)
	return a.VNI == stands.VNI && a.Use == stands.Use && b.VNI == stands.VNI && b.Use == stands.Use
}

// write makes a link what it is to be: with a VNI that it holds, the same at both
// ends. Without a VNI it gets one; without a use it ends.
func (m *membership) write(l *link, is cluster.HostLink) {
	good := is.VNI != 0 && l.holds(is.VNI) && !m.clashes(l, is.VNI)
	switch {
	case is.Use != "" && good && l.agrees() && *l.ends[0].Value == is:
		m.release(l, is.VNI)
		return
	case len(m.p.links) >= linksAtOnce:
		return
	case is.Use == "":
		m.p.addLink(m.w.unlink(l))
		return
	}
	u := unit{verb: verbOf(l, is), object: l.String()}
	if !good {
		claim, err := m.claimLink(l, is.VNI)
		switch {
		case errors.Is(err, allocator.ErrExhausted):
			m.pairs.full = true
			m.pairs.without++
			return
		case err != nil:
			m.reasons = append(m.reasons, fmt.Sprintf("%s: %v", l, err))
			return
		}
		u.claim(claim)
		is.VNI = claim.VNI()
	}
	l.tell(&u, is)
	m.p.addLink(u)
}

func verbOf(l *link, is cluster.HostLink) string {
	switch stands, ok := l.stands(); {
	case !ok && is.Use == cluster.LinkActive:
		return "link"
	case !ok || stands.Use != is.Use:
		return map[cluster.LinkUse]string{
			cluster.LinkPreparing: "prepare link", cluster.LinkActive: "use link",
			cluster.LinkRestoring: "restore shared tunnel of", cluster.LinkRetiring: "retire link",
		}[is.Use]
	}
	return "rebuild link"
}

// claimLink claims the VNI that the records say, else the one that the pair
// holds, else the one that its hosts report, else the lowest free one. A pair
// whose VNI is another's gets a new one.
func (m *membership) claimLink(l *link, vni cluster.VNI) (*allocator.Claim, error) {
	if m.w.config == nil {
		return nil, errors.New("the cluster has no config record")
	}
	holder, other := l.pair.String(), m.w.usedByOther(l.pair)
	known := []cluster.VNI{vni}
	if len(l.held) == 0 {
		known = append(known, m.w.reported(m.v, l.pair.A, l.pair.B).VNI, m.w.reported(m.v, l.pair.B, l.pair.A).VNI)
	}
	for _, n := range known {
		if n != 0 && !other(n) {
			c, err := m.alloc.ClaimVNIValue(holder, n)
			taken, ok := errors.AsType[*allocator.TakenError](err)
			if err == nil || n == vni && ok && taken.Holder == "" {
				return c, err // its own, as far as can be told: it may be read again
			}
		}
	}
	switch {
	case m.pairs.full:
		return nil, allocator.ErrExhausted
	case vni != 0 && l.holds(vni):
		return m.alloc.ClaimAnotherVNI(m.w.config.VNIs, holder, other)
	}
	return m.alloc.ClaimVNI(m.w.config.VNIs, holder, other)
}

// clashes reports whether an end that is not ready says that it has the link's
// VNI for something else, and so cannot have the link. What other hosts say does
// not count: it would let any of them move the links of all.
func (m *membership) clashes(l *link, vni cluster.VNI) bool {
	for _, node := range [2]string{l.pair.A, l.pair.B} {
		if s, ok := m.v.status[node]; !ok || s.Value.Ready {
			continue
		}
		for _, v := range m.w.vpcs {
			if !v.uses(node) {
				continue
			}
			if v.status[node].Value.VNI == vni {
				return true
			}
			for _, own := range m.w.own.of(v.status[node]) {
				if own.VNI == vni && cluster.PairOf(v.name, node, own.Peer) != l.pair {
					return true
				}
			}
		}
	}
	return false
}

// release gives back what a link holds but does not need.
func (m *membership) release(l *link, except cluster.VNI) {
	for _, it := range l.held {
		if it.Value.Released || m.w.blockedKey(it.Key) || vniOf(it) == except {
			continue
		}
		if len(m.p.links) < linksAtOnce {
			m.p.addLink(release(it))
		}
	}
}

// settle makes a member P2P when all pairs have changed over, its own and, as late
// says, those of the others that shall be P2P: one of those that still sends by the
// shared tunnel to some peer may send by it to this one, too (see
// cluster.HostLink). It takes that back if it was too early.
func (m *membership) settle(p *part, late bool) {
	now := *p.item.Value
	verb := "make p2p"
	switch {
	case p.written:
		return
	case p.back && p.is(cluster.P2P):
		now.Transport, verb = cluster.Multipoint, "take back p2p"
	case p.wants == cluster.P2P && !p.is(cluster.P2P) && !late:
		now.Transport = cluster.P2P
	default:
		return
	}
	u := unit{verb: verb, object: p.name}
	store.Put(&u.change, p.item, &now)
	m.assign(&u, p.name, now.Transport)
	m.p.add(u)
}
