package cluster

import (
	"fmt"
	"net/netip"
	"slices"
)

// VPCState is what the operator wants of a VPC.
type VPCState string

// The states of a VPC's spec. A spec that vanishes is a mistake, not a wish:
// only Deleting takes a VPC down.
const (
	VPCActive   VPCState = "active"
	VPCDeleting VPCState = "deleting"
)

// VPCSpec is what the operator asks of a VPC, at KeyVPCSpec.
type VPCSpec struct {
	Needs       int          `json:"needs,omitempty"`
	State       VPCState     `json:"state"`
	Members     Selector     `json:"members"`
	PeerNetwork netip.Prefix `json:"peer_network"` // VTEP addresses come from here
	// Network is where the workloads' addresses come from, if the operator named
	// any; it may not overlap PeerNetwork.
	Network Networks     `json:"network,omitzero"`
	Exclude []netip.Addr `json:"exclude,omitempty"` // of PeerNetwork and Network, never allocated
	VNI     VNI          `json:"vni,omitempty"`     // 0: any
	MTU     int          `json:"mtu,omitempty"`     // bytes; 0: what the members can carry
	// Transport is Auto (or empty), P2P or Multicast; the last needs a group.
	Transport      Transport  `json:"transport,omitempty"`
	MulticastGroup netip.Addr `json:"multicast_group,omitzero"`
	Learning       Learning   `json:"learning,omitempty"`
	FloodLimit     FloodLimit `json:"flood_limit,omitempty"`
	// Gateway holds the addresses of the VPC's router with their lengths, GatewayMode is
	// how members have it, NAT opens the way out by the hosts, and Routes say what
	// workloads send there: see type Gateway. They are fields of their own, so that a
	// later one survives a rewrite.
	Gateway     Networks    `json:"gateway,omitzero"`
	GatewayMode GatewayMode `json:"gateway_mode,omitempty"`
	NAT         bool        `json:"nat,omitempty"`
	Routes      Routes      `json:"routes,omitempty"`
	Protect     bool        `json:"protect,omitempty"` // delete is refused
	Force       bool        `json:"force,omitempty"`   // with Deleting: wait for no dead host
	Created     Time        `json:"created"`
}

// DefaultPeerNetwork is the peer network of a VPC that names none. VPCs may
// overlap in it.
var DefaultPeerNetwork = netip.MustParsePrefix("10.100.0.0/16")

// Validate checks every field that needs no other record; it returns the first
// of Check.
func (s *VPCSpec) Validate() error {
	if wrong := s.Check(); len(wrong) > 0 {
		return wrong[0]
	}
	return nil
}

// Check lists the fields that break a rule, at most once each. A rule between
// fields is asked only when each keeps its own.
func (s *VPCSpec) Check() []FieldError {
	var wrong []FieldError
	keeps := func(field string, err error) bool {
		if err != nil {
			wrong = append(wrong, FieldError{field, err})
		}
		return err == nil
	}
	keeps("state", s.checkState())
	if s.VNI != 0 {
		keeps("vni", s.VNI.Validate())
	}
	if s.MTU != 0 && (s.MTU < MinMTU || s.MTU > MaxMTU) {
		keeps("mtu", fmt.Errorf("%w MTU %d: want %d to %d", ErrInvalid, s.MTU, MinMTU, MaxMTU))
	}
	if keeps("transport", checkSpecTransport(s.Transport)) {
		keeps("multicast_group", checkGroup(s.Transport, s.MulticastGroup))
	}
	keeps("learning", checkLearning(s.Learning))
	keeps("flood_limit", checkFloodLimit(s.FloodLimit))
	peer := keeps("peer_network", checkNetwork("peer network", s.PeerNetwork))
	apart := s.PeerNetwork
	if !peer {
		apart = netip.Prefix{}
	}
	g := s.AskedGateway()
	network := keeps("network", s.Network.check(apart))
	gateway := network && keeps("gateway", g.checkAddresses(apart, s.Network))
	if keeps("gateway_mode", s.GatewayMode.check()) && keeps("gateway_mode", g.checkMode()) && gateway {
		keeps("gateway_mode", g.checkActive(s.Network))
	}
	if keeps("nat", g.checkNAT()) && gateway {
		keeps("routes", g.checkRoutes(apart, s.Network))
	}
	if keeps("exclude", checkSize("excluded addresses", len(s.Exclude), maxPeers)) && peer {
		keeps("exclude", s.checkExclude())
	}
	keeps("members", s.Members.Validate())
	return wrong
}

func (s *VPCSpec) checkState() error {
	if s.State != VPCActive && s.State != VPCDeleting {
		return fmt.Errorf("%w VPC state %q", ErrInvalid, CleanText(string(s.State)))
	}
	return nil
}

func (s *VPCSpec) checkExclude() error {
	for _, a := range s.Exclude {
		if _, own := s.Network.Of(a); !own && !s.PeerNetwork.Contains(a) {
			return fmt.Errorf("%w excluded address %s: it is in neither the peer network %s nor the VPC's own", ErrInvalid, a, s.PeerNetwork)
		}
	}
	return nil
}

func checkNetwork(what string, p netip.Prefix) error {
	switch {
	case !p.IsValid() || p.Addr().Is4In6():
		return fmt.Errorf("%w %s %q: want a prefix like 10.100.0.0/16 or fd00:100::/64", ErrInvalid, what, p)
	case p != p.Masked():
		return fmt.Errorf("%w %s %s: host bits are set; want %s", ErrInvalid, what, p, p.Masked())
	case slices.ContainsFunc(notForVPCs, p.Overlaps):
		return fmt.Errorf("%w %s %s: some of its addresses cannot be given to hosts", ErrInvalid, what, p)
	}
	return nil
}

// notForVPCs are notForHosts, and what has a meaning on one host or one link
// alone.
var notForVPCs = slices.Concat(notForHosts, []netip.Prefix{
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("::1/128"),
	netip.MustParsePrefix("fe80::/10"),
})

// Phase is how far the controller has come with a VPC.
type Phase string

// The phases of a VPC.
const (
	PhasePending  Phase = "pending"  // Reason says what is awaited
	PhaseActive   Phase = "active"   // VNI and MTU are in force
	PhaseDeleting Phase = "deleting" // hosts are taking it down
)

// VPCNet is what is in force for a VPC, at KeyVPCNet.
type VPCNet struct {
	Needs       int          `json:"needs,omitempty"`
	Phase       Phase        `json:"phase"`
	Reason      string       `json:"reason,omitempty"`
	VNI         VNI          `json:"vni,omitempty"`
	MTU         int          `json:"mtu,omitempty"` // bytes, of every device of the VPC
	PeerNetwork netip.Prefix `json:"peer_network"`
	// Transport is what members speak that can: Multipoint (or empty), P2P or
	// Multicast, which has a group.
	Transport      Transport  `json:"transport,omitempty"`
	MulticastGroup netip.Addr `json:"multicast_group,omitzero"`
	Learning       Learning   `json:"learning,omitempty"`
	Gateway        Gateway    `json:"gateway,omitzero"`
	// Refused holds nodes that the selector names and that are no members,
	// with the reason.
	Refused map[string]string `json:"refused,omitempty"`
}

// Validate checks what is in force, and bounds the text.
func (n *VPCNet) Validate() error {
	switch n.Phase {
	case PhaseActive:
		if err := n.VNI.Validate(); err != nil {
			return err
		}
	case PhasePending, PhaseDeleting:
	default:
		return fmt.Errorf("%w phase %q", ErrInvalid, CleanText(string(n.Phase)))
	}
	switch {
	case n.VNI > MaxVNI:
		return n.VNI.Validate()
	case (n.MTU != 0 || n.Phase == PhaseActive) && (n.MTU < MinMTU || n.MTU > MaxMTU):
		return fmt.Errorf("%w MTU %d: want %d to %d", ErrInvalid, n.MTU, MinMTU, MaxMTU)
	}
	if err := checkMemberTransport(n.Transport, n.MulticastGroup); err != nil {
		return err
	}
	if err := checkLearning(n.Learning); err != nil {
		return err
	}
	if err := n.Gateway.check(n.PeerNetwork, Networks{}); err != nil {
		return err
	}
	if err := checkText("reason", n.Reason); err != nil {
		return err
	}
	if err := checkSize("refused nodes", len(n.Refused), maxPeers); err != nil {
		return err
	}
	for node, why := range n.Refused {
		if err := CheckNodeName(node); err != nil {
			return err
		}
		if err := checkText("reason", why); err != nil {
			return err
		}
	}
	return checkNetwork("peer network", n.PeerNetwork)
}

func (n *VPCNet) clean() {
	cleanText(&n.Reason)
	unclean := false
	for _, why := range n.Refused {
		unclean = unclean || CleanText(why) != why
	}
	if unclean {
		clean := make(map[string]string, len(n.Refused))
		for node, why := range n.Refused {
			clean[node] = CleanText(why)
		}
		n.Refused = clean
	}
}

// Member is a node's part in a VPC, at KeyMember. One such record is all that
// a join adds: every other member learns of it through its watch.
type Member struct {
	Needs        int        `json:"needs,omitempty"`
	NodeID       string     `json:"node_id"`
	Datacenter   string     `json:"datacenter"`
	VTEP         netip.Addr `json:"vtep"`
	UnderlayIPv4 netip.Addr `json:"underlay_ipv4,omitzero"` // where to send to
	UnderlayIPv6 netip.Addr `json:"underlay_ipv6,omitzero"`
	Transport    Transport  `json:"transport"`
}

// Validate checks addresses and transport.
func (m *Member) Validate() error {
	switch {
	case checkID("", m.NodeID) != nil:
		return checkID("node_id", m.NodeID)
	case m.Datacenter != "" && checkDatacenter(m.Datacenter) != nil:
		return checkDatacenter(m.Datacenter)
	case !forHosts(m.VTEP):
		return fmt.Errorf("%w member: vtep %q", ErrInvalid, m.VTEP)
	case m.UnderlayIPv4.IsValid() && (!m.UnderlayIPv4.Is4() || !sendable(m.UnderlayIPv4)):
		return fmt.Errorf("%w member: underlay_ipv4 %s", ErrInvalid, m.UnderlayIPv4)
	case m.UnderlayIPv6.IsValid() && (!m.UnderlayIPv6.Is6() || !sendable(m.UnderlayIPv6)):
		return fmt.Errorf("%w member: underlay_ipv6 %s", ErrInvalid, m.UnderlayIPv6)
	case !m.UnderlayIPv4.IsValid() && !m.UnderlayIPv6.IsValid():
		return fmt.Errorf("%w member: no underlay address", ErrInvalid)
	case m.Transport != Multipoint && m.Transport != P2P && m.Transport != Multicast:
		return fmt.Errorf("%w transport %q", ErrInvalid, CleanText(string(m.Transport)))
	}
	return nil
}

// LinkTo picks the family of the link from m to peer: IPv6 if both have it,
// else IPv4. It returns m's and the peer's address; ok is false without a
// common family.
func (m *Member) LinkTo(peer *Member) (local, remote netip.Addr, ok bool) {
	switch {
	case m.UnderlayIPv6.IsValid() && peer.UnderlayIPv6.IsValid():
		return m.UnderlayIPv6, peer.UnderlayIPv6, true
	case m.UnderlayIPv4.IsValid() && peer.UnderlayIPv4.IsValid():
		return m.UnderlayIPv4, peer.UnderlayIPv4, true
	}
	return netip.Addr{}, netip.Addr{}, false
}

// Underlays are all addresses where peers send to it: IPv4 first, two at most.
func (m *Member) Underlays() []netip.Addr {
	as := make([]netip.Addr, 0, 2)
	for _, a := range []netip.Addr{m.UnderlayIPv4, m.UnderlayIPv6} {
		if a.IsValid() {
			as = append(as, a)
		}
	}
	return as
}

// Underlay is the address that pairs prefer.
func (m *Member) Underlay() netip.Addr {
	if m.UnderlayIPv6.IsValid() {
		return m.UnderlayIPv6
	}
	return m.UnderlayIPv4
}

// AssignmentState is what the controller tells a host.
type AssignmentState string

// The states of a host's assignment.
const (
	AssignedMember  AssignmentState = "member"
	AssignedLeaving AssignmentState = "leaving" // take it down and report "left"
)

// HostVPC tells a host that it is (or was) a member, at KeyHostVPC. A record
// that vanishes means hold.
type HostVPC struct {
	Needs int             `json:"needs,omitempty"`
	State AssignmentState `json:"state"`
	// P2P says that the host's member record does. It is written with that, and
	// read in order with the host's links (see HostLink).
	P2P bool `json:"p2p,omitempty"`
}

// Validate checks the state.
func (h *HostVPC) Validate() error {
	if h.State != AssignedMember && h.State != AssignedLeaving {
		return fmt.Errorf("%w assignment state %q", ErrInvalid, CleanText(string(h.State)))
	}
	return nil
}

// Allocation is a reverse key: it says who holds an allocated value, so that a
// second holder is impossible.
type Allocation struct {
	Needs int `json:"needs,omitempty"`
	// Holder is a VPC's name or a Pair for VNIs, a node's name for VTEP addresses,
	// an endpoint's for addresses and MACs.
	Holder string `json:"holder"`
	// Released is set when the value waits in quarantine: kernels may still
	// hold it.
	Released bool `json:"released,omitempty"`
}

// Of says who holds a VNI: "VPC blue", or "the link a – b of VPC blue".
func (a *Allocation) Of() string {
	if p, err := ParsePair(a.Holder); err == nil {
		return fmt.Sprintf("the link %s – %s of VPC %s", p.A, p.B, p.VPC)
	}
	return "VPC " + CleanText(a.Holder)
}

// Validate checks that somebody holds the value.
func (a *Allocation) Validate() error {
	if _, err := ParsePair(a.Holder); err == nil || CheckNodeName(a.Holder) == nil || CheckVPCName(a.Holder) == nil {
		return nil
	}
	return fmt.Errorf("%w allocation: holder %q is no name of a node or VPC, and no pair", ErrInvalid, a.Holder)
}
