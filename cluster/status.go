package cluster

import (
	"fmt"
	"net/netip"
	"slices"
)

// LinkState is what probes say of a link.
type LinkState string

// The states of a link.
const (
	LinkUp      LinkState = "up"
	LinkDown    LinkState = "down"
	LinkUnknown LinkState = "unknown" // not probed yet
)

// Link is one end's view of the tunnel to a peer.
type Link struct {
	Peer   string    `json:"peer"`
	State  LinkState `json:"state"`
	RTT    float64   `json:"rtt_ms,omitempty"` // of the last answered probe, milliseconds
	Reason string    `json:"reason,omitempty"`
	// VNI and Use are those of the HostLink that this end has put in force, see
	// LinkUse; both zero for none. A change is reported at once.
	VNI VNI     `json:"vni,omitempty"`
	Use LinkUse `json:"use,omitempty"`
}

// HostState is how a host stands to a VPC.
type HostState string

// The states a host reports.
const (
	HostMember  HostState = "member"
	HostHolding HostState = "holding" // keeps what it has; Reason says why
	HostLeft    HostState = "left"    // nothing of the VPC is on the host any more
)

// VPCStatus is a node's report about its part in a VPC, at KeyVPCStatus. It is
// written when something changed that a reader must know at once; a link that
// came up for the first time and round trip times ride along with the next
// write. A link is one object with two ends: LinkBetween merges them.
type VPCStatus struct {
	Needs  int        `json:"needs,omitempty"`
	NodeID string     `json:"node_id"`
	State  HostState  `json:"state"`
	Ready  bool       `json:"ready"` // the kernel is as the records say
	Reason string     `json:"reason,omitempty"`
	VNI    VNI        `json:"vni,omitempty"`
	MTU    int        `json:"mtu,omitempty"`
	VTEP   netip.Addr `json:"vtep,omitzero"`
	// Learning is what is in force here.
	Learning Learning `json:"learning,omitempty"`
	Gateway  Gateway  `json:"gateway,omitzero"`
	// FloodDropped counts the frames that this host did not send to others because
	// they were over the VPC's flood limit. It is not newer than a minute.
	FloodDropped uint64 `json:"flood_dropped,omitempty"`
	// MACsRefused counts the MACs that this host's bridge knows and that it does not
	// publish, for the bounds of that. It is not newer than a minute.
	MACsRefused int      `json:"macs_refused,omitempty"`
	Repairs     int      `json:"repairs,omitempty"` // of tampering, since the agent started
	Links       []Link   `json:"links,omitempty"`   // sorted by peer
	Ports       []string `json:"ports,omitempty"`   // of workloads, on the VPC's bridge; sorted
	At          Time     `json:"at"`
}

// Validate checks what is reported, and bounds it.
func (s *VPCStatus) Validate() error {
	switch {
	case s.State != HostMember && s.State != HostHolding && s.State != HostLeft:
		return fmt.Errorf("%w host state %q", ErrInvalid, CleanText(string(s.State)))
	case s.VNI > MaxVNI:
		return s.VNI.Validate()
	case s.MTU < 0 || s.MTU > MaxMTU:
		return fmt.Errorf("%w MTU %d: want 0 to %d", ErrInvalid, s.MTU, MaxMTU)
	case s.VTEP.IsValid() && !forHosts(s.VTEP):
		return fmt.Errorf("%w vtep %s", ErrInvalid, s.VTEP)
	case checkLearning(s.Learning) != nil:
		return checkLearning(s.Learning)
	case s.Gateway.Validate() != nil:
		return s.Gateway.Validate()
	case s.Repairs < 0 || s.MACsRefused < 0:
		return fmt.Errorf("%w repairs %d, refused MACs %d", ErrInvalid, s.Repairs, s.MACsRefused)
	}
	if s.NodeID != "" {
		if err := checkID("node_id", s.NodeID); err != nil {
			return err
		}
	}
	if err := checkText("reason", s.Reason); err != nil {
		return err
	}
	if err := checkSize("links", len(s.Links), maxPeers); err != nil {
		return err
	}
	for _, l := range s.Links {
		if err := l.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (l Link) validate() error {
	if err := CheckNodeName(l.Peer); err != nil {
		return err
	}
	if l.State != LinkUp && l.State != LinkDown && l.State != LinkUnknown {
		return fmt.Errorf("%w link state %q", ErrInvalid, CleanText(string(l.State)))
	}
	switch {
	case l.VNI > MaxVNI:
		return l.VNI.Validate()
	case l.Use != "" && !l.Use.valid(), (l.Use == "") != (l.VNI == 0):
		return fmt.Errorf("%w link: use %q of VNI %d", ErrInvalid, CleanText(string(l.Use)), l.VNI)
	}
	if err := checkText("reason", l.Reason); err != nil {
		return err
	}
	return checkRTT(l.RTT)
}

func (s *VPCStatus) clean() {
	cleanText(&s.Reason)
	if slices.ContainsFunc(s.Links, func(l Link) bool { return CleanText(l.Reason) != l.Reason }) {
		s.Links = slices.Clone(s.Links)
		for i := range s.Links {
			cleanText(&s.Links[i].Reason)
		}
	}
}

// Link returns the report about the link to peer, LinkUnknown if there is none.
func (s *VPCStatus) Link(peer string) Link {
	if s != nil {
		for _, l := range s.Links {
			if l.Peer == peer {
				return l
			}
		}
	}
	return Link{Peer: peer, State: LinkUnknown}
}

// LinkBetween merges what two ends say of their link, seen from a: a probe's
// answer proves both directions, so either end's "up" is enough where the
// other does not know; "down" at either end wins.
func LinkBetween(a, b string, ofA, ofB *VPCStatus) Link {
	mine, theirs := ofA.Link(b), ofB.Link(a)
	theirs.Peer = b
	switch {
	case mine.State == LinkDown:
		return mine
	case theirs.State == LinkDown:
		return theirs
	case mine.State == LinkUp:
		return mine
	}
	return theirs
}

// PingRequest asks every member of a VPC to ping every other, at KeyVPCPing.
type PingRequest struct {
	Needs int    `json:"needs,omitempty"`
	ID    string `json:"id"`
	Count int    `json:"count"`          // requests per pair
	Size  int    `json:"size,omitempty"` // bytes of the IP packet, 0: the least
}

// Bounds of a ping request, so that it stays a question and is no load.
const (
	MaxPingCount = 20
	MaxPingSize  = MaxMTU
)

// Validate bounds the work asked for.
func (p *PingRequest) Validate() error {
	if checkID("", p.ID) != nil || p.Count < 1 || p.Count > MaxPingCount || p.Size < 0 || p.Size > MaxPingSize {
		return fmt.Errorf("%w ping request: want an id, count 1 to %d, size 0 to %d", ErrInvalid, MaxPingCount, MaxPingSize)
	}
	return nil
}

// PingResult answers a PingRequest of the same id, at KeyPingResult.
type PingResult struct {
	Needs int        `json:"needs,omitempty"`
	ID    string     `json:"id"`
	Peers []PeerPing `json:"peers,omitempty"` // sorted by To
}

// PeerPing is what one host's pings to one peer came to.
type PeerPing struct {
	To       string  `json:"to"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	RTT      float64 `json:"rtt_ms"` // median of the answered, milliseconds
}

// Validate checks that the result answers something, and bounds it.
func (p *PingResult) Validate() error {
	if err := checkID("ping id", p.ID); err != nil {
		return err
	}
	if err := checkSize("peers", len(p.Peers), maxPeers); err != nil {
		return err
	}
	for _, r := range p.Peers {
		if err := CheckNodeName(r.To); err != nil {
			return err
		}
		if r.Received < 0 || r.Sent < r.Received || r.Sent > MaxPingCount {
			return fmt.Errorf("%w ping result: %d of %d answered", ErrInvalid, r.Received, r.Sent)
		}
		if err := checkRTT(r.RTT); err != nil {
			return err
		}
	}
	return nil
}
