package linux

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// identify notes which namespace is the host's own.
func (d *Driver) identify() error {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return fmt.Errorf("open the host's network namespace: %w", err)
	}
	defer f.Close()
	d.self, err = inodeOf(f)
	return err
}

// enter opens the namespace of a workload: neither the host's nor one of a VPC.
func (d *Driver) enter(path string, want uint64) (*os.File, error) {
	f, inode, err := openSpace(path)
	if err != nil {
		return nil, err
	}
	switch {
	case inode == d.self:
		err = fmt.Errorf("%s is the host's own network namespace, which is in no VPC", path)
	case want != 0 && inode != want:
		err = fmt.Errorf("%s leads to another network namespace now: %w", path, hostops.ErrGone)
	}
	for name, sp := range d.spaces {
		if sp.ino == inode {
			err = fmt.Errorf("%s is namespace %s: %w", path, name, hostops.ErrForeign)
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// createPair makes both ends of a workload's port, the inner one where it belongs.
func (d *Driver) createPair(op hostops.CreatePair) error {
	f, err := d.enter(op.Namespace, op.Inode)
	if err != nil {
		return err
	}
	defer f.Close()
	peer := attr(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	peer.AddRtAttr(unix.IFLA_IFNAME, zstr(op.Inner))
	peer.AddRtAttr(unix.IFLA_ADDRESS, op.MAC[:])
	peer.AddRtAttr(unix.IFLA_MTU, u32(uint32(op.MTU)))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, u32(uint32(f.Fd())))
	err = d.conn.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		attr(unix.IFLA_IFNAME, zstr(op.Object)), attr(unix.IFLA_MTU, u32(uint32(op.MTU))),
		attr(unix.IFLA_GROUP, u32(hostops.GroupFor(hostops.UseMade, op.Owner))), linkInfo("veth", peer))
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	d.drain()
	if d.devices.byName(op.Object) == nil {
		return fmt.Errorf("device %s is in %s already: remove it there, or name another: %w", op.Inner, op.Namespace, hostops.ErrForeign)
	}
	return d.created(op.Object, op.Owner, err)
}

// openPort brings a pair's end up and waits for the bridge to forward by it: the
// kernel notices a carrier some time after it is there, or when it is asked.
func (d *Driver) openPort(v *device) error {
	if err := d.conn.setUp(v.index); err != nil {
		return err
	}
	const tries, pause = 50, 2 * time.Millisecond
	for range tries {
		msgs, err := d.conn.do(unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, linkMsg(v.index))
		if err != nil || slices.ContainsFunc(msgs, operates) {
			return err
		}
		<-time.After(pause)
	}
	return nil // the workload has taken its end down
}

// operates reports whether a link message tells of a device that carries frames.
// It is no part of what is tracked: it changes with every cable.
func operates(b []byte) (up bool) {
	const ifOperUp = 6
	attrs(b[min(len(b), unix.SizeofIfInfomsg):], func(kind int, data []byte) {
		if kind == unix.IFLA_OPERSTATE && len(data) == 1 {
			up = data[0] == ifOperUp
		}
	})
	return up
}

// refresh reads a device again: of one that is down the kernel tells neither a new
// group nor a new alias.
func (d *Driver) refresh(index int32) error {
	msgs, err := d.conn.do(unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, linkMsg(index))
	if err != nil {
		return err
	}
	d.drain() // what is older
	for _, m := range msgs {
		if d.devices == nil {
			break
		}
		if _, unknown := d.devices.linkEvent(true, m); unknown {
			d.devices = nil
		}
	}
	return nil
}
