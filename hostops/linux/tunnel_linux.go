package linux

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

func (d *Driver) createTunnel(op hostops.CreateTunnel) (*step, error) {
	under, err := d.underlay(op.Underlay, op.Local)
	if err != nil {
		return nil, fmt.Errorf("underlay %s: %w", op.Underlay, err)
	}
	create := ask(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
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
	create.then = func(answer error) (*step, error) {
		if err := d.created(op.Object, op.Owner, answer); err != nil {
			return nil, err
		}
		v := d.devices.byName(op.Object)
		if v == nil {
			return nil, unix.ENODEV
		}
		// At creation the kernel takes no notice of these.
		return ask(unix.RTM_NEWLINK, 0, linkMsg(v.index), attr(unix.IFLA_IFALIAS, []byte(hostops.CleanAlias(op.Alias))), noAddrGen()), nil
	}
	return create, nil
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

// setGroup makes a tunnel that is down receive by a group, or by none.
func (d *Driver) setGroup(v *device, group netip.Addr) error {
	if v.up {
		return unix.EBUSY // it would neither join nor leave
	}
	if !group.IsValid() {
		group = unspecified(v.v6)
	}
	return d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), linkInfo("vxlan", groupAttr(group)))
}

// setUnderlay sends the changed attributes only: the kernel refuses a message
// that repeats those that cannot change. It leaves the place of a group in the
// flood list at the old device.
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
func setSending(v *device, on bool) *step {
	settings := []*nl.RtAttr{
		attr(nl.IFLA_BRPORT_LEARNING, flag(on)), attr(nl.IFLA_BRPORT_UNICAST_FLOOD, flag(on)),
		attr(nl.IFLA_BRPORT_MCAST_FLOOD, flag(on)), attr(nl.IFLA_BRPORT_BCAST_FLOOD, flag(on)),
	}
	if v.flags&suppressFlag != 0 {
		settings = append(settings, attr(nl.IFLA_BRPORT_NEIGH_SUPPRESS, flag(false)))
	}
	if !on {
		settings = append(settings, attr(nl.IFLA_BRPORT_FLUSH, nil))
	}
	return portStep(v.index, settings...)
}
