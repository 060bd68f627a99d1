package cluster

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
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
	RTT    float64   `json:"rtt_ms,omitempty"` // of the last answered probe
	Reason string    `json:"reason,omitempty"`
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
	Needs   int        `json:"needs,omitempty"`
	NodeID  string     `json:"node_id"`
	State   HostState  `json:"state"`
	Ready   bool       `json:"ready"` // the kernel is as the records say
	Reason  string     `json:"reason,omitempty"`
	VNI     VNI        `json:"vni,omitempty"`
	MTU     int        `json:"mtu,omitempty"`
	VTEP    netip.Addr `json:"vtep,omitzero"`
	Repairs int        `json:"repairs,omitempty"` // of tampering, since the agent started
	Links   []Link     `json:"links,omitempty"`   // sorted by peer
	At      Time       `json:"at"`
}

// Validate checks state and links.
func (s *VPCStatus) Validate() error {
	if s.State != HostMember && s.State != HostHolding && s.State != HostLeft {
		return fmt.Errorf("%w host state %q", ErrInvalid, s.State)
	}
	for _, l := range s.Links {
		if l.State != LinkUp && l.State != LinkDown && l.State != LinkUnknown {
			return fmt.Errorf("%w link state %q", ErrInvalid, l.State)
		}
	}
	return nil
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
	if p.ID == "" || p.Count < 1 || p.Count > MaxPingCount || p.Size < 0 || p.Size > MaxPingSize {
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
	RTT      float64 `json:"rtt_ms"` // median of the answered
}

// Validate checks that the result answers something.
func (p *PingResult) Validate() error {
	if p.ID == "" {
		return fmt.Errorf("%w ping result: id is empty", ErrInvalid)
	}
	return nil
}

// maxText bounds text that came from another machine, in bytes.
const maxText = 400

// CleanText makes text from another machine safe to print on a terminal and
// to put into a device's alias: control characters and invalid UTF-8 become
// "?", and it is cut at 400 bytes.
func CleanText(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxText {
		cut := maxText
		for !utf8.RuneStart(s[cut]) {
			cut--
		}
		s = s[:cut] + "…"
	}
	return s
}
