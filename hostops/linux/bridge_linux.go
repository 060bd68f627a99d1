package linux

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

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

func (d *Driver) setBridge(v *device) error {
	if err := d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), quietBridge(), deafAndQuiet()); err != nil {
		return err
	}
	d.drain()
	d.unbounded = v.maxLearned == 0
	return nil
}
