package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Apply implements hostops.Driver. The events of the operation itself are
// drained before it returns, so they signal no change.
func (d *Driver) Apply(ctx context.Context, op hostops.Op) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.drain() {
		d.signal()
	}
	if d.devices == nil {
		ds, err := read(d.conn)
		if err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		d.devices = ds
	}
	err := d.apply(op)
	d.drain()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return nil
}

func (d *Driver) apply(op hostops.Op) error {
	switch op := op.(type) {
	case hostops.CreateFilter:
		return d.filter.create(op.Port)
	case hostops.DeleteFilter:
		return d.filter.remove()
	case hostops.Allow:
		return d.filter.sources(op.VNI, op.Sources, true)
	case hostops.Deny:
		return d.filter.sources(op.VNI, op.Sources, false)
	case hostops.Admit:
		return d.filter.admit(op.Sources)
	case hostops.Guard:
		return d.filter.guard(op.VNI, true)
	case hostops.Unguard:
		return d.filter.guard(op.VNI, false)
	case hostops.Shield:
		return d.filter.setShield(op.VNI, op.Network)
	case hostops.Unshield:
		return d.filter.unshield(op.VNI)
	case hostops.Unseal:
		return d.filter.unseal(op.Object)
	case hostops.CreateNamespace:
		return d.createNamespace(op)
	case hostops.SetNamespace:
		return d.setNamespace(op.Object)
	case hostops.DeleteNamespace:
		return d.deleteNamespace(op.Object)
	case hostops.CreatePort:
		return d.createPort(op)
	case hostops.SetPort:
		return d.setPort(op)
	case hostops.AddAddress:
		return d.address(op.Object, op.Address, true)
	case hostops.RemoveAddress:
		return d.address(op.Object, op.Address, false)
	case hostops.SetNeighbour:
		return d.neighbour(op.Object, op.Address, op.MAC, true)
	case hostops.RemoveNeighbour:
		return d.neighbour(op.Object, op.Address, cluster.MAC{}, false)
	case hostops.CreateBridge:
		return d.createBridge(op)
	case hostops.CreateTunnel:
		return d.createTunnel(op)
	case hostops.DeleteDevices:
		return d.deleteGroup(op.Owner)
	default:
		return d.change(op)
	}
}

// change is for operations on a device that is there.
func (d *Driver) change(op hostops.Op) error {
	v := d.devices.byName(op.On().Object)
	if v == nil {
		switch op.(type) {
		case hostops.DeleteDevice, hostops.RemovePeer, hostops.RemoveFDB:
			return nil
		}
		return unix.ENODEV
	}
	if _, ours := v.ours(); !ours {
		return hostops.ErrForeign
	}
	m := linkMsg(v.index)
	switch op := op.(type) {
	case hostops.Seal:
		return d.filter.setSeal(v.name)
	case hostops.SetBridge:
		return d.setBridge(v)
	case hostops.SetQuiet:
		return d.conn.set(unix.RTM_NEWLINK, 0, m, noAddrGen())
	case hostops.SetUnderlay:
		return d.setUnderlay(v, op)
	case hostops.SetLearning:
		return d.conn.set(unix.RTM_NEWLINK, 0, m, linkInfo("vxlan", attr(nl.IFLA_VXLAN_LEARNING, flag(op.Enabled))))
	case hostops.SetGroup:
		if v.up {
			return unix.EBUSY // it would neither join nor leave
		}
		group := op.Group
		if !group.IsValid() {
			group = unspecified(v.v6)
		}
		return d.conn.set(unix.RTM_NEWLINK, 0, m, linkInfo("vxlan", groupAttr(group)))
	case hostops.SetOwner:
		return d.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_GROUP, u32(hostops.GroupOf(op.Owner))))
	case hostops.SetAlias:
		return d.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_IFALIAS, []byte(hostops.CleanAlias(op.Alias))))
	case hostops.SetMTU:
		return d.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU))))
	case hostops.SetMaster:
		b := d.devices.byName(op.Bridge)
		if b == nil {
			return fmt.Errorf("bridge %s: %w", op.Bridge, unix.ENODEV)
		}
		return d.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MASTER, u32(uint32(b.index))))
	case hostops.SetIsolated:
		return d.conn.setPort(v.index, attr(nl.IFLA_BRPORT_ISOLATED, flag(true)))
	case hostops.SetSending:
		return d.setSending(v, op.Enabled)
	case hostops.StripAddress:
		return ignore(d.conn.strip(v.index, op.Address), unix.EADDRNOTAVAIL)
	case hostops.ResetPort:
		return d.resetPort(v)
	case hostops.SetUp:
		m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
		return d.conn.set(unix.RTM_NEWLINK, 0, m)
	case hostops.SetDown:
		m.Change = unix.IFF_UP
		return d.conn.set(unix.RTM_NEWLINK, 0, m)
	case hostops.DeleteDevice:
		return ignore(d.conn.set(unix.RTM_DELLINK, 0, m), unix.ENODEV)
	case hostops.AddPeer:
		if op.Peer.IsMulticast() {
			return d.fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF, cluster.MAC{}, op.Peer, by(v.underlay))
		}
		return d.fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_APPEND, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF, cluster.MAC{}, op.Peer)
	case hostops.Forget:
		return d.forget(v, op.Peer)
	case hostops.RemovePeer:
		if op.Peer.IsMulticast() { // what is sent to a group names the device
			err := d.fdb(v, unix.RTM_DELNEIGH, 0, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF, cluster.MAC{}, op.Peer, by(v.underlay))
			if err = ignore(err, unix.ENOENT); err != nil {
				return err
			}
		}
		return ignore(d.fdb(v, unix.RTM_DELNEIGH, 0, unix.NUD_PERMANENT|unix.NUD_NOARP, unix.NTF_SELF, cluster.MAC{}, op.Peer), unix.ENOENT)
	case hostops.SetFDB:
		return d.setFDB(v, op.MAC, op.Peer)
	case hostops.RemoveFDB:
		return d.removeFDB(v, op.MAC)
	case hostops.PinMAC:
		return d.fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, unix.NUD_NOARP, unix.NTF_MASTER|ntfSticky, op.MAC, netip.Addr{})
	}
	return fmt.Errorf("%T: %w", op, hostops.ErrUnsupported)
}

// fdb changes one forwarding table entry.
func (d *Driver) fdb(v *device, proto, flags int, state uint16, kind uint8, mac cluster.MAC, dst netip.Addr, more ...nl.NetlinkRequestData) error {
	h := &ndMsg{family: unix.AF_BRIDGE, index: v.index, state: state, flags: kind}
	data := []nl.NetlinkRequestData{h, attr(unix.NDA_LLADDR, mac[:])}
	if dst.IsValid() {
		data = append(data, attr(unix.NDA_DST, dst.AsSlice()))
	}
	return d.conn.set(proto, flags, append(data, more...)...)
}

// by names the device that an entry's frames leave by.
func by(underlay int32) nl.NetlinkRequestData { return attr(unix.NDA_IFINDEX, u32(uint32(underlay))) }

// forget deletes what the bridge and the tunnel have learned of the MACs at a
// peer. What cannot be deleted because it is gone was forgotten otherwise.
func (d *Driver) forget(v *device, peer netip.Addr) error {
	h := nl.NewIfInfomsg(unix.AF_BRIDGE)
	h.Index = v.index
	msgs, err := d.conn.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, h)
	if err != nil {
		return err
	}
	var failed []error
	for _, m := range msgs {
		index, e, ok := parseNeigh(m)
		if !ok || index != v.index || !e.self || e.dst != peer || e.static || e.mac == (cluster.MAC{}) {
			continue
		}
		failed = append(failed,
			ignore(d.fdb(v, unix.RTM_DELNEIGH, 0, 0, unix.NTF_MASTER, e.mac, netip.Addr{}), unix.ENOENT),
			ignore(d.fdb(v, unix.RTM_DELNEIGH, 0, 0, unix.NTF_SELF, e.mac, netip.Addr{}), unix.ENOENT))
	}
	return errors.Join(failed...)
}

// Of an entry for both tables the bridge reads "static" and the tunnel "static
// and no flood list": NUD_PERMANENT would mean a MAC of the host's own to the bridge.
const (
	fdbState  = unix.NUD_NOARP | unix.NUD_REACHABLE
	fdbTables = unix.NTF_SELF | unix.NTF_MASTER
)

// setFDB sets an entry in the tunnel's table and the bridge's by one request.
func (d *Driver) setFDB(v *device, mac cluster.MAC, peer netip.Addr) error {
	set := func() error {
		return d.fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, fdbState, fdbTables|ntfSticky, mac, peer)
	}
	err := set()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	// Learned MACs fill the tunnel's table, whose limit counts ours too.
	if err := d.flushLearned(v); err != nil {
		return fmt.Errorf("make room: %w", err)
	}
	return set()
}

// flushLearned makes a tunnel forget what it learned (kernel 6.7). It floods
// and learns again.
func (d *Driver) flushLearned(v *device) error {
	mask := make([]byte, 2)
	putNative16(mask, unix.NUD_NOARP) // with the state 0: what is not static
	h := &ndMsg{family: unix.AF_BRIDGE, index: v.index, flags: unix.NTF_SELF}
	return d.conn.set(unix.RTM_DELNEIGH, nlmBulk, h, attr(ndaStateMask, mask))
}

// removeFDB removes an entry from both tables. The kernel stops at the first
// that does not have it.
func (d *Driver) removeFDB(v *device, mac cluster.MAC) error {
	remove := func(tables uint8) error {
		return d.fdb(v, unix.RTM_DELNEIGH, 0, fdbState, tables, mac, netip.Addr{})
	}
	err := remove(fdbTables)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	return errors.Join(ignore(remove(unix.NTF_MASTER), unix.ENOENT), ignore(remove(unix.NTF_SELF), unix.ENOENT))
}

// ndMsg is struct ndmsg.
type ndMsg struct {
	family uint8
	index  int32
	state  uint16
	flags  uint8
}

// Len is that of Serialize's result.
func (m *ndMsg) Len() int { return unix.SizeofNdMsg }

// Serialize implements nl.NetlinkRequestData.
func (m *ndMsg) Serialize() []byte {
	b := []byte{m.family, 0, 0, 0}
	b = append(b, u32(uint32(m.index))...)
	b = append(b, byte(0), byte(0), m.flags, 0)
	putNative16(b[8:], m.state)
	return b
}

// quietBridge are a bridge's settings that are given at creation too.
func quietBridge() *nl.RtAttr {
	return linkInfo("bridge",
		attr(nl.IFLA_BR_STP_STATE, u32(0)),
		attr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0}),
		attr(nl.IFLA_BR_GROUP_FWD_MASK, u16(forwardReserved)),
		attr(iflaBrFDBMaxLearned, u32(hostops.MaxLearnedBridge)))
}

func (d *Driver) createBridge(op hostops.CreateBridge) error {
	err := d.conn.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		attr(unix.IFLA_IFNAME, zstr(op.Object)), attr(unix.IFLA_GROUP, u32(hostops.GroupOf(op.Owner))), quietBridge())
	return d.created(op.Object, op.Owner, err)
}

// created tells our own device of an earlier call from somebody else's.
func (d *Driver) created(name string, owner cluster.VNI, err error) error {
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	d.drain()
	if v := d.devices.byName(name); v != nil {
		if o, ours := v.ours(); ours && o == owner {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", hostops.ErrForeign, err)
}

func (d *Driver) setBridge(v *device) error {
	if err := d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), quietBridge(), deafAndQuiet()); err != nil {
		return err
	}
	d.drain()
	d.unbounded = v.maxLearned == 0
	return nil
}

func (d *Driver) createTunnel(op hostops.CreateTunnel) error {
	under, err := d.underlay(op.Underlay, op.Local)
	if err != nil {
		return fmt.Errorf("underlay %s: %w", op.Underlay, err)
	}
	err = d.conn.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		attr(unix.IFLA_IFNAME, zstr(op.Object)), attr(unix.IFLA_GROUP, u32(hostops.GroupOf(op.Owner))),
		attr(unix.IFLA_MTU, u32(uint32(op.MTU))),
		linkInfo("vxlan",
			attr(nl.IFLA_VXLAN_ID, u32(uint32(op.VNI))),
			attr(nl.IFLA_VXLAN_LINK, u32(uint32(under.index))),
			localAttr(op.Local),
			attr(nl.IFLA_VXLAN_PORT, u16be(op.Port)),
			attr(nl.IFLA_VXLAN_LEARNING, flag(op.Learning)),
			attr(nl.IFLA_VXLAN_LIMIT, u32(hostops.MaxLearnedTunnel)),
			attr(nl.IFLA_VXLAN_UDP_CSUM, []byte{1}),
			groupAttr(op.Group)))
	if err = d.created(op.Object, op.Owner, err); err != nil {
		return err
	}
	d.drain()
	v := d.devices.byName(op.Object)
	if v == nil {
		return unix.ENODEV
	}
	// At creation the kernel takes no notice of these.
	return d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), attr(unix.IFLA_IFALIAS, []byte(hostops.CleanAlias(op.Alias))), noAddrGen())
}

func localAttr(a netip.Addr) *nl.RtAttr {
	if a.Is4() {
		return attr(nl.IFLA_VXLAN_LOCAL, a.AsSlice())
	}
	return attr(nl.IFLA_VXLAN_LOCAL6, a.AsSlice())
}

// groupAttr is absent for no group.
func groupAttr(a netip.Addr) *nl.RtAttr {
	switch {
	case !a.IsValid():
		return nil
	case a.Is4():
		return attr(nl.IFLA_VXLAN_GROUP, a.AsSlice())
	}
	return attr(nl.IFLA_VXLAN_GROUP6, a.AsSlice())
}

func unspecified(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// setUnderlay sends the changed attributes only: the kernel refuses a message
// that repeats those that cannot change.
func (d *Driver) setUnderlay(v *device, op hostops.SetUnderlay) error {
	under, err := d.underlay(op.Underlay, op.Local)
	if err != nil {
		return fmt.Errorf("underlay %s: %w", op.Underlay, err)
	}
	return d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index),
		linkInfo("vxlan", attr(nl.IFLA_VXLAN_LINK, u32(uint32(under.index))), localAttr(op.Local)))
}

// setSending switches all ways in which a bridge sends by a port. The kernel
// forgets what it learned there after it has stopped learning.
func (d *Driver) setSending(v *device, on bool) error {
	settings := []*nl.RtAttr{
		attr(nl.IFLA_BRPORT_LEARNING, flag(on)), attr(nl.IFLA_BRPORT_UNICAST_FLOOD, flag(on)),
		attr(nl.IFLA_BRPORT_MCAST_FLOOD, flag(on)), attr(nl.IFLA_BRPORT_BCAST_FLOOD, flag(on)),
	}
	if !on {
		settings = append(settings, attr(nl.IFLA_BRPORT_FLUSH, nil))
	}
	return d.conn.setPort(v.index, settings...)
}

// deleteGroup removes all devices of a VPC by one message: one by one each
// waits for a grace period of the kernel.
func (d *Driver) deleteGroup(owner cluster.VNI) error {
	// Read again: of a device that is down the kernel tells no new group.
	ds, err := readLinks(d.conn)
	if err != nil {
		return err
	}
	for _, v := range ds {
		if v.group == hostops.GroupOf(owner) {
			if _, ours := v.ours(); !ours {
				return d.deleteEach(ds, owner) // somebody else's device is in the group
			}
		}
	}
	return ignore(d.conn.set(unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), attr(unix.IFLA_GROUP, u32(hostops.GroupOf(owner)))), unix.ENODEV)
}

func (d *Driver) deleteEach(ds devices, owner cluster.VNI) error {
	var failed []error
	for _, v := range ds {
		if o, ours := v.ours(); ours && o == owner {
			failed = append(failed, ignore(d.conn.set(unix.RTM_DELLINK, 0, linkMsg(v.index)), unix.ENODEV))
		}
	}
	return errors.Join(failed...)
}
