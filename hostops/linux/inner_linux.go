package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// setInner configures the other end of a pair, in the workload's namespace.
func (d *Driver) setInner(v *device, op hostops.SetInner) error {
	f, err := d.enter(op.Namespace, op.Inode)
	if err != nil {
		return err
	}
	defer f.Close()
	id, err := d.conn.spaceID(f)
	if err != nil {
		return err
	}
	if v.kind != "veth" || v.space != id {
		return fmt.Errorf("%s leads to another network namespace now: %w", op.Namespace, hostops.ErrGone)
	}
	return within(int(f.Fd()), func() error {
		c, err := dial(make([]byte, readSize), &d.requests)
		if err != nil {
			return err
		}
		defer c.close()
		return configure(c, v.peer, op)
	})
}

// configure makes the device with this index what op says. It runs in its
// namespace.
func configure(c *conn, index int32, op hostops.SetInner) error {
	if err := c.setUp(1); err != nil {
		return wrap("bring up loopback", err)
	}
	if err := c.rename(index, op.Inner); err != nil {
		return err
	}
	if err := askSoon(op.Inner); err != nil {
		return wrap("set "+op.Inner, err)
	}
	if slices.ContainsFunc(op.Addresses, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := enableIPv6(op.Inner); err != nil {
			return err
		}
	}
	m := linkMsg(index)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	if err := c.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU))), attr(unix.IFLA_ADDRESS, op.MAC[:])); err != nil {
		return wrap("set "+op.Inner, err)
	}
	if len(op.Addresses) > 0 {
		if err := c.setAddresses(index, op.Addresses); err != nil {
			return err
		}
	}
	return c.setRoutes(index, op.Routes, op.Addresses)
}

// askSoon has a workload's question for a MAC asked again sooner than after the
// kernel's second: the answer to its first one may go to the host that it has just
// come from.
func askSoon(device string) error {
	return setNeigh(device, "retrans_time_ms", "250")
}

func (c *conn) setUp(index int32) error {
	m := linkMsg(index)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	return c.set(unix.RTM_NEWLINK, 0, m)
}

// rename names a device, which older kernels do only while it is down.
func (c *conn) rename(index int32, name string) error {
	msgs, err := c.do(unix.RTM_GETLINK, 0, unix.RTM_NEWLINK, linkMsg(index))
	if err != nil || len(msgs) != 1 {
		return wrap("find the port's other end", errors.Join(err, unix.ENODEV))
	}
	if l, ok := parseLink(msgs[0]); ok && l.name == name {
		return nil
	}
	err = c.set(unix.RTM_NEWLINK, 0, linkMsg(index), attr(unix.IFLA_IFNAME, zstr(name)))
	if errors.Is(err, unix.EBUSY) {
		m := linkMsg(index)
		m.Change = unix.IFF_UP
		if err = c.set(unix.RTM_NEWLINK, 0, m); err == nil {
			err = c.set(unix.RTM_NEWLINK, 0, linkMsg(index), attr(unix.IFLA_IFNAME, zstr(name)))
		}
	}
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("device %s is there already: remove it, or name another: %w", name, hostops.ErrForeign)
	}
	return wrap("name the port's other end", err)
}

// enableIPv6 is for namespaces whose maker has switched it off, as some container
// runtimes do.
func enableIPv6(device string) error {
	path := filepath.Join("/proc/sys/net/ipv6/conf", device, "disable_ipv6")
	now, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("this kernel has no IPv6: give the endpoint IPv4 addresses only")
	}
	if err != nil || len(now) > 0 && now[0] == '0' {
		return err
	}
	return os.WriteFile(path, []byte("0"), 0)
}

// setAddresses gives a device these addresses, and takes others from it that
// somebody set. Those of its link and from router advertisements stay.
func (c *conn) setAddresses(index int32, want []netip.Prefix) error {
	msgs, err := c.list(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return wrap("list addresses", err)
	}
	var has []netip.Prefix
	for _, m := range msgs {
		at, p, ok := parseAddr(m)
		if !ok || at != index || m[2]&unix.IFA_F_PERMANENT == 0 || p.Addr().IsLinkLocalUnicast() && p.Addr().Is6() {
			continue
		}
		if slices.Contains(want, p) {
			has = append(has, p)
			continue
		}
		if err := ignore(c.strip(index, p), unix.EADDRNOTAVAIL); err != nil {
			return wrap("remove address "+p.String(), err)
		}
	}
	for _, p := range want {
		if slices.Contains(has, p) {
			continue
		}
		m := addrMsg(index, p)
		m.Flags = unix.IFA_F_NODAD
		raw := p.Addr().AsSlice()
		err := c.set(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m, attr(unix.IFA_LOCAL, raw), attr(unix.IFA_ADDRESS, raw))
		if err := ignore(err, unix.EEXIST); err != nil {
			return wrap("add address "+p.String(), err)
		}
	}
	return nil
}
