package linux

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

const (
	iffTunExcl = 0x8000 // IFF_TUN_EXCL
	tapFlags   = unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR
)

// withTap opens a tap, new or not, for f. It goes when f returns, unless f made it
// stay.
func (d *Driver) withTap(name string, flags uint16, f func(fd int) error) error {
	return within(d.ns, func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("this kernel has no taps (modprobe tun): %w: %w", hostops.ErrUnsupported, err)
		}
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		defer unix.Close(fd)
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
			return err
		}
		return f(fd)
	})
}

// createTap makes a tap that is marked before it stays: one of a crash before that
// goes with this process.
func (d *Driver) createTap(op hostops.CreateTap) error {
	if d.devices.byName(op.Object) != nil {
		return d.created(op.Object, op.Owner, unix.EEXIST)
	}
	err := d.withTap(op.Object, tapFlags|iffTunExcl, func(fd int) error {
		d.drain()
		v := d.devices.byName(op.Object)
		if v == nil {
			return unix.ENODEV
		}
		group := attr(unix.IFLA_GROUP, u32(hostops.GroupFor(hostops.UseMade, op.Owner)))
		if err := d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), group); err != nil {
			return wrap("mark", err)
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, op.User); err != nil {
			return fmt.Errorf("give to user %d: %w", op.User, err)
		}
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return wrap("keep", err)
		}
		return d.refresh(v.index)
	})
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL) && d.devices.byName(op.Object) != nil {
		return fmt.Errorf("%w: %w", hostops.ErrForeign, err)
	}
	return err
}

// setTap gives a tap to another user.
func (d *Driver) setTap(v *device, user int) error {
	if v.kind != "tun" {
		return hostops.ErrForeign
	}
	err := d.withTap(v.name, tapFlags, func(fd int) error {
		if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, user); err != nil {
			return err
		}
		return d.refresh(v.index)
	})
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("a virtual machine has it open: end that first: %w", err)
	}
	return err
}
