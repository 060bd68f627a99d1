package cluster

import (
	"fmt"
	"net/netip"
)

// EndpointState is what the operator wants of an endpoint.
type EndpointState string

// The states of an endpoint's spec. As with a VPC, one that vanishes is a mistake,
// and only Deleting gives its addresses back.
const (
	EndpointActive   EndpointState = "active"
	EndpointDeleting EndpointState = "deleting"
)

// EndpointSpec is what the operator asks of an endpoint, the place of a workload
// in a VPC, at KeyEndpointSpec.
type EndpointSpec struct {
	Needs int           `json:"needs,omitempty"`
	State EndpointState `json:"state"`
	// IPs are fixed addresses, at most one a family. With Auto, each other family
	// of the VPC's network gives its lowest free one.
	IPs  []netip.Addr `json:"ips,omitempty"`
	Auto bool         `json:"auto,omitempty"`
	MAC  MAC          `json:"mac,omitzero"`   // zero: one that goes with the name
	Node string       `json:"node,omitempty"` // where it has to be; "": anywhere
	// Requester is the node by whose request the endpoint was made, for a workload
	// there; "" is an operator. The node may have it deleted.
	Requester string `json:"requester,omitempty"`
	// ForcedFrom is an owner that the operator knows not to serve the endpoint any
	// more, although nothing says so. It is overridden in that one epoch.
	ForcedFrom InEpoch `json:"forced_from,omitzero"`
	// Failover is where it may run without anybody's word; the zero value: it stays
	// where it is.
	Failover Failover `json:"failover,omitzero"`
	// Created is when somebody asked for it.
	Created Time `json:"created"`
}

// InEpoch is a node in one epoch of an endpoint. The zero value is none.
type InEpoch struct {
	Node  string `json:"node"`
	Epoch int64  `json:"epoch"`
}

func (n InEpoch) validate(what string) error {
	switch {
	case n != InEpoch{} && CheckNodeName(n.Node) != nil:
		return CheckNodeName(n.Node)
	case n.Epoch < 0 || n.Epoch > maxEpoch:
		return fmt.Errorf("%w endpoint: %s in epoch %d", ErrInvalid, what, n.Epoch)
	}
	return nil
}

// Validate checks every field that needs no other record.
func (s *EndpointSpec) Validate() error {
	switch {
	case s.State != EndpointActive && s.State != EndpointDeleting:
		return fmt.Errorf("%w endpoint state %q", ErrInvalid, CleanText(string(s.State)))
	case s.MAC != MAC{} && !s.MAC.Unicast():
		return fmt.Errorf("%w MAC %s: a workload cannot have a multicast address", ErrInvalid, s.MAC)
	case s.Node != "" && CheckNodeName(s.Node) != nil:
		return CheckNodeName(s.Node)
	case s.Requester != "" && CheckNodeName(s.Requester) != nil:
		return CheckNodeName(s.Requester)
	case s.Failover.Moves() && s.Node != "":
		return fmt.Errorf("%w endpoint: it is bound to %s, and has places to go to; want one of both", ErrInvalid, s.Node)
	}
	if err := s.ForcedFrom.validate("forced from"); err != nil {
		return err
	}
	if err := s.Failover.Validate(); err != nil {
		return err
	}
	return checkIPs(s.IPs)
}

// checkIPs wants at most one address a family, such as a workload can have.
func checkIPs(ips []netip.Addr) error {
	var had [2]bool
	for _, a := range ips {
		if !sendable(a) {
			return fmt.Errorf("%w address %q: no workload can have it", ErrInvalid, a)
		}
		f := 0
		if a.Is6() {
			f = 1
		}
		if had[f] {
			return fmt.Errorf("%w addresses: %s is a second one of its family", ErrInvalid, a)
		}
		had[f] = true
	}
	return nil
}

// OwnState is how far an endpoint is.
type OwnState string

// The states of an endpoint. Pending: Reason says what is missing.
const (
	OwnPending  OwnState = "pending"
	OwnUnplaced OwnState = "unplaced" // it has its addresses, and no node
	OwnAssigned OwnState = "assigned" // Node may serve it
)

// EndpointOwn is what an endpoint has, at KeyEndpointOwn. It is on no lease: an
// endpoint outlives whatever runs it.
type EndpointOwn struct {
	Needs  int          `json:"needs,omitempty"`
	State  OwnState     `json:"state"`
	Reason string       `json:"reason,omitempty"`
	IPs    []netip.Addr `json:"ips,omitempty"` // IPv4 first
	MAC    MAC          `json:"mac,omitzero"`
	Node   string       `json:"node,omitempty"` // the owner
	// Era and Epoch order owners: the pair only grows.
	Era   int64 `json:"era"`
	Epoch int64 `json:"epoch"`
	// To is the node that an endpoint is being handed to that is strict, as a stateful
	// one is: Node serves it no more in this epoch, which its workload has to have ended
	// for, and says so by PortReleased; then another epoch begins.
	To string `json:"to,omitempty"`
	// Moved is the last change of the owner that nobody asked for.
	Moved *Moved `json:"moved,omitempty"`
	// Restored says that the store went back in time: another node than the owner may
	// have had the workload since. It is not started before somebody says where.
	Restored bool `json:"restored,omitempty"`
}

// maxEpoch is the largest integer that all JSON readers keep.
const maxEpoch = 1<<53 - 1

// Validate checks what is in force, and bounds the text.
func (o *EndpointOwn) Validate() error {
	switch o.State {
	case OwnUnplaced, OwnAssigned:
		if !o.MAC.Unicast() {
			return fmt.Errorf("%w endpoint: MAC %s", ErrInvalid, o.MAC)
		}
	case OwnPending:
	default:
		return fmt.Errorf("%w endpoint state %q", ErrInvalid, CleanText(string(o.State)))
	}
	switch {
	case o.MAC != MAC{} && !o.MAC.Unicast():
		return fmt.Errorf("%w endpoint: MAC %s", ErrInvalid, o.MAC)
	case (o.State == OwnAssigned) != (o.Node != ""):
		return fmt.Errorf("%w endpoint: %s with the node %q", ErrInvalid, o.State, CleanText(o.Node))
	case o.Node != "" && CheckNodeName(o.Node) != nil:
		return CheckNodeName(o.Node)
	case o.To != "" && (o.State != OwnAssigned || o.To == o.Node):
		return fmt.Errorf("%w endpoint: %s, handed from %q to %q", ErrInvalid, o.State, CleanText(o.Node), CleanText(o.To))
	case o.To != "" && CheckNodeName(o.To) != nil:
		return CheckNodeName(o.To)
	case o.Era < 0 || o.Era > maxEpoch || o.Epoch < 0 || o.Epoch > maxEpoch:
		return fmt.Errorf("%w endpoint: era %d, epoch %d", ErrInvalid, o.Era, o.Epoch)
	}
	if err := checkText("reason", o.Reason); err != nil {
		return err
	}
	if err := o.Moved.validate(); err != nil {
		return err
	}
	return checkIPs(o.IPs)
}

func (o *EndpointOwn) clean() {
	cleanText(&o.Reason)
	if o.Moved != nil {
		cleanText(&o.Moved.Why)
	}
}
