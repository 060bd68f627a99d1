package hostops

import (
	"cmp"
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
	// Fenced are the underlay addresses that nothing is taken from, and nothing sent
	// to, by any tunnel, whoever Tunnels say are peers.
	Fenced []netip.Addr `json:"fenced,omitempty"`
	// KeepFenced leaves fenced what is so on the host and not in Fenced.
	KeepFenced bool `json:"keep_fenced,omitempty"`
}

// Removes reports whether what carries the mark of v and is no part of VPCs
// is to go.
func (d Desired) Removes(v cluster.VNI) bool { return !d.Hold || slices.Contains(d.Remove, v) }

// VPC is one VPC on this host: an address-less bridge of the VPC's name, tunnels
// to its peers, and a namespace "vpc-<name>" with one port on the bridge that
// holds the VTEP address.
type VPC struct {
	Name    string       `json:"name"`
	VNI     cluster.VNI  `json:"vni"`
	MTU     int          `json:"mtu"`  // bytes, on every device of the VPC
	VTEP    netip.Prefix `json:"vtep"` // this host's address with the peer network's length
	Tunnels []Tunnel     `json:"tunnels"`
	Ports   []Port       `json:"ports,omitempty"` // of workloads, sorted by Device
	// KeepPorts leaves workloads' ports alone that are on the host and not in Ports.
	KeepPorts bool `json:"keep_ports,omitempty"`
	// Static: the host learns nothing of other hosts' workloads, and believes only
	// Places, which are sorted by MAC. It sends for known MACs to where they are, for
	// unknown ones to nobody; answers for known addresses itself; and takes from a
	// peer what is from MACs that are there.
	Static bool    `json:"static,omitempty"`
	Places []Place `json:"places,omitempty"`
	// FloodLimit is the rate of the VPC's flood budget (see Budget), in frames a second
	// and tunnel; 0: no bound.
	FloodLimit int `json:"flood_limit,omitempty"`
	// Gateway is the VPC's router on this host, nil: it has none.
	Gateway *Gateway `json:"gateway,omitempty"`
}

// Tunnel is one VXLAN device of a VPC. It is shared, one for each underlay
// family, with the VPC's VNI: "mv4-<vni>" or "mv6-<vni>" for the family of
// Local. Or it is a pair's own, to its only peer: "mp-<pair>".
type Tunnel struct {
	Pair   cluster.VNI `json:"pair,omitempty"` // the pair's VNI; zero: shared
	Local  netip.Addr  `json:"local"`          // outer source, an address of Device
	Device string      `json:"device"`         // underlay device
	Port   uint16      `json:"port"`           // UDP, the same for all tunnels of a host
	// Group is the multicast group of the underlay that a shared tunnel receives
	// by beside its own address; of the family of Local.
	Group netip.Addr `json:"group,omitzero"`
	// ToGroup floods to Group, not to each peer.
	ToGroup bool `json:"to_group,omitempty"`
	// ReceiveOnly keeps all frames from a tunnel, and MACs from being learned behind
	// it; what comes in by it passes. A shared one then has ReceiveOnly peers only.
	ReceiveOnly bool   `json:"receive_only,omitempty"`
	Peers       []Peer `json:"peers"` // sorted by Underlay; frames pass from these only
}

// Peer is the far end of a link: one flood list entry, one filter entry, and
// for its VTEP one FDB entry and one neighbour.
type Peer struct {
	Node     string     `json:"node"`
	Underlay netip.Addr `json:"underlay"`
	VTEP     netip.Addr `json:"vtep,omitzero"` // its address in the VPC's peer network; invalid: not known
	// ReceiveOnly: another tunnel sends to it. It is not in the flood list; its
	// frames pass all the same.
	ReceiveOnly bool `json:"receive_only,omitempty"`
}

// vniOf is the VNI of one of v's tunnels.
func (v VPC) vniOf(t Tunnel) cluster.VNI { return cmp.Or(t.Pair, v.VNI) }

// nameOf is the device name of one of v's tunnels.
func (v VPC) nameOf(t Tunnel) string {
	if t.Pair != 0 {
		return PairTunnelOf(t.Pair)
	}
	return TunnelOf(v.VNI, t.Local)
}

// aliasOf says what a tunnel is for.
func (v VPC) aliasOf(t Tunnel) string {
	if t.Pair != 0 && len(t.Peers) > 0 {
		return CleanAlias("tunnel-to-" + t.Peers[0].Node)
	}
	return tunnelsOf(v.Name)
}

// tells reports whether the host is told where the VTEP of one of t's peers is:
// behind the one tunnel that it is sent to by.
func (t Tunnel) tells(p Peer) bool { return p.VTEP.IsValid() && !p.ReceiveOnly && !t.ReceiveOnly }

// flood lists where a tunnel sends what goes to all.
func (t Tunnel) flood() []netip.Addr {
	if t.ToGroup && t.Group.IsValid() {
		return []netip.Addr{t.Group}
	}
	as := make([]netip.Addr, 0, len(t.Peers))
	for _, p := range t.Peers {
		if !p.ReceiveOnly {
			as = append(as, p.Underlay)
		}
	}
	return as
}

// floods reports whether a is one of flood.
func (t Tunnel) floods(a netip.Addr) bool {
	if t.ToGroup && t.Group.IsValid() {
		return a == t.Group
	}
	return slices.ContainsFunc(t.Peers, func(p Peer) bool { return p.Underlay == a && !p.ReceiveOnly })
}

// Problem is why something desired is not so, in words a user can act on.
// VPC is empty when it concerns the whole host.
type Problem struct {
	VPC string `json:"vpc,omitempty"`
	// Endpoint is whose port alone it concerns: the VPC, and its other ports, are
	// as desired all the same.
	Endpoint string `json:"endpoint,omitempty"`
	// Gone: the workload's network namespace has ended (ErrGone).
	Gone   bool   `json:"gone,omitempty"`
	Reason string `json:"reason"`
}

// Address is one address of this host outside our own devices.
type Address struct {
	Device string
	Prefix netip.Prefix
	MTU    int // of the device, bytes
	Up     bool
}
