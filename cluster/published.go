package cluster

import (
	"fmt"
	"time"
)

// Bounds of what is published, so that a tenant who sends from ever new MACs fills
// neither the store nor the hosts' tables.
const (
	MaxPublished     = 10_000 // MACs of a VPC
	MaxPublishedNode = 1_000  // of these, at one node
)

// When a MAC that moves is on two machines, and not on one that moves (RFC 7432 §15.1:
// N and M), and how long it then stays where it is.
const (
	MovesMost   = 5
	MovesWithin = 180 * time.Second
	FrozenFor   = 30 * time.Minute
)

// MACStatus is a node's claim that a MAC is at one of its ports, at KeyMACStatus, while
// its bridge knows it there. Sequence is one more than that of the PublishedMAC which
// the node had read when the MAC came, if that is another node's (RFC 7432 §15).
type MACStatus struct {
	Needs    int    `json:"needs,omitempty"`
	NodeID   string `json:"node_id"`
	Port     string `json:"port"`
	Sequence uint64 `json:"sequence"`
}

// Validate bounds what a node says.
func (s *MACStatus) Validate() error {
	if s.Port == "" || s.Sequence > maxSequence {
		return fmt.Errorf("%w MAC status: want a port, and a sequence of at most %d", ErrInvalid, uint64(maxSequence))
	}
	if err := checkText("port", s.Port); err != nil {
		return err
	}
	return checkID("node_id", s.NodeID)
}

func (s *MACStatus) clean() { cleanText(&s.Port) }

// maxSequence is the greatest that a reader of JSON has without loss.
const maxSequence = 1 << 53

// PublishedMAC is where a MAC is that no endpoint has, at KeyPublished: the controller
// decides that from what nodes claim.
type PublishedMAC struct {
	Needs    int    `json:"needs,omitempty"`
	Node     string `json:"node"`
	Port     string `json:"port"`
	Sequence uint64 `json:"sequence"` // greater by one with each move
	Since    Time   `json:"since"`    // when it came to Node
	// Moves counts those since Moving.
	Moves  int  `json:"moves,omitempty"`
	Moving Time `json:"moving,omitzero"`
	// Duplicate: two machines have the MAC. It stays at Node until FrozenFor is over,
	// or Node has it no more.
	Duplicate *Duplicate `json:"duplicate,omitempty"`
}

// Duplicate is the other place of a MAC, when it was found to be one.
type Duplicate struct {
	Node string `json:"node"`
	Port string `json:"port"`
	At   Time   `json:"at"`
}

// Validate checks both places.
func (p *PublishedMAC) Validate() error {
	if p.Sequence > maxSequence || p.Moves < 0 || p.Moves > MovesMost {
		return fmt.Errorf("%w published MAC: sequence %d, %d moves", ErrInvalid, p.Sequence, p.Moves)
	}
	if err := CheckNodeName(p.Node); err != nil {
		return err
	}
	if p.Duplicate == nil {
		return checkText("port", p.Port)
	}
	if err := CheckNodeName(p.Duplicate.Node); err != nil {
		return err
	}
	return checkText("port", p.Port, p.Duplicate.Port)
}

func (p *PublishedMAC) clean() {
	cleanText(&p.Port)
	if p.Duplicate != nil && CleanText(p.Duplicate.Port) != p.Duplicate.Port {
		d := *p.Duplicate
		cleanText(&d.Port)
		p.Duplicate = &d
	}
}
