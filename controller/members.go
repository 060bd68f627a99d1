package controller

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// membership is one VPC's members being worked out.
type membership struct {
	*state
	w        *world
	v        *vpc
	net      *cluster.VPCNet
	p        *plan
	network  allocator.Network
	selected int
	ipv4     int // nodes that have the family: members, and nodes to be admitted
	ipv6     int
	members  int
	taken    map[netip.Addr]string // what members and hosts have, whatever the reverse keys say
	admitted map[string]bool       // reverse keys claimed in this pass
	reasons  []string
	parts    []part // members that stay, or come
	pairs    linkCount
}

// depart lets the nodes leave that the spec does not select, and those that were
// told to leave before: they join anew afterwards.
func (w *world) depart(v *vpc, p *plan) {
	for _, name := range v.nodes() {
		n := w.nodes[name]
		a, told := v.assigns[name]
		told = told && a.Value.State == cluster.AssignedLeaving
		if n != nil && (told || !v.spec.Value.Members.Selects(name, n)) && !w.blocks(v, name) {
			p.add(w.leave(v, name, false))
		}
	}
	w.tellForgotten(v, p)
}

// members makes members of the nodes that the spec selects. It fills
// net.Refused and adds to net.Reason.
func (s *state) members(w *world, v *vpc, net *cluster.VPCNet, p *plan) {
	m := &membership{
		state: s, w: w, v: v, net: net, p: p,
		network:  allocator.Network{Prefix: net.PeerNetwork, Exclude: v.spec.Value.Exclude},
		admitted: make(map[string]bool, len(v.members)),
		parts:    make([]part, 0, len(v.members)),
	}
	candidates := m.keepMembers()
	for _, name := range candidates {
		m.refuse(name, m.admit(name))
	}
	for _, name := range v.spec.Value.Members.Names() {
		if w.nodes[name] == nil {
			m.refuse(name, "no such node")
		}
	}
	m.releaseOrphans()
	m.links()
	if len(m.reasons) > 0 {
		all := some(m.reasons, "; ")
		net.Reason = strings.TrimPrefix(net.Reason+"; "+all, "; ")
	}
}

func (m *membership) refuse(name, why string) {
	if why == "" {
		return
	}
	if m.net.Refused == nil {
		m.net.Refused = map[string]string{}
	}
	if before := m.net.Refused[name]; before != "" {
		why = before + "; " + why
	}
	m.net.Refused[name] = why
}

// keepMembers looks after those that are members and lists, sorted, the nodes
// that are to become members.
func (m *membership) keepMembers() (candidates []string) {
	for _, name := range m.w.names {
		if !m.v.spec.Value.Members.Selects(name, m.w.nodes[name]) {
			continue
		}
		m.selected++
		a, assigned := m.v.assigns[name]
		it, member := m.v.members[name]
		switch {
		case m.w.blocks(m.v, name):
		case assigned && a.Value.State == cluster.AssignedLeaving: // see depart
		case member:
			m.keep(name, it)
		default:
			candidates = append(candidates, name)
			m.count(m.w.placeOf(name, m.w.underlay(name), nil))
		}
	}
	for _, it := range m.v.members {
		m.members++
		m.count(place{v4: it.Value.UnderlayIPv4, v6: it.Value.UnderlayIPv6})
	}
	return candidates
}

func (m *membership) count(p place) {
	if p.v4.IsValid() {
		m.ipv4++
	}
	if p.v6.IsValid() {
		m.ipv6++
	}
}

// keep keeps a member's record, reverse key and assignment right.
func (m *membership) keep(name string, it memberItem) {
	u := unit{verb: "repoint", object: name}
	now := *it.Value
	part := part{name: name, wants: now.Transport, can: true}
	if r, ok := m.w.reports[name]; ok {
		p := m.w.placeOf(name, r.Value.Underlay, it.Value)
		now.Datacenter = m.w.nodes[name].Datacenter
		now.UnderlayIPv4, now.UnderlayIPv6 = p.v4, p.v6
		switch {
		case p.against != "":
			m.refuse(name, "it keeps its underlay address: "+p.against)
		case !p.asked: // else the address may be that of another machine, which had the name before
			now.NodeID = m.w.nodes[name].ID
		}
		m.keepTransport(&part, &now, r.Value, p)
	}
	if now != *it.Value {
		store.Put(&u.change, it, &now)
	}
	if now.Transport != it.Value.Transport {
		u.verb = "make " + string(now.Transport)
	}
	key := cluster.KeyAllocVTEP(m.v.name, now.VTEP)
	if a, ok := m.v.vteps[key]; !ok || a.Value.Holder != name || a.Value.Released {
		u.verb = "rebuild"
		m.rebuildKey(&u, name, key, now.VTEP)
	}
	m.admitted[key] = true
	if a, ok := m.v.assigns[name]; !ok {
		u.verb = "rebuild"
		m.assign(&u, name, now.Transport)
	} else if a.Value.P2P != (now.Transport == cluster.P2P) {
		if u.empty() {
			u.verb = "assign"
		}
		m.assign(&u, name, now.Transport)
	}
	part.item, part.written = it, !u.empty()
	part.item.Value = &now
	m.parts = append(m.parts, part)
	m.p.add(u)
}

// keepTransport decides how a member carries frames from now on. One that is to
// be P2P stays what it is until its pairs have changed over.
func (m *membership) keepTransport(part *part, now *cluster.Member, r *cluster.NodeStatus, p place) {
	part.can = r.Can(cluster.CanP2P)
	t, why := r.TransportIn(m.net, p.v4.IsValid(), p.v6.IsValid())
	if why != "" {
		m.refuse(part.name, why)
		return
	}
	part.wants = t
	if t != cluster.P2P {
		now.Transport = t
	}
}

// rebuildKey writes the reverse key of a member's address again.
func (m *membership) rebuildKey(u *unit, name, key string, addr netip.Addr) {
	claim, err := m.alloc.ClaimVTEPValue(m.v.name, name, addr)
	if err != nil {
		m.reasons = append(m.reasons, fmt.Sprintf("VTEP address of %s: %v", name, err))
		return
	}
	u.claim(claim)
}

// assign tells the host that it is a member.
func (m *membership) assign(u *unit, name string, t cluster.Transport) {
	it, _ := store.At[*cluster.HostVPC](m.w.view, cluster.KeyHostVPC(name, m.v.name))
	store.Put(&u.change, it, &cluster.HostVPC{State: cluster.AssignedMember, P2P: t == cluster.P2P})
}

// admit makes a node a member, or says why not. A node that has not reported
// yet is awaited without a word.
func (m *membership) admit(name string) (refused string) {
	if m.w.impostor[name] {
		return "another machine reports under this name (its id is not that of the node record)"
	}
	r, ok := m.w.reports[name]
	if !ok {
		return ""
	}
	p := m.w.placeOf(name, r.Value.Underlay, nil)
	_, known := m.v.assigns[name] // its member record was lost
	switch {
	case p.asked:
		return ""
	case p.none() && p.against != "":
		return p.against
	case p.none():
		return "it reports no underlay address"
	case known:
	case cannotCarry(r.Value.Underlay, m.net.MTU) != "":
		return cannotCarry(r.Value.Underlay, m.net.MTU)
	case m.alone(p):
		return fmt.Sprintf("no common family: its underlay has %s only, and no member has that", family(p))
	}
	transport, why := r.Value.TransportIn(m.net, p.v4.IsValid(), p.v6.IsValid())
	if why != "" {
		return why
	}
	claim, err := m.claim(name)
	switch {
	case errors.Is(err, allocator.ErrExhausted):
		return m.full()
	case err != nil:
		return err.Error()
	}
	u := unit{verb: "admit", object: name}
	u.claim(claim)
	m.admitted[claim.Key()] = true
	m.members++
	it, _ := store.At[*cluster.Member](m.w.view, cluster.KeyMember(m.v.name, name))
	now := transport
	if transport == cluster.P2P && (known || m.v.uses(name)) {
		now = cluster.Multipoint // its record was lost: it may live by the shared tunnel
	}
	it.Value = &cluster.Member{
		NodeID: m.w.nodes[name].ID, Datacenter: m.w.nodes[name].Datacenter,
		VTEP: claim.Addr(), UnderlayIPv4: p.v4, UnderlayIPv6: p.v6, Transport: now,
	}
	store.Put(&u.change, it, it.Value)
	m.parts = append(m.parts, part{name: name, item: it, wants: transport, can: r.Value.Can(cluster.CanP2P), written: true})
	if !known {
		m.assign(&u, name, now)
	}
	if m.v.left(name) { // an earlier membership
		m.w.dropStatus(m.v, name, &u)
	}
	m.p.add(u)
	return ""
}

// alone reports whether a node shares no family with any other member.
func (m *membership) alone(p place) bool {
	others4, others6 := m.ipv4, m.ipv6
	if p.v4.IsValid() {
		others4--
	}
	if p.v6.IsValid() {
		others6--
	}
	return m.members > 0 && !(p.v4.IsValid() && others4 > 0) && !(p.v6.IsValid() && others6 > 0)
}

func family(p place) string {
	if p.v6.IsValid() {
		return "IPv6"
	}
	return "IPv4"
}

// full is the arithmetic of a network that has no address left.
func (m *membership) full() string {
	fits := m.network.Capacity()
	if uint64(m.selected) > fits {
		return fmt.Sprintf("%s fits %d members, %d nodes are selected", m.network.Prefix, fits, m.selected)
	}
	return fmt.Sprintf("%s fits %d members, and released addresses are free again only after %s", m.network.Prefix, fits, allocator.QuarantineTime)
}

// claim claims the address that the node holds, else the one that its host
// reports, else the lowest free one that no other host reports.
func (m *membership) claim(name string) (*allocator.Claim, error) {
	m.findTaken()
	if s, ok := m.v.status[name]; ok && m.v.uses(name) && m.network.Allocates(s.Value.VTEP) && !m.holds(name) {
		if by, ok := m.taken[s.Value.VTEP]; !ok || by == name {
			if c, err := m.alloc.ClaimVTEPValue(m.v.name, name, s.Value.VTEP); err == nil {
				return c, nil
			}
		}
	}
	return m.alloc.ClaimVTEP(m.v.name, m.network, name, func(a netip.Addr) bool {
		by, ok := m.taken[a]
		return ok && by != name
	})
}

func (m *membership) holds(name string) bool {
	for _, it := range m.v.vteps {
		if it.Value.Holder == name {
			return true
		}
	}
	return false
}

func (m *membership) findTaken() {
	if m.taken != nil {
		return
	}
	m.taken = make(map[netip.Addr]string, len(m.v.members))
	for name, s := range m.v.status {
		if m.v.uses(name) && s.Value.VTEP.IsValid() {
			m.taken[s.Value.VTEP] = name
		}
	}
	for name, it := range m.v.members {
		m.taken[it.Value.VTEP] = name
	}
}

// releaseOrphans gives back the addresses that no member has. What belongs to
// a node that may become a member again by its own report, or whose record
// vanished, is kept for it.
func (m *membership) releaseOrphans() {
	for _, it := range sortedByKey(m.v.vteps) {
		name := it.Value.Holder
		n := m.w.nodes[name]
		mem, member := m.v.members[name]
		_, assigned := m.v.assigns[name]
		switch {
		case it.Value.Released, m.admitted[it.Key], m.w.blockedKey(it.Key), m.w.blocks(m.v, name):
		case member && cluster.KeyAllocVTEP(m.v.name, mem.Value.VTEP) == it.Key: // leaving, with it
		case !member && n == nil, !member && assigned && n.State != cluster.NodeLeft:
		case !member && m.v.spec.Value.Members.Selects(name, n) && !m.hasOther(name):
		case !member && n.State != cluster.NodeLeft && m.v.uses(name):
		default:
			m.p.add(release(it))
		}
	}
}

// hasOther reports whether the node was given another address in this pass.
func (m *membership) hasOther(name string) bool {
	for _, it := range m.v.vteps {
		if it.Value.Holder == name && m.admitted[it.Key] {
			return true
		}
	}
	return false
}

func sortedByKey(items map[string]allocItem) []allocItem {
	out := make([]allocItem, 0, len(items))
	for _, key := range slices.Sorted(maps.Keys(items)) {
		out = append(out, items[key])
	}
	return out
}
