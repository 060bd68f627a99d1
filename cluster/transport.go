package cluster

import (
	"fmt"
	"net/netip"
	"strings"
)

// Transport is how links carry frames.
type Transport string

// The transports. A pair is P2P if either end is; else it is what both are.
// While members change from Multipoint to Multicast or back, a host receives by
// both, floods to the group if it is Multicast, and to a list of the peers that
// are not.
const (
	// Auto is Multipoint between members that can, P2P where one cannot. Only a
	// spec says it.
	Auto Transport = "auto"
	// Multipoint is one vxlan device per VPC and family, flooding to a list of
	// peers (head-end replication).
	Multipoint Transport = "multipoint"
	// P2P is one vxlan device per peer, with a VNI of the pair.
	P2P Transport = "p2p"
	// Multicast is one vxlan device per VPC that floods to a group of the
	// underlay, over the group's address family.
	Multicast Transport = "multicast"
)

// Names of capabilities that a node reports. One that reports none of them has
// CanMultipoint and CanP2P.
const (
	CanMultipoint = "multipoint"
	CanP2P        = "p2p"
	CanMulticast  = "multicast"
)

// checkSpecTransport checks what an operator asks for, but the group.
func checkSpecTransport(t Transport) error {
	switch t {
	case "", Auto, P2P, Multicast:
		return nil
	}
	return fmt.Errorf("%w transport %q: want auto, p2p or multicast", ErrInvalid, CleanText(string(t)))
}

// checkMemberTransport checks what is in force.
func checkMemberTransport(t Transport, group netip.Addr) error {
	switch t {
	case "", Multipoint, P2P, Multicast:
		return checkGroup(t, group)
	}
	return fmt.Errorf("%w transport %q", ErrInvalid, CleanText(string(t)))
}

// checkGroup holds a multicast group to what routers may forward: not that of
// one link alone (224.0.0.0/24; IPv6 scopes up to 2, RFC 4291 §2.7).
func checkGroup(t Transport, group netip.Addr) error {
	switch {
	case t != Multicast && group.IsValid():
		return fmt.Errorf("%w multicast group %s: the transport is not multicast", ErrInvalid, group)
	case t != Multicast:
		return nil
	case !group.IsValid():
		return fmt.Errorf("%w transport multicast: it needs a multicast group like 239.1.1.1 or ff05::1:1", ErrInvalid)
	case !group.IsMulticast() || group.Is4In6() || group.Zone() != "":
		return fmt.Errorf("%w multicast group %s: want 224.0.1.0 to 239.255.255.255, or ff03:: and wider", ErrInvalid, group)
	case group.IsLinkLocalMulticast(), group.IsInterfaceLocalMulticast(), group.Is6() && group.As16()[1]&0xf == 0:
		return fmt.Errorf("%w multicast group %s: it does not leave one link; want 224.0.1.0 to 239.255.255.255, or ff03:: and wider", ErrInvalid, group)
	}
	return nil
}

// LinkUse is how far a pair's own tunnel is in use. A pair that shall be p2p
// begins with preparing, or with active if it has no path that would have to be
// kept: one of its members is P2P from its admission on.
//
// The controller writes the same record at both ends in one transaction. Each
// end puts it in force and reports its VNI and use in Link. The controller goes
// on to the next use when both ends report this one, or when its wish changed:
//
//	use        in force when this end …                      both   p2p    not p2p
//	preparing  receives by the pair's tunnel too;            active –      retiring
//	           it sends by the shared tunnel, as before
//	active     receives and sends by the pair's tunnel; it   –      –      restoring
//	           receives by the shared tunnel, too, while
//	           neither member is P2P, and sends nothing by
//	           it when no pair of this end does any more
//	restoring  receives by the shared tunnel too;            retiring active –
//	           it sends by the pair's tunnel
//	retiring   sends by the shared tunnel again; the pair's  none   preparing –
//	           tunnel, if it is there, still receives
//
// So no end sends into a tunnel that the other does not have yet, and a host
// that does not answer keeps its pairs where they are, on the path that works.
// A tunnel that is not there need not be made to restore or retire it.
type LinkUse string

// The uses, see LinkUse.
const (
	LinkPreparing LinkUse = "preparing"
	LinkActive    LinkUse = "active"
	LinkRestoring LinkUse = "restoring"
	LinkRetiring  LinkUse = "retiring"
)

func (u LinkUse) valid() bool {
	return u == LinkPreparing || u == LinkActive || u == LinkRestoring || u == LinkRetiring
}

// HostLink gives a link a tunnel of its own, at KeyHostLink of each end. VNI is
// the pair's, the same at both ends.
//
// The record, not the members' transports, says what carries a pair's frames.
// Without one, the shared tunnel does if neither member is P2P; else there is
// no path yet, and what is there stays. Members become P2P when it is sure that
// nobody sends to them by the shared tunnel any more: all pairs of all that shall
// be P2P are active and both ends have reported it; or they are so from their
// admission on. While a host floods to one peer by the shared tunnel, it may send by
// it to others, too, what it has learned behind it. A member has another transport
// before the first of its links is restoring.
//
// A host reads members and links apart, in no order. Its members list may be older
// than a link: a P2P member counts only if its record is newer than the newest of
// the link that was not active. Or it may be newer, so that a link's first record
// has not been read: without a record there is no path, either, while the HostVPC,
// which is read with links, says that this member is P2P.
//
// A record that vanished means hold: use what it said, report it as before. The
// words to remove the pair's tunnel are
//
//   - the record vanished after this end had Retiring in force;
//   - the record has another VNI: that one's tunnel takes its place;
//   - the peer is gone from a members list, read whole, that holds this node;
//   - the VPC is left.
type HostLink struct {
	Needs int     `json:"needs,omitempty"`
	VNI   VNI     `json:"vni"`
	Use   LinkUse `json:"use"`
}

// Validate checks VNI and use.
func (l *HostLink) Validate() error {
	if !l.Use.valid() {
		return fmt.Errorf("%w link use %q", ErrInvalid, CleanText(string(l.Use)))
	}
	return l.VNI.Validate()
}

// Pair is two members of a VPC, A before B in order of their names.
type Pair struct{ VPC, A, B string }

// PairOf is the pair of two different nodes, in whatever order they come.
func PairOf(vpc, x, y string) Pair {
	if y < x {
		x, y = y, x
	}
	return Pair{vpc, x, y}
}

// String is "vpc1/gold-hoster-01/jhoster1", as an Allocation names its holder.
func (p Pair) String() string { return p.VPC + "/" + p.A + "/" + p.B }

// Keys are the pair's two HostLink keys: A's, and B's.
func (p Pair) Keys() [2]string {
	return [2]string{KeyHostLink(p.A, p.VPC, p.B), KeyHostLink(p.B, p.VPC, p.A)}
}

// ParsePair reads what String writes; other input wraps ErrInvalid.
func ParsePair(s string) (Pair, error) {
	parts := strings.Split(s, "/")
	if len(parts) == 3 && CheckVPCName(parts[0]) == nil && CheckNodeName(parts[1]) == nil && CheckNodeName(parts[2]) == nil && parts[1] < parts[2] {
		return Pair{parts[0], parts[1], parts[2]}, nil
	}
	return Pair{}, fmt.Errorf("%w pair %q: want VPC/NODE/NODE, the nodes in order", ErrInvalid, CleanText(s))
}

// TransportIn is how a node carries frames in a VPC: by what the VPC's transport
// is, else P2P; or refused says why it can do neither. Families are those that
// it has an underlay address of.
func (s *NodeStatus) TransportIn(n *VPCNet, ipv4, ipv6 bool) (t Transport, refused string) {
	wants := n.Transport
	if wants == "" {
		wants = Multipoint
	}
	switch group := n.MulticastGroup; {
	case !s.Can(string(wants)):
		refused = fmt.Sprintf("it is not capable of %s", wants)
	case wants == Multicast && !(group.Is4() && ipv4 || group.Is6() && ipv6):
		refused = fmt.Sprintf("it has no underlay address of the family of the multicast group %s", group)
	default:
		return wants, ""
	}
	switch {
	case wants == P2P:
		return "", refused
	case s.Can(CanP2P):
		return P2P, ""
	}
	return "", refused + ", nor of p2p"
}

// InForce is the asked-for transport as a VPCNet has it: empty for Auto.
func (s *VPCSpec) InForce() Transport {
	if s.Transport == Auto {
		return ""
	}
	return s.Transport
}
