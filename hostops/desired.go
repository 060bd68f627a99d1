package hostops

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// Desired is all that this host should carry, sorted by VPC name. What does
// not carry our mark is never touched.
type Desired struct {
	VPCs []VPC `json:"vpcs"`
	// Hold leaves alone what carries our mark and belongs to none of VPCs,
	// unless its VNI is in Remove: a host takes a VPC down only on an explicit
	// word. Without Hold all such is removed.
	Hold   bool          `json:"hold,omitempty"`
	Remove []cluster.VNI `json:"remove,omitempty"`
}

// Removes reports whether what carries the mark of v and is no part of VPCs
// is to go.
func (d Desired) Removes(v cluster.VNI) bool { return !d.Hold || slices.Contains(d.Remove, v) }

// VPC is one VPC on this host: an address-less bridge of the VPC's name, one
// multipoint tunnel per underlay family, and a namespace "vpc-<name>" with one
// port on the bridge that holds the VTEP address.
type VPC struct {
	Name    string       `json:"name"`
	VNI     cluster.VNI  `json:"vni"`
	MTU     int          `json:"mtu"`  // bytes, on every device of the VPC
	VTEP    netip.Prefix `json:"vtep"` // this host's address with the peer network's length
	Tunnels []Tunnel     `json:"tunnels"`
}

// Tunnel is the multipoint VXLAN device of one VPC and underlay family. The
// family is that of Local: "mv4-<vni>" or "mv6-<vni>".
type Tunnel struct {
	Local  netip.Addr `json:"local"`  // outer source, an address of Device
	Device string     `json:"device"` // underlay device
	Port   uint16     `json:"port"`   // UDP, the same for all tunnels of a host
	Peers  []Peer     `json:"peers"`  // sorted by Underlay; frames pass from these only
}

// Peer is the far end of a link: one flood list entry, one filter entry, and
// for its VTEP one FDB entry and one neighbour.
type Peer struct {
	Node     string     `json:"node"`
	Underlay netip.Addr `json:"underlay"`
	VTEP     netip.Addr `json:"vtep,omitzero"` // its address in the VPC's peer network; invalid: not known
}

// Problem is why something desired is not so, in words a user can act on.
// VPC is empty when it concerns the whole host.
type Problem struct {
	VPC    string `json:"vpc,omitempty"`
	Reason string `json:"reason"`
}

// Address is one address of this host outside our own devices.
type Address struct {
	Device string
	Prefix netip.Prefix
	MTU    int // of the device, bytes
	Up     bool
}
