package cluster

import (
	"fmt"
	"net/netip"
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
	Joined     Time              `json:"joined"`
}

// Validate checks id, datacenter and state.
func (n *Node) Validate() error {
	switch {
	case n.ID == "":
		return fmt.Errorf("%w node: id is empty", ErrInvalid)
	case CheckNodeName(n.Datacenter) != nil:
		return fmt.Errorf("%w datacenter name %q: want 1 to 63 of a-z, 0-9 and -", ErrInvalid, n.Datacenter)
	case n.State != NodeActive && n.State != NodeDraining && n.State != NodeLeft:
		return fmt.Errorf("%w node state %q", ErrInvalid, n.State)
	}
	for k, v := range n.Labels {
		if !labelPart.MatchString(k) || !labelPart.MatchString(v) {
			return fmt.Errorf("%w label %q=%q: want 1 to 63 of letters, digits, . _ -", ErrInvalid, k, v)
		}
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
}

// Validate checks that the record names a node.
func (l *Live) Validate() error {
	if l.NodeID == "" {
		return fmt.Errorf("%w live: node_id is empty", ErrInvalid)
	}
	return nil
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

// Validate checks families, device and MTU.
func (u Underlay) Validate() error {
	if a := u.IPv4; a != nil && (!a.Bind.Is4() || !a.Advertise.Is4() || a.MTU < 1 || a.Device == "") {
		return fmt.Errorf("%w IPv4 underlay %+v", ErrInvalid, *a)
	}
	if a := u.IPv6; a != nil && (!isIPv6(a.Bind) || !isIPv6(a.Advertise) || a.MTU < 1 || a.Device == "") {
		return fmt.Errorf("%w IPv6 underlay %+v", ErrInvalid, *a)
	}
	return nil
}

func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() && a.Zone() == "" }

// NodeStatus is what a node says of itself, at KeyNodeStatus.
type NodeStatus struct {
	Needs        int      `json:"needs,omitempty"`
	NodeID       string   `json:"node_id"`
	Underlay     Underlay `json:"underlay"`
	OS           string   `json:"os"`
	Version      string   `json:"version"`
	Capabilities []string `json:"capabilities,omitempty"`
	Problems     []string `json:"problems,omitempty"`
}

// Validate checks the underlay and bounds the text.
func (s *NodeStatus) Validate() error {
	if s.NodeID == "" {
		return fmt.Errorf("%w node status: node_id is empty", ErrInvalid)
	}
	return s.Underlay.Validate()
}
