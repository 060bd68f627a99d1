package watcher

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// memory is what this host has accepted from the records: last known good, and
// the content of the cache file. Members and records in it are never changed in
// place, only replaced.
type memory struct {
	ClusterID string           `json:"cluster_id"`
	Era       int64            `json:"era"`
	Port      uint16           `json:"underlay_port"`
	Left      bool             `json:"left,omitempty"` // our node record said so
	Underlay  cluster.Underlay `json:"underlay"`       // as last found on the host
	VPCs      map[string]*vpc  `json:"vpcs"`
	// Remove lists what is to be taken down and may still be on the host.
	Remove []cluster.VNI `json:"remove,omitempty"`
	// Fences are those that stand, by node.
	Fences map[string]*cluster.Fence `json:"fences,omitempty"`

	fencesRead bool // since the start
}

// vpc is this host's part in one VPC.
type vpc struct {
	VNI     cluster.VNI                `json:"vni"`
	MTU     int                        `json:"mtu"`
	Length  int                        `json:"length"`  // of the peer network's prefix, bits
	Members map[string]*cluster.Member `json:"members"` // ourselves included
	Leaving bool                       `json:"leaving,omitempty"`
	// Links are those that have a tunnel of their own, by peer.
	Links map[string]cluster.HostLink `json:"links,omitempty"`
	// P2P says that this host is P2P, as far as Links have been read. The members
	// list may say otherwise: then it is newer, and a link without a record may
	// have one, already active at the peer, which needs the pair's tunnel here.
	P2P bool `json:"p2p,omitempty"`
	// Open are peers that may send by the shared tunnel, whatever the members list
	// says: with the revision of the link's record that says so (see absorbOpen).
	Open map[string]int64 `json:"open,omitempty"`

	// Group is the multicast group that the shared tunnel belongs to; ToGroup:
	// it carries, and is flooded to (see caster).
	Group   netip.Addr `json:"multicast_group,omitzero"`
	ToGroup bool       `json:"to_group,omitempty"`

	// Static says that the host learns from Places alone, which are by endpoint.
	Static bool             `json:"static,omitempty"`
	Places map[string]place `json:"places,omitempty"`
	// Publish says that it also publishes what its bridge learns.
	Publish   bool                      `json:"publish,omitempty"`
	Published map[cluster.MAC]published `json:"published,omitempty"`

	Flood cluster.FloodLimit `json:"flood_limit,omitempty"`
	// Gateway is the VPC's, as it is in force.
	Gateway cluster.Gateway `json:"gateway,omitzero"`

	// Network is where the workloads' addresses come from. Attachments are by
	// endpoint, and so is the last term of each that was Released here. Deletes are
	// the endpoints that this host wants to be deleted.
	Network     cluster.Networks      `json:"network,omitzero"`
	Attachments map[string]attachment `json:"attachments,omitempty"`
	Released    map[string]released   `json:"released,omitempty"`
	Deletes     map[string]bool       `json:"deletes,omitempty"`
	// Workloads are what endpoints have this host start, by endpoint.
	Workloads map[string]*workload `json:"workloads,omitempty"`

	claims    *claims                     // of a VPC that publishes; nil: none yet
	expected  map[string]time.Time        // endpoints that may become this host's, until then, see expect
	portsRead *vpcRecords                 // what the endpoints were read with; nil: they have to be
	sorted    []namedMember               // Members, see inOrder; nil: not sorted yet
	read      *vpcRecords                 // what Members were read as
	inForce   map[string]cluster.HostLink // of Links: what the kernel last was equal to
	confirmed bool                        // Members were read from the records since the start
	gone      bool                        // Leaving, and the host has been seen without anything of it
	hold      string                      // why the records do not count at the moment
	kept      bool                        // the cache file has had its members: a reboot brings it back
}

// clone is a copy that later steps do not change.
func (m *memory) clone() *memory {
	c := *m
	c.Fences = maps.Clone(m.Fences)
	c.Remove = slices.Clone(m.Remove)
	c.VPCs = make(map[string]*vpc, len(m.VPCs))
	for name, v := range m.VPCs {
		v := *v
		v.Links, v.Open, v.inForce = maps.Clone(v.Links), maps.Clone(v.Open), nil
		v.Places, v.Published, v.claims = maps.Clone(v.Places), maps.Clone(v.Published), nil
		v.Attachments, v.Released, v.Deletes, v.expected = maps.Clone(v.Attachments), maps.Clone(v.Released), maps.Clone(v.Deletes), nil
		v.Workloads = maps.Clone(v.Workloads)
		for name, w := range v.Workloads {
			w := *w
			v.Workloads[name] = &w
		}
		c.VPCs[name] = &v
	}
	return &c
}

// records is what a pass reads: the records that concern this host, each nil
// or absent if it is not there or has never been readable.
type records struct {
	config *cluster.Config
	node   *cluster.Node
	vpcs   map[string]vpcRecords // by name: all that hosts/<me>/ names
	synced bool                  // config, nodes/<me> and hosts/<me>/ have been read
}

type vpcRecords struct {
	assignment *cluster.HostVPC
	net        *cluster.VPCNet
	network    *cluster.Networks // of the spec; nil: no spec can be read
	ping       *cluster.PingRequest
	find       *cluster.FindRequest
	flood      *cluster.FloodLimit        // of the spec; nil: no spec can be read
	read       *vpcRecords                // the same, the same net, ping and members; nil: nobody knows
	members    map[string]*cluster.Member // nil until vpcs/<vpc>/ has been read whole
	sorted     []namedMember              // members, see inOrder
	places     *placeRecords              // of a static VPC
	published  *publishedRecords          // of one that publishes
	scope      *observe.Scope             // nil: no endpoint can move without anybody's word
	unreadable []string                   // members whose record never could be read
	vips       map[string]*cluster.EndpointSpec
	links      map[string]cluster.HostLink
	linksAt    map[string]int64 // revisions of links, by peer
	p2pAt      map[string]int64 // revisions of the members that are P2P
}

// namedMember is one of a members list.
type namedMember struct {
	name string
	*cluster.Member
}

// inOrder sorts members as tunnels need them most often: by underlay address.
func inOrder(members map[string]*cluster.Member) []namedMember {
	list := make([]namedMember, 0, len(members))
	for name, m := range members {
		list = append(list, namedMember{name, m})
	}
	slices.SortFunc(list, func(a, b namedMember) int {
		return cmp.Or(a.Underlay().Compare(b.Underlay()), strings.Compare(a.name, b.name))
	})
	return list
}

// inOrder are Members in order.
func (v *vpc) inOrder() []namedMember {
	if v.sorted == nil {
		v.sorted = inOrder(v.Members)
	}
	return v.sorted
}

// setMembers takes the members list of r.
func (v *vpc) setMembers(r vpcRecords) {
	members := r.keeping(v.Members)
	v.Members, v.sorted = members, nil
	if len(r.unreadable) == 0 {
		v.sorted = r.sorted
	}
}

// change is what became of memory, the greater the sooner the cache file has
// to have it.
type change int

const (
	changedNothing change = iota
	changedPeers          // of a VPC that was there before
	changedMore
)

// more is changedMore if yes.
func more(yes bool) change {
	if yes {
		return changedMore
	}
	return changedNothing
}

// absorb takes the records into memory, as far as the rules of doc.go let it.
// It returns why the host as a whole holds ("" if it does not) and what worth
// caching changed. It is the only place where memory follows records.
func (m *memory) absorb(r records, nodeID, me string) (hold string, changed change) {
	if hold := m.trusts(r, nodeID); hold != "" {
		return hold, changedNothing
	}
	if !r.synced {
		return "", changedNothing
	}
	if c := r.config; c != nil && (m.ClusterID != c.ID || m.Era != c.Era || m.Port != c.UnderlayPort) {
		m.ClusterID, m.Era, m.Port = c.ID, c.Era, c.UnderlayPort
		changed = changedMore
	}
	if r.node != nil && r.node.State == cluster.NodeLeft {
		return "", max(changed, more(m.leave(r)))
	}
	if m.Left {
		m.Left, changed = false, changedMore
	}
	for name, v := range m.VPCs {
		if _, told := r.vpcs[name]; !told && !v.Leaving {
			v.hold = "the assignment record of this host is gone: keeping the network as it is"
		}
	}
	for name, vr := range r.vpcs {
		changed = max(changed, m.absorbVPC(name, vr, nodeID, me))
	}
	for name, vr := range r.vpcs {
		if v := m.VPCs[name]; v != nil && v.hold == "" {
			changed = max(changed, more(m.yield(v, vr.links, r)))
		}
	}
	return "", changed
}

const holdRestored = "the store was restored: keeping the network as it is until \"meshvpc cluster confirm\""

const holdTaken = "the node record has another id: the name of this node is taken by another machine"

// trusts says why none of the records may count, or "".
func (m *memory) trusts(r records, nodeID string) string {
	switch {
	case r.config != nil && m.ClusterID != "" && r.config.ID != m.ClusterID:
		return "the store belongs to another cluster (config has another id): keeping the network as it is"
	case r.config != nil && r.config.Era < m.Era:
		return "the store is of an earlier era than this host has seen: keeping the network as it is"
	case r.node != nil && r.node.ID != nodeID:
		return holdTaken
	case r.config != nil && r.config.Unconfirmed():
		return holdRestored
	case r.synced && r.node == nil:
		return "the node record of this host is gone: keeping the network as it is"
	}
	return ""
}

// leave takes every VPC down: the node's own record said so. One that this host
// is assigned to and never had is left as well: the controller awaits the word.
func (m *memory) leave(r records) (changed bool) {
	for name := range r.vpcs {
		if m.VPCs[name] == nil {
			m.VPCs[name] = &vpc{Leaving: true}
			changed = true
		}
	}
	for _, v := range m.VPCs {
		if !v.Leaving {
			m.remove(v.VNI)
			v.Leaving, v.gone, changed = true, false, true
		}
		v.forgetPorts()
		v.hold = ""
	}
	if !m.Left {
		m.Left, changed = true, true
	}
	return changed
}

// seek marks what the host carries of VPCs that are to leave to be taken down:
// memory may never have known of it, or have forgotten. It reports whether
// there was anything new.
func (m *memory) seek(on hostops.State) (found bool) {
	had := len(m.Remove)
	for name, v := range m.VPCs {
		if v.Leaving {
			for _, owner := range on.OwnersOf(name) {
				if m.unwanted(owner) {
					m.remove(owner)
				}
			}
		}
	}
	return len(m.Remove) != had
}

const holdFound = "it was found on the host, and no record says why: keeping the network as it is"

// adopt takes into memory what the host carries and no record nor memory tells
// of: the agent was killed before it was kept, and then the assignment was lost.
// So it is held and reported, and can be told to leave.
func (m *memory) adopt(on hostops.State, told map[string]vpcRecords) (found bool) {
	for _, name := range on.VPCs() {
		if _, ok := told[name]; ok || m.VPCs[name] != nil || cluster.CheckVPCName(name) != nil {
			continue
		}
		for _, owner := range on.OwnersOf(name) {
			if m.unwanted(owner) && !slices.Contains(m.Remove, owner) {
				m.VPCs[name] = &vpc{VNI: owner, hold: holdFound}
				found = true
			}
		}
	}
	return found
}

// see notes what is left on the host of what is to be taken down, and reports
// whether any of it is gone.
func (m *memory) see(on hostops.State) (gone bool) {
	had := len(m.Remove)
	m.Remove = slices.DeleteFunc(m.Remove, func(v cluster.VNI) bool {
		return !on.Carries(v) || !on.Marked(v) && m.ofPair(v)
	})
	for name, v := range m.VPCs {
		v.gone = v.Leaving && !slices.Contains(m.Remove, v.VNI) && !slices.ContainsFunc(on.OwnersOf(name), m.unwanted) && !v.mayRun()
	}
	return len(m.Remove) != had
}

// ofPair reports whether a link that stays has the VNI: then the filter's entry is
// for that.
func (m *memory) ofPair(n cluster.VNI) bool {
	for _, v := range m.VPCs {
		for _, l := range v.Links {
			if l.VNI == n {
				return true
			}
		}
	}
	return false
}

// leaving reports whether any VPC is to be taken down.
func (m *memory) leaving() bool {
	for _, v := range m.VPCs {
		if v.Leaving {
			return true
		}
	}
	return len(m.Remove) > 0
}

// unwanted reports whether no VPC that stays has the VNI.
func (m *memory) unwanted(n cluster.VNI) bool {
	for _, v := range m.VPCs {
		if !v.Leaving && v.VNI == n {
			return false
		}
	}
	return true
}

// remove marks a VNI to be taken down.
func (m *memory) remove(v cluster.VNI) {
	if v != 0 && !slices.Contains(m.Remove, v) {
		m.Remove = append(m.Remove, v)
	}
}

// absorbVPC follows the records of one VPC that this host is assigned to.
func (m *memory) absorbVPC(name string, r vpcRecords, nodeID, me string) (changed change) {
	v := m.VPCs[name]
	switch {
	case r.assignment == nil: // unreadable, and never was readable
		return changedNothing
	case r.assignment.State == cluster.AssignedLeaving:
		if v == nil && r.members == nil {
			return changedNothing // not read yet: the VNI may be there
		}
		if v == nil {
			v = &vpc{}
			m.VPCs[name] = v
			if r.net != nil {
				v.VNI = r.net.VNI
			}
		} else if v.Leaving {
			return changedNothing
		}
		m.remove(v.VNI)
		v.Leaving, v.gone, v.hold = true, false, ""
		v.Members, v.Links, v.Open, v.inForce = nil, nil, nil, nil
		v.sorted, v.read, v.claims = nil, nil, nil
		v.forgetPorts()
		return changedMore
	case v == nil:
		v = &vpc{} // worth caching when its members are known
		m.VPCs[name] = v
	case v.Leaving: // assigned again before it was gone
		v.Leaving, changed = false, changedMore
	}
	v.hold = ""
	if r.members == nil {
		return changed // not read yet
	}
	mine, in := r.members[me]
	switch {
	case r.net == nil || r.net.Phase != cluster.PhaseActive:
		v.hold = "no VNI and MTU are in force for the VPC"
		return changed
	case !in || mine.NodeID != nodeID:
		v.hold = "the members list does not hold this node: keeping the peers as they are"
		return changed
	}
	if v.VNI != r.net.VNI {
		m.remove(v.VNI)
		v.VNI, changed = r.net.VNI, changedMore
	}
	m.Remove = slices.DeleteFunc(m.Remove, func(x cluster.VNI) bool { return x == v.VNI })
	if length := r.net.PeerNetwork.Bits(); v.MTU != r.net.MTU || v.Length != length {
		v.MTU, v.Length, changed = r.net.MTU, length, changedMore
	}
	if !v.confirmed {
		v.confirmed, changed = true, changedMore
	}
	// Revisions would not tell: a store that went back in time counts them again.
	switch {
	case r.read != nil && v.read == r.read: // it is what was read
	case v.Members == nil || !sameMember(v.Members[me], mine):
		v.setMembers(r)
		changed = changedMore
	case !maps.EqualFunc(v.Members, r.keeping(v.Members), sameMember):
		v.setMembers(r)
		changed = max(changed, changedPeers)
	}
	places, published := r.places, r.published
	if r.read != nil && v.read == r.read {
		places, published = nil, nil
	}
	changed = max(changed, v.absorbPlaces(r.net.Learning.FromRecords(), places), v.absorbPublished(r.net.Learning == cluster.LearnPublish, published))
	v.read = r.read
	if v.Gateway != r.net.Gateway {
		v.Gateway, changed = r.net.Gateway, changedMore
	}
	var group netip.Addr
	if r.net.Transport == cluster.Multicast && mine.Transport == cluster.Multicast {
		group = r.net.MulticastGroup
	}
	if v.Group != group {
		v.Group, v.ToGroup, changed = group, false, changedMore
	}
	if n := r.network; n != nil && v.Network != *n {
		v.Network, changed = *n, changedMore
	}
	if l := r.flood; l != nil && v.Flood != *l {
		v.Flood, changed = *l, changedMore
	}
	if v.P2P != r.assignment.P2P {
		v.P2P, changed = r.assignment.P2P, changedMore
	}
	changed = max(changed, more(v.absorbOpen(r, me)))
	return max(changed, more(v.absorbLinks(r.links)))
}

// absorbOpen follows who may send by the shared tunnel. Members and links are
// read apart, in no order: a P2P member beside an active link may be older than
// the link, from before the pair went back to the shared tunnel; then the peer,
// which has not read active yet, sends by that. So a P2P member counts only if its
// record is newer than the newest of the link that was not active.
//
// That is enough. When a record that says P2P was written, both ends had last
// reported active, or had no path (see cluster.HostLink). Before its peer can
// send by the shared tunnel again, this host reports restoring, and it has that
// from a record newer than any by which a member was P2P until then. What is read
// after a restart is newer than what was reported before.
func (v *vpc) absorbOpen(r vpcRecords, me string) (changed bool) {
	for peer, l := range r.links {
		at, open := v.Open[peer]
		if l.Use == cluster.LinkActive || v.Members[peer] == nil || open && at == r.linksAt[peer] {
			continue
		}
		if v.Open == nil {
			v.Open = map[string]int64{}
		}
		v.Open[peer] = r.linksAt[peer]
		changed = true
	}
	for peer, at := range v.Open {
		l, told := r.links[peer]
		settled := (!told || l.Use == cluster.LinkActive) && max(r.p2pAt[me], r.p2pAt[peer]) > at
		if settled || v.Members[peer] == nil || told && r.linksAt[peer] < at { // the last: the store went back in time
			delete(v.Open, peer)
			changed = true
		}
	}
	return changed
}

// absorbLinks follows the records of links with a tunnel of their own. One that
// vanished stays, but after retiring (see cluster.HostLink), or with its peer.
func (v *vpc) absorbLinks(records map[string]cluster.HostLink) (changed bool) {
	for peer, l := range v.Links {
		_, told := records[peer]
		retired := !told && l.Use == cluster.LinkRetiring && v.inForce[peer] == l
		if v.Members[peer] != nil && !retired {
			continue
		}
		delete(v.Links, peer)
		delete(v.inForce, peer)
		changed = true
	}
	for peer, l := range records {
		if v.Members[peer] == nil || v.Links[peer] == l {
			continue
		}
		if v.Links == nil {
			v.Links = map[string]cluster.HostLink{}
		}
		v.Links[peer] = l
		changed = true
	}
	return changed
}

// yield lets go of a VPC's links that no record tells of any more when the
// records have given their VNI away, as a store does that went back in time: such
// a tunnel cannot be, and would stand in the way of another.
func (m *memory) yield(v *vpc, told map[string]cluster.HostLink, r records) (changed bool) {
	for peer, l := range v.Links {
		if _, ok := told[peer]; !ok && m.given(l.VNI, v, r) {
			delete(v.Links, peer)
			delete(v.inForce, peer)
			changed = true
		}
	}
	return changed
}

// given reports whether another VPC than v has the VNI, or a link that a record
// tells of.
func (m *memory) given(n cluster.VNI, v *vpc, r records) bool {
	for _, other := range m.VPCs {
		if other != v && !other.Leaving && other.VNI == n {
			return true
		}
	}
	for _, vr := range r.vpcs {
		for _, l := range vr.links {
			if l.VNI == n {
				return true
			}
		}
	}
	return false
}

func sameMember(a, b *cluster.Member) bool { return a == b || a != nil && b != nil && *a == *b }

// relearn corrects what a cache that lacks the newest says of links: one whose
// tunnel is gone, or sends no more, has retired, unless a record says otherwise.
// A host without the VPC, after a reboot, says nothing.
func (v *vpc) relearn(on hostops.State, name string) {
	if on.Devices[name].Owner != v.VNI {
		return
	}
	for peer, l := range v.Links {
		if d, there := on.Devices[hostops.PairTunnelOf(l.VNI)]; there && d.Owner == v.VNI && !d.Silent {
			continue
		}
		l.Use = cluster.LinkRetiring
		v.Links[peer] = l
		if v.inForce == nil {
			v.inForce = map[string]cluster.HostLink{}
		}
		v.inForce[peer] = l
	}
}

// p2p reports whether one of two members is P2P.
func (v *vpc) p2p(me, peer string) bool {
	is := func(name string) bool { return v.Members[name] != nil && v.Members[name].Transport == cluster.P2P }
	return is(me) || is(peer)
}

// enforce notes for which links the kernel is as desired, and reports whether
// that is new for any.
func (v *vpc) enforce(inPlace map[string]bool) (changed bool) {
	for peer, l := range v.Links {
		if !inPlace[peer] || v.inForce[peer] == l {
			continue
		}
		if v.inForce == nil {
			v.inForce = map[string]cluster.HostLink{}
		}
		v.inForce[peer] = l
		changed = true
	}
	return changed
}

// keep notes that the cache file holds all of memory, or cannot: then it does
// not hold what is attached.
func (m *memory) keep(cannot bool) {
	for _, v := range m.VPCs {
		v.kept = v.Members != nil
		for name, a := range v.Attachments {
			if !a.kept && !cannot {
				a.kept = true
				v.Attachments[name] = a
			}
		}
		for _, w := range v.Workloads {
			w.kept = w.kept || !cannot
		}
		for name, r := range v.Released {
			if !r.kept && !cannot {
				r.kept = true
				v.Released[name] = r
			}
		}
	}
}

// keeping returns the members list, with those that cannot be read as they
// were.
func (r vpcRecords) keeping(old map[string]*cluster.Member) map[string]*cluster.Member {
	if len(r.unreadable) == 0 {
		return r.members
	}
	out := maps.Clone(r.members)
	for _, name := range r.unreadable {
		if m := old[name]; m != nil {
			out[name] = m
		}
	}
	return out
}
