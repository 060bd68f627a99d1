package hostops

import (
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// PortKind is how a workload is attached.
type PortKind string

// The kinds of workloads' ports.
const (
	// PortNetns is a pair of devices, of which the inner one, with addresses and
	// routes, is in the workload's network namespace.
	PortNetns PortKind = "netns"
	// PortTap is a tap device that a virtual machine opens.
	PortTap PortKind = "tap"
	// PortDevice is a device that somebody else has made and lends to the VPC.
	PortDevice PortKind = "device"
)

// Port is the place of one workload on a VPC's bridge.
type Port struct {
	Endpoint string   `json:"endpoint"`
	Kind     PortKind `json:"kind"`
	// Device is the port of the bridge, on the host: for PortNetns it is
	// EndpointPortOf the VPC and the endpoint.
	Device string      `json:"device"`
	MAC    cluster.MAC `json:"mac"`
	// Addresses are the workload's, with the length of the VPC's network; none
	// means that it may use any that is not of the peer network.
	Addresses []netip.Prefix `json:"addresses,omitempty"`
	// Namespace is the path of the workload's network namespace, and Inner the name
	// of the device there (PortNetns). The path is opened anew for each operation;
	// Inode, if not zero, is what it has to be then.
	Namespace string `json:"namespace,omitempty"`
	Inode     uint64 `json:"inode,omitempty"`
	Inner     string `json:"inner,omitempty"`
	// Gateways are where the workload's default routes lead, at most one a family.
	Gateways []netip.Addr `json:"gateways,omitempty"`
	// Owner is the user who may open the tap, -1: root only.
	Owner int `json:"owner,omitempty"`
	// Trusted ports may send whatever they like; all others only what is from MAC
	// and Addresses, and nothing that only a router or a DHCP server sends.
	Trusted bool `json:"trusted,omitempty"`
	// Standby ports are in place and down: no frame passes.
	Standby bool `json:"standby,omitempty"`
}
