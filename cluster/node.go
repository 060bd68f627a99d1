package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NodeState is what the operator wants of a node.
type NodeState string

// The states of a node. Left is the word to remove what is ours from it.
const (
	NodeActive   NodeState = "active"
	NodeDraining NodeState = "draining" // no placement; tunnels stay
	NodeLeft     NodeState = "left"
)

// Node is a machine of the cluster, at KeyNode.
type Node struct {
	Needs int `json:"needs,omitempty"`
	// ID is random at join: the same id after a reboot is the same node,
	// another id under the same name means that the name is taken.
	ID         string            `json:"id"`
	Datacenter string            `json:"datacenter"`
	Labels     map[string]string `json:"labels,omitempty"`
	State      NodeState         `json:"state"`
	Agent      bool              `json:"agent"` // false for a witness: no member of any VPC
	// Capacity is how many endpoints that move by themselves failover lets it have at
	// most; 0: any number. More that are there already stay.
	Capacity int `json:"capacity,omitempty"`
	// GivenUp is an operator's word that it is lost; nil: nobody said so.
	GivenUp *GivenUp `json:"given_up,omitempty"`
	// Key is the SHA-256 of the public key (SubjectPublicKeyInfo) that the node's
	// certificate is of, 64 hexadecimal digits: a certificate of another key is no
	// longer this node's.
	Key string `json:"key,omitempty"`
	// Revoked are the keys of the servers that ran here and were taken out, as
	// Server.Key has them: their certificates open nothing any more.
	Revoked []string `json:"revoked,omitempty"`
	Joined  Time     `json:"joined"`
}

// Validate checks id, datacenter, state and labels.
func (n *Node) Validate() error {
	switch {
	case checkID("", n.ID) != nil:
		return checkID("node id", n.ID)
	case n.State != NodeActive && n.State != NodeDraining && n.State != NodeLeft:
		return fmt.Errorf("%w node state %q", ErrInvalid, CleanText(string(n.State)))
	}
	if n.Capacity < 0 || n.Capacity > maxPeers {
		return fmt.Errorf("%w capacity %d: want 0, for any number of endpoints, to %d", ErrInvalid, n.Capacity, maxPeers)
	}
	if err := checkDatacenter(n.Datacenter); err != nil {
		return err
	}
	if n.Key != "" {
		if err := checkHash("key", n.Key); err != nil {
			return err
		}
	}
	if err := n.GivenUp.validate(); err != nil {
		return err
	}
	for _, key := range n.Revoked {
		if err := checkHash("revoked key", key); err != nil {
			return err
		}
	}
	for k, v := range n.Labels {
		if !isLabelPart(k) || !isLabelPart(v) {
			return fmt.Errorf("%w label %q=%q: want 1 to 63 of letters, digits, . _ -", ErrInvalid, k, v)
		}
	}
	return checkSize("labels", len(n.Labels), maxFew)
}

func checkDatacenter(s string) error {
	if CheckNodeName(s) != nil {
		return fmt.Errorf("%w datacenter name %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", ErrInvalid, s)
	}
	return nil
}

// Live says that a node's agent runs, at KeyLive, on its lease.
type Live struct {
	Needs       int    `json:"needs,omitempty"`
	NodeID      string `json:"node_id"`
	BootID      string `json:"boot_id"`     // of the host's kernel
	Incarnation string `json:"incarnation"` // of the agent's process
	Counter     int64  `json:"counter"`
	// Grant is how long the node was granted its strict endpoints for when the counter
	// moved, in ms; 0: it has none.
	Grant int64 `json:"grant_ms,omitempty"`
}

// maxGrant bounds what a node may make a leader wait, in ms.
const maxGrant = 60_000

// Validate checks the ids, the counter and the grant.
func (l *Live) Validate() error {
	for what, id := range map[string]string{"boot_id": l.BootID, "incarnation": l.Incarnation} {
		if id != "" {
			if err := checkID(what, id); err != nil {
				return err
			}
		}
	}
	if l.Counter < 0 || l.Counter > maxCount {
		return fmt.Errorf("%w counter %d", ErrInvalid, l.Counter)
	}
	if l.Grant < 0 || l.Grant > maxGrant {
		return fmt.Errorf("%w grant of %d ms", ErrInvalid, l.Grant)
	}
	return checkID("node_id", l.NodeID)
}

// UnderlayAddress is where a node's tunnels end in one address family.
// Advertise differs from Bind behind 1:1 NAT; it is what peers send to.
type UnderlayAddress struct {
	Bind      netip.Addr `json:"bind"`
	Advertise netip.Addr `json:"advertise"`
	Device    string     `json:"device"`
	MTU       int        `json:"mtu"` // of Device, bytes
}

// Underlay is a node's underlay: at most one address a family.
type Underlay struct {
	IPv4 *UnderlayAddress `json:"ipv4,omitempty"`
	IPv6 *UnderlayAddress `json:"ipv6,omitempty"`
}

// Advertised are the addresses that others send to, Binds those of this host that
// they come in at: IPv4 first, two at most.
func (u Underlay) Advertised() []netip.Addr {
	return u.each(func(a *UnderlayAddress) netip.Addr { return a.Advertise })
}

// Binds is explained at Advertised.
func (u Underlay) Binds() []netip.Addr {
	return u.each(func(a *UnderlayAddress) netip.Addr { return a.Bind })
}

func (u Underlay) each(of func(*UnderlayAddress) netip.Addr) []netip.Addr {
	list := make([]netip.Addr, 0, 2)
	for _, a := range []*UnderlayAddress{u.IPv4, u.IPv6} {
		if a != nil {
			list = append(list, of(a))
		}
	}
	return list
}

// String is the address that pairs prefer, "-" for none.
func (u Underlay) String() string {
	switch {
	case u.IPv6 != nil:
		return u.IPv6.Advertise.String()
	case u.IPv4 != nil:
		return u.IPv4.Advertise.String()
	}
	return "-"
}

// MTU is what a VPC can be given on this underlay, in bytes: the device's MTU
// less the encapsulation of each family that the node has. 0 without underlay.
func (u Underlay) MTU() int {
	mtu := 0
	if u.IPv4 != nil {
		mtu = u.IPv4.MTU - OverheadIPv4
	}
	if u.IPv6 != nil && (mtu == 0 || u.IPv6.MTU-OverheadIPv6 < mtu) {
		mtu = u.IPv6.MTU - OverheadIPv6
	}
	return max(mtu, 0)
}

// Bytes that VXLAN adds to a frame: outer IP, UDP, VXLAN and inner Ethernet
// header (RFC 7348 §5).
const (
	OverheadIPv4 = 20 + 8 + 8 + 14
	OverheadIPv6 = 40 + 8 + 8 + 14
)

// MTU bounds of a VPC in bytes: IPv6 needs 1280 (RFC 8200 §5), Linux's vxlan
// carries at most 65535 less the overhead.
const (
	MinMTU = 1280
	MaxMTU = 65535 - OverheadIPv6
)

// Validate checks families, addresses, device and MTU.
func (u Underlay) Validate() error {
	if a := u.IPv4; a != nil && (!a.Bind.Is4() || !a.Advertise.Is4() || !a.valid()) {
		return fmt.Errorf("%w IPv4 underlay %s", ErrInvalid, CleanText(fmt.Sprintf("%+v", *a)))
	}
	if a := u.IPv6; a != nil && (!a.Bind.Is6() || !a.Advertise.Is6() || !a.valid()) {
		return fmt.Errorf("%w IPv6 underlay %s", ErrInvalid, CleanText(fmt.Sprintf("%+v", *a)))
	}
	return nil
}

func (a *UnderlayAddress) valid() bool {
	return forHosts(a.Bind) && sendable(a.Advertise) && a.MTU > 0 && a.MTU <= 1<<16 && isDevice(a.Device)
}

// isDevice reports whether s can name a device on Linux and FreeBSD.
func isDevice(s string) bool {
	return s != "" && s != "." && s != ".." && len(s) <= maxDevice && CleanText(s) == s && !strings.ContainsAny(s, " /")
}

// notForHosts are the prefixes whose addresses no host can have as its own.
var notForHosts = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("224.0.0.0/4"), // multicast
	netip.MustParsePrefix("240.0.0.0/4"), // reserved, and broadcast
	netip.MustParsePrefix("::/128"),
	netip.MustParsePrefix("::ffff:0:0/96"), // IPv4 in disguise
	netip.MustParsePrefix("ff00::/8"),      // multicast
}

// forHosts reports whether a host can have the address as its own.
func forHosts(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() &&
		!slices.ContainsFunc(notForHosts, func(p netip.Prefix) bool { return p.Contains(a) })
}

// sendable reports whether another host can send to the address.
func sendable(a netip.Addr) bool {
	return forHosts(a) && !a.IsLoopback() && !(a.Is6() && a.IsLinkLocalUnicast())
}

// NodeStatus is what a node says of itself, at KeyNodeStatus.
type NodeStatus struct {
	Needs        int      `json:"needs,omitempty"`
	NodeID       string   `json:"node_id"`
	Underlay     Underlay `json:"underlay"`
	OS           string   `json:"os"`
	Version      string   `json:"version"`
	Capabilities []string `json:"capabilities,omitempty"`
	Problems     []string `json:"problems,omitempty"`
	Notes        []string `json:"notes,omitempty"` // worth knowing, and nothing is wrong
}

// Can reports whether the node has one of the capabilities CanMultipoint, CanP2P
// and CanMulticast.
func (s *NodeStatus) Can(what string) bool {
	says := func(c string) bool { return slices.Contains(s.Capabilities, c) }
	if !says(CanMultipoint) && !says(CanP2P) && !says(CanMulticast) {
		return what == CanMultipoint || what == CanP2P
	}
	return says(what)
}

// Validate checks the underlay and bounds the text.
func (s *NodeStatus) Validate() error {
	if err := checkID("node_id", s.NodeID); err != nil {
		return err
	}
	if err := checkText("node status", s.OS, s.Version); err != nil {
		return err
	}
	for what, list := range map[string][]string{"capabilities": s.Capabilities, "problems": s.Problems, "notes": s.Notes} {
		if err := checkSize(what, len(list), maxFew); err != nil {
			return err
		}
		if err := checkText(what, list...); err != nil {
			return err
		}
	}
	return s.Underlay.Validate()
}

func (s *NodeStatus) clean() {
	cleanText(&s.OS, &s.Version)
	s.Problems, s.Notes = cleanList(s.Problems), cleanList(s.Notes)
}
