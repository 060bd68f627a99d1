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
		return d.setGroup(v, op.Group)
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
		return d.addPeer(v, op.Peer)
	case hostops.RemovePeer:
		return d.removePeer(v, op.Peer)
	case hostops.Forget:
		return d.forget(v, op.Peer)
	case hostops.SetFDB:
		return d.setFDB(v, op.MAC, op.Peer)
	case hostops.RemoveFDB:
		return d.removeFDB(v, op.MAC)
	case hostops.PinMAC:
		return d.fdb(v, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, unix.NUD_NOARP, unix.NTF_MASTER|ntfSticky, op.MAC, netip.Addr{})
	}
	return fmt.Errorf("%T: %w", op, hostops.ErrUnsupported)
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
