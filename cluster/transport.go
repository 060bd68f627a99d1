package cluster

import (
	"fmt"
	"net/netip"
	"strings"
)

// Transport is how links carry frames.
type Transport string

// The transports. A pair is P2P if either end is; else it is what both are.
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
	// underlay.
	Multicast Transport = "multicast"
)

// Names of capabilities that a node reports. One that reports none of them has
// CanMultipoint and CanP2P.
const (
	CanMultipoint = "multipoint"
	CanP2P        = "p2p"
	CanMulticast  = "multicast"
)

// checkSpecTransport checks what an operator asks for.
func checkSpecTransport(t Transport, group netip.Addr) error {
	switch t {
	case "", Auto, P2P, Multicast:
		return checkGroup(t, group)
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

// LinkUse is how far a pair's own tunnel is in use.
type LinkUse string

// The uses. Both ends of a pair change from one to the next in one transaction.
const (
	// LinkPreparing: both ends make the tunnel and receive by it; they send by
	// what they sent by before.
	LinkPreparing LinkUse = "preparing"
	// LinkActive: the tunnel carries the pair's frames.
	LinkActive LinkUse = "active"
	// LinkRetiring: both ends send by the VPC's shared tunnel again and still
	// receive by this one.
	LinkRetiring LinkUse = "retiring"
)

// HostLink gives a link a tunnel of its own, at KeyHostLink of each end. VNI is
// the pair's, the same at both ends. A record that vanished means hold.
type HostLink struct {
	Needs int     `json:"needs,omitempty"`
	VNI   VNI     `json:"vni"`
	Use   LinkUse `json:"use"`
}

// Validate checks VNI and use.
func (l *HostLink) Validate() error {
	if l.Use != LinkPreparing && l.Use != LinkActive && l.Use != LinkRetiring {
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
