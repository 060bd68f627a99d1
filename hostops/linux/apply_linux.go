package linux

import (
	"context"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Apply implements hostops.Driver.
func (d *Driver) Apply(ctx context.Context, op hostops.Op) error {
	return d.ApplyBatch(ctx, []hostops.Op{op})[0]
}

// apply is for operations that are no single request.
func (d *Driver) apply(op hostops.Op) error {
	switch op := op.(type) {
	case hostops.CreateFilter:
		return d.filter.create(op.Port)
	case hostops.DeleteFilter:
		return d.filter.remove()
	case hostops.Fence:
		return d.filter.fence(op.Sources, true)
	case hostops.Unfence:
		return d.filter.fence(op.Sources, false)
	case hostops.Allow:
		return d.filter.sources(op.VNI, op.Sources, true)
	case hostops.Deny:
		return d.filter.sources(op.VNI, op.Sources, false)
	case hostops.Admit:
		return d.filter.admit(op.Sources)
	case hostops.Guard:
		return d.filter.judge(guarded(), op.VNI, true)
	case hostops.Unguard:
		return d.filter.judge(guarded(), op.VNI, false)
	case hostops.AllowPlaces:
		return d.filter.places(op.VNI, op.Places, true)
	case hostops.DenyPlaces:
		return d.filter.places(op.VNI, op.Places, false)
	case hostops.GuardPlaces:
		return d.filter.judge(placed(), op.VNI, true)
	case hostops.UnguardPlaces:
		return d.filter.judge(placed(), op.VNI, false)
	case hostops.LimitFlood:
		return d.limitFlood(op)
	case hostops.UnlimitFlood:
		return d.filter.unlimitFlood(op.VNI)
	case hostops.Shield:
		return d.filter.setShield(op.VNI, op.Network)
	case hostops.Unshield:
		return d.filter.unshield(op.VNI)
	case hostops.SetDefault:
		return d.setDefault(op)
	case hostops.GuardUplinks:
		return d.filter.guardUplinks(op.Port)
	case hostops.UnguardUplinks:
		return d.filter.unguardUplinks()
	case hostops.SetWard:
		return d.filter.setWard(op.Object, op.Ward)
	case hostops.RemoveWard:
		return d.filter.removeWard(op.Object)
	case hostops.Unseal:
		return d.filter.unseal(op.Object)
	case hostops.CreateNamespace:
		return d.createNamespace(op)
	case hostops.SetNamespace:
		return d.setNamespace(op.Object, op.Routing)
	case hostops.DeleteNamespace:
		return d.deleteNamespace(op.Object)
	case hostops.CreatePort:
		return d.createPort(op)
	case hostops.SetPort:
		return d.setPort(op)
	case hostops.AddAddress:
		return d.address(op.Object, op.Inner, op.Address, true)
	case hostops.RemoveAddress:
		return d.address(op.Object, op.Inner, op.Address, false)
	case hostops.CreateBridge:
		return d.createBridge(op)
	case hostops.CreatePair:
		return d.createPair(op)
	case hostops.CreateTap:
		return d.createTap(op)
	case hostops.Lend:
		return d.lend(op)
	case hostops.GiveBack:
		return d.giveBack(op.Object)
	case hostops.Bind:
		return d.filter.bind(op.Object, op.Binding)
	case hostops.Unbind:
		return d.filter.unbind(op.Devices)
	case hostops.Gate:
		return d.filter.gatePort(op.Object)
	case hostops.Ungate:
		return d.filter.ungatePorts(op.Devices)
	case hostops.Announce:
		return d.announce(op)
	case hostops.DeleteDevices:
		return d.deleteGroup(op.Owner)
	}
	v, err := d.own(op)
	if v == nil || err != nil {
		return err
	}
	switch op := op.(type) {
	case hostops.Seal:
		return d.filter.setSeal(v.name)
	case hostops.SetBridge:
		return d.setBridge(v)
	case hostops.SetInner:
		return d.setInner(v, op)
	case hostops.SetVIP:
		return d.setVIP(op)
	case hostops.SetUplink:
		return d.setUplink(v, op)
	case hostops.SetTap:
		return d.setTap(v, op.User)
	case hostops.SetUp:
		return d.openPort(v)
	case hostops.SetUnderlay:
		return d.setUnderlay(v, op)
	case hostops.SetGroup:
		return d.setGroup(v, op.Group)
	case hostops.StripAddress:
		return ignore(d.conn.strip(v.index, op.Address), unix.EADDRNOTAVAIL)
	case hostops.ResetPort:
		return d.resetPort(v)
	case hostops.RemovePeer:
		return d.removeGroup(v, op.Peer)
	case hostops.Forget:
		return d.forget(v, op.Peer)
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

// deleteGroup removes all devices of a VPC, by one message for all of a use: one by
// one each waits for a grace period of the kernel. What was lent is given back.
func (d *Driver) deleteGroup(owner cluster.VNI) error {
	// Read again: of a device that is down the kernel tells no new group.
	ds, err := readLinks(d.conn)
	if err != nil {
		return err
	}
	var failed []error
	for _, v := range ds {
		if o, ours := v.ours(); ours && o == owner && v.use() == hostops.UseLent {
			failed = append(failed, d.release(v.index))
		}
	}
	for _, group := range []uint32{hostops.GroupFor(hostops.UseMade, owner), hostops.GroupOf(owner), hostops.GroupUplink | uint32(owner)} {
		failed = append(failed, d.deleteMarked(ds, group))
	}
	return errors.Join(failed...)
}

func (d *Driver) deleteMarked(ds devices, group uint32) error {
	there, foreign := false, false
	for _, v := range ds {
		if v.group == group {
			_, ours := v.ours()
			there, foreign = true, foreign || !ours
		}
	}
	switch {
	case !there:
		return nil
	case foreign:
		return d.deleteEach(ds, group) // somebody else's device is in the group
	}
	return ignore(d.conn.set(unix.RTM_DELLINK, 0, nl.NewIfInfomsg(unix.AF_UNSPEC), attr(unix.IFLA_GROUP, u32(group))), unix.ENODEV)
}

func (d *Driver) deleteEach(ds devices, group uint32) error {
	var failed []error
	for _, v := range ds {
		if _, ours := v.ours(); ours && v.group == group {
			failed = append(failed, ignore(d.conn.set(unix.RTM_DELLINK, 0, linkMsg(v.index)), unix.ENODEV))
		}
	}
	return errors.Join(failed...)
}
