package hostops

import (
	"fmt"
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// The operations on devices.
type (
	// CreateBridge makes an address-less bridge, down, with the mark of Owner.
	CreateBridge struct {
		Target
		Owner cluster.VNI
	}
	// SetBridge makes a bridge quiet (see Device.Quiet).
	SetBridge struct{ Target }
	// SetQuiet makes a tunnel or port quiet (see Device.Quiet).
	SetQuiet struct{ Target }
	// CreateTunnel makes a tunnel, down and quiet, with the mark of Owner. A
	// valid Group is its only peer at first.
	CreateTunnel struct {
		Target
		Owner    cluster.VNI
		VNI      cluster.VNI
		Local    netip.Addr
		Underlay string
		Port     uint16
		MTU      int // bytes
		Alias    string
		Group    netip.Addr
		Learning bool
	}
	// SetUnderlay moves a tunnel, which has no group, to another outer source;
	// its peers stay.
	SetUnderlay struct {
		Target
		Local    netip.Addr
		Underlay string
	}
	// SetLearning switches a tunnel's learning on or off.
	SetLearning struct {
		Target
		Enabled bool
	}
	// SetGroup makes a tunnel, which is down, receive by a multicast group or by
	// none. The group takes its former place among the tunnel's peers.
	SetGroup struct {
		Target
		Group netip.Addr
	}
	// SetSending lets a tunnel's port flood and learn. Off it keeps it from
	// both, and forgets what was learned: the tunnel receives only.
	SetSending struct {
		Target
		Enabled bool
	}
	// SetOwner marks a device for another VPC.
	SetOwner struct {
		Target
		Owner cluster.VNI
	}
	// SetAlias sets a device's alias.
	SetAlias struct {
		Target
		Alias string
	}
	// SetMTU sets a device's MTU in bytes.
	SetMTU struct {
		Target
		MTU int
	}
	// SetMaster makes a device a port of a bridge.
	SetMaster struct {
		Target
		Bridge string
	}
	// ResetPort takes settings back with which a bridge treats a port unlike
	// others (see Device.Odd).
	ResetPort struct{ Target }
	// StripAddress removes an address from a device of ours.
	StripAddress struct {
		Target
		Address netip.Prefix
	}
	// SetIsolated keeps frames of a tunnel's port from other tunnels' ports.
	SetIsolated struct{ Target }
	// SetDown takes a device down.
	SetDown struct{ Target }
	// SetUp brings a device up.
	SetUp struct{ Target }
	// DeleteDevice removes one device.
	DeleteDevice struct{ Target }
	// DeleteDevices removes all devices that are marked for Owner at once.
	DeleteDevices struct {
		Target
		Owner cluster.VNI
	}
	// AddPeer adds a peer to a tunnel's flood list.
	AddPeer struct {
		Target
		Peer netip.Addr
	}
	// RemovePeer removes a peer from a tunnel's flood list.
	RemovePeer struct {
		Target
		Peer netip.Addr
	}
	// SetFDB sends frames for MAC to one peer only, by the tunnel's table and
	// the bridge's, whatever others claim; one that Yields, until the bridge hears MAC
	// at another port.
	SetFDB struct {
		Target
		MAC    cluster.MAC
		Peer   netip.Addr
		Yields bool
	}
	// RemoveFDB takes SetFDB back.
	RemoveFDB struct {
		Target
		MAC cluster.MAC
	}
	// Forget removes what a tunnel has learned to be at a peer.
	Forget struct {
		Target
		Peer netip.Addr
	}
	// PinMAC tells the bridge that MAC is behind this port, whatever others
	// claim.
	PinMAC struct {
		Target
		MAC cluster.MAC
	}
)

func (o CreateBridge) String() string { return "create bridge " + o.Object }
func (o SetBridge) String() string {
	return fmt.Sprintf("set bridge %s: no own addresses, no answers, no STP, no snooping, at most %d learned MACs", o.Object, MaxLearnedBridge)
}
func (o SetQuiet) String() string { return "set device " + o.Object + ": no own addresses" }
func (o CreateTunnel) String() string {
	s := fmt.Sprintf("create tunnel %s: VNI %d, local %s on %s, port %d, MTU %d", o.Object, o.VNI, o.Local, o.Underlay, o.Port, o.MTU)
	if o.Group.IsValid() {
		s += ", group " + o.Group.String()
	}
	if !o.Learning {
		s += ", not learning"
	}
	return s
}
func (o SetUnderlay) String() string {
	return fmt.Sprintf("set underlay of %s: local %s on %s", o.Object, o.Local, o.Underlay)
}
func (o SetLearning) String() string {
	return fmt.Sprintf("set learning of %s: %s", o.Object, onOff(o.Enabled))
}
func (o SetGroup) String() string {
	if !o.Group.IsValid() {
		return "set multicast group of " + o.Object + ": none"
	}
	return fmt.Sprintf("set multicast group of %s: %s", o.Object, o.Group)
}
func (o SetSending) String() string {
	if o.Enabled {
		return "send by port " + o.Object
	}
	return "only receive by port " + o.Object
}
func (o SetOwner) String() string { return fmt.Sprintf("set mark of %s: VNI %d", o.Object, o.Owner) }
func (o SetAlias) String() string { return fmt.Sprintf("set alias of %s: %s", o.Object, o.Alias) }
func (o SetMTU) String() string   { return fmt.Sprintf("set MTU of %s: %d", o.Object, o.MTU) }
func (o SetMaster) String() string {
	return fmt.Sprintf("add port %s to bridge %s", o.Object, o.Bridge)
}
func (o SetIsolated) String() string { return "isolate port " + o.Object }
func (o ResetPort) String() string   { return "reset flags of port " + o.Object }
func (o StripAddress) String() string {
	return fmt.Sprintf("remove address %s from device %s", o.Address, o.Object)
}
func (o SetDown) String() string       { return "take down " + o.Object }
func (o SetUp) String() string         { return "bring up " + o.Object }
func (o DeleteDevice) String() string  { return "delete device " + o.Object }
func (o DeleteDevices) String() string { return fmt.Sprintf("delete devices of VNI %d", o.Owner) }
func (o AddPeer) String() string       { return fmt.Sprintf("add peer %s to %s", o.Peer, o.Object) }
func (o RemovePeer) String() string    { return fmt.Sprintf("remove peer %s from %s", o.Peer, o.Object) }
func (o SetFDB) String() string {
	text := fmt.Sprintf("set FDB entry %s on %s to peer %s", o.MAC, o.Object, o.Peer)
	if o.Yields {
		text += ", unless it is heard here"
	}
	return text
}
func (o RemoveFDB) String() string {
	return fmt.Sprintf("remove FDB entry %s from %s", o.MAC, o.Object)
}
func (o Forget) String() string { return fmt.Sprintf("forget MACs at %s on %s", o.Peer, o.Object) }
func (o PinMAC) String() string { return fmt.Sprintf("pin MAC %s to %s", o.MAC, o.Object) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
