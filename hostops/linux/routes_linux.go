package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// route is what is looked at of a route of one device.
type route struct {
	to       netip.Prefix
	gateway  netip.Addr
	device   int32
	kind     uint8
	protocol uint8
	table    uint32
}

func parseRoute(b []byte) (r route, ok bool) {
	if len(b) < unix.SizeofRtMsg {
		return r, false
	}
	to := netip.IPv4Unspecified()
	if b[0] == unix.AF_INET6 {
		to = netip.IPv6Unspecified()
	}
	r.table, r.protocol, r.kind = uint32(b[4]), b[5], b[7]
	attrs(b[unix.SizeofRtMsg:], func(kind int, data []byte) {
		switch kind {
		case unix.RTA_DST:
			to = addr(data)
		case unix.RTA_OIF:
			r.device = int32(native32(data))
		case unix.RTA_GATEWAY:
			r.gateway = addr(data)
		case unix.RTA_TABLE:
			r.table = native32(data)
		}
	})
	r.to = netip.PrefixFrom(to, int(b[1]))
	return r, b[0] == unix.AF_INET || b[0] == unix.AF_INET6
}

// routes lists those of a device, in all tables.
func (c *conn) routes(index int32) (out []route, err error) {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		m := &nl.RtMsg{RtMsg: unix.RtMsg{Family: family}}
		msgs, err := c.list(unix.RTM_GETROUTE, unix.RTM_NEWROUTE, m, attr(unix.RTA_OIF, u32(uint32(index))))
		if err != nil {
			return nil, wrap("list routes", err)
		}
		for _, b := range msgs {
			if r, ok := parseRoute(b); ok && r.device == index {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// routeProtocol marks routes that setRoutes has made, but default ones, which are static.
const routeProtocol = 0x6d

func protocolOf(r cluster.Route) uint8 {
	if r.IsDefault() {
		return unix.RTPROT_STATIC
	}
	return routeProtocol
}

// setRoutes makes routes by a device, and removes others that setRoutes has made.
func (c *conn) setRoutes(index int32, want []cluster.Route, own []netip.Prefix) error {
	routes, err := c.routes(index)
	if err != nil {
		return err
	}
	var has []cluster.Route
	for _, r := range routes {
		have := cluster.Route{To: r.to, Via: r.gateway}
		if !r.gateway.IsValid() || r.protocol != protocolOf(have) || r.table != unix.RT_TABLE_MAIN {
			continue
		}
		if slices.Contains(want, have) {
			has = append(has, have)
			continue
		}
		if err := ignore(c.setRoute(unix.RTM_DELROUTE, 0, index, have, false), unix.ESRCH); err != nil {
			return wrap("remove "+routeText(have), err)
		}
	}
	for _, r := range want {
		if slices.Contains(has, r) {
			continue
		}
		far := !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(r.Via) })
		err := c.setRoute(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, index, r, far)
		if errors.Is(err, unix.EEXIST) {
			what := "route to " + r.To.String()
			if r.IsDefault() {
				what = "default route"
			}
			return fmt.Errorf("add %s: the namespace has a %s already: remove it, or attach it with --no-gateway: %w", routeText(r), what, hostops.ErrForeign)
		}
		if err != nil {
			return wrap("add "+routeText(r), err)
		}
	}
	return nil
}

func routeText(r cluster.Route) string {
	if r.IsDefault() {
		return "gateway " + r.Via.String()
	}
	return fmt.Sprintf("route %s by %s", r.To, r.Via)
}

// setRoute adds or removes one; far: the gateway is in no network of the device.
func (c *conn) setRoute(proto, flags int, index int32, r cluster.Route, far bool) error {
	m := &nl.RtMsg{RtMsg: unix.RtMsg{
		Family: familyOf(r.To.Addr()), Dst_len: uint8(r.To.Bits()), Table: unix.RT_TABLE_MAIN, Protocol: protocolOf(r), Type: unix.RTN_UNICAST, Scope: unix.RT_SCOPE_UNIVERSE,
	}}
	if far {
		m.Flags = unix.RTNH_F_ONLINK
	}
	parts := []nl.NetlinkRequestData{m, attr(unix.RTA_OIF, u32(uint32(index))), attr(unix.RTA_GATEWAY, r.Via.AsSlice())}
	if !r.IsDefault() {
		parts = append(parts, attr(unix.RTA_DST, r.To.Addr().AsSlice()))
	}
	return c.set(proto, flags, parts...)
}

// lend marks a device of somebody else's, unless it is in use.
func (d *Driver) lend(op hostops.Lend) error {
	v := d.devices.byName(op.Object)
	if v == nil {
		return unix.ENODEV
	}
	if _, ours := v.ours(); ours && v.use() != hostops.UseLent {
		return hostops.ErrForeign
	} else if !ours {
		if err := d.idle(v); err != nil {
			return err
		}
	}
	group := attr(unix.IFLA_GROUP, u32(hostops.GroupFor(hostops.UseLent, op.Owner)))
	if err := d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(v.index), group, noAddrGen()); err != nil {
		return err
	}
	for _, a := range v.addrs {
		if err := ignore(d.conn.strip(v.index, a), unix.EADDRNOTAVAIL); err != nil {
			return wrap("remove address "+a.String(), err)
		}
	}
	return d.refresh(v.index)
}

// idle reports what a device is in use for.
func (d *Driver) idle(v *device) error {
	switch {
	case v.name == "lo" || v.kind == "bridge" || v.kind == "vxlan":
		return fmt.Errorf("it cannot be a port: %w", hostops.ErrInUse)
	case v.master != 0:
		return fmt.Errorf("it is a port of %s: %w", d.name(v.master), hostops.ErrInUse)
	}
	for _, a := range v.addrs {
		if !a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("it has the address %s: %w", a, hostops.ErrInUse)
		}
	}
	for _, w := range d.devices {
		if w.kind == "vxlan" && w.underlay == v.index {
			return fmt.Errorf("it carries tunnel %s: %w", w.name, hostops.ErrInUse)
		}
	}
	return within(d.ns, func() error {
		var n atomic.Uint64
		c, err := dial(make([]byte, readSize), &n)
		if err != nil {
			return err
		}
		defer c.close()
		// Then the kernel lists this device's alone (kernel 5.0).
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1)
		routes, err := c.routes(v.index)
		for _, r := range routes {
			own := r.table == unix.RT_TABLE_LOCAL || r.to.Addr().IsMulticast() || r.to.Addr().Is6() && r.to.Addr().IsLinkLocalUnicast()
			if !own {
				return fmt.Errorf("it has the route %s: %w", r.to, hostops.ErrInUse)
			}
		}
		return err
	})
}

// giveBack leaves a device to whoever made it.
func (d *Driver) giveBack(name string) error {
	v := d.devices.byName(name)
	if v == nil || v.use() != hostops.UseLent {
		return nil
	}
	return d.release(v.index)
}

// release takes the mark away last.
func (d *Driver) release(index int32) error {
	out := linkMsg(index)
	out.Change = unix.IFF_UP
	spec := attr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(iflaInet6AddrGenMode, []byte{addrGenEUI64})
	for _, err := range []error{
		d.conn.set(unix.RTM_NEWLINK, 0, out, attr(unix.IFLA_MASTER, u32(0))),
		// A kernel without IPv6 makes none.
		ignore(d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(index), spec), unix.EAFNOSUPPORT, unix.EOPNOTSUPP),
		d.conn.set(unix.RTM_NEWLINK, 0, linkMsg(index), attr(unix.IFLA_GROUP, u32(0))),
	} {
		if err != nil {
			return ignore(err, unix.ENODEV)
		}
	}
	return ignore(d.refresh(index), unix.ENODEV)
}
