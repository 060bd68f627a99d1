package linux

import (
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// device is a link and what hangs on it.
type device struct {
	link
	addrs  []netip.Prefix
	pinned cluster.MAC

	// Of a tunnel of ours, without what is learned: the flood list, its own
	// table, what the bridge was told of its port, and these two in one (see
	// hostops.Device.FDB).
	tunnel bool
	flood  shared[netip.Addr, struct{}]
	self   map[cluster.MAC]netip.Addr
	held   map[cluster.MAC]struct{}
	fdb    shared[cluster.MAC, netip.Addr]
	// yielding are those of the bridge that learning may take (see listener).
	yielding shared[cluster.MAC, struct{}]

	answers shared[netip.Addr, cluster.MAC] // of a bridge of ours
}

func newDevice(l link) *device {
	d := &device{link: l}
	if _, ours := l.ours(); ours && l.kind == "vxlan" {
		d.tunnel, d.self, d.held = true, map[cluster.MAC]netip.Addr{}, map[cluster.MAC]struct{}{}
	}
	return d
}

// merge brings the entry of fdb in line with self and held, and reports whether
// that made a difference.
func (d *device) merge(mac cluster.MAC) bool {
	dst, self := d.self[mac]
	_, held := d.held[mac]
	if _, yields := d.yielding.m[mac]; yields {
		held = true
	}
	switch {
	case self && held:
		return d.fdb.set(mac, dst)
	case self || held:
		return d.fdb.set(mac, netip.Addr{})
	}
	return d.fdb.remove(mac)
}

// unbridged forgets what the bridge was told of the port: it left it.
func (d *device) unbridged() {
	d.pinned = cluster.MAC{}
	for mac := range d.held {
		delete(d.held, mac)
		d.merge(mac)
	}
	for mac := range d.yielding.m {
		d.yield(mac, false)
	}
}

// devices are all devices of one network namespace, by index.
type devices map[int32]*device

// event applies one rtnetlink message and reports whether it made a
// difference. lost: what it says cannot be told without reading again.
func (ds devices) event(kind uint16, b []byte) (changed, lost bool) {
	switch kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		return ds.linkEvent(kind == unix.RTM_NEWLINK, b)
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		return ds.addrEvent(kind == unix.RTM_NEWADDR, b), false
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return ds.neighEvent(kind == unix.RTM_NEWNEIGH, b), false
	}
	return false, false
}

// addressed reports whether the device that a message is about has addresses.
func (ds devices) addressed(b []byte) bool {
	const index = 4 // in ifinfomsg, ifaddrmsg and ndmsg alike
	if len(b) < index+4 {
		return false
	}
	d := ds[int32(native32(b[index:]))]
	return d != nil && len(d.addrs) > 0
}

func (ds devices) linkEvent(there bool, b []byte) (changed, lost bool) {
	if len(b) < unix.SizeofIfInfomsg {
		return false, false
	}
	index := int32(native32(b[4:]))
	old := ds[index]
	if b[0] == unix.AF_BRIDGE {
		if old == nil {
			return false, false
		}
		return old.portEvent(there, b[unix.SizeofIfInfomsg:]), false
	}
	if b[0] != unix.AF_UNSPEC {
		return false, false
	}
	if !there {
		delete(ds, index)
		return old != nil, false
	}
	l, ok := parseLink(b)
	if !ok || (old != nil && old.link == l) {
		return false, false
	}
	if old == nil {
		ds[index] = newDevice(l)
		return true, false
	}
	_, was := old.ours()
	_, is := l.ours()
	if l.master == 0 || l.master != old.master {
		old.unbridged()
	}
	old.link = l
	return true, was != is && l.kind == "vxlan" // whose tables were not followed
}

// portEvent applies an AF_BRIDGE message about a bridge port: there is false
// when it left its bridge (not when the device is gone).
func (d *device) portEvent(there bool, b []byte) bool {
	l := d.link
	if !there {
		l.master, l.isolated, l.flags = 0, false, 0
		d.unbridged()
	} else {
		attrs(b, func(kind int, data []byte) {
			switch kind {
			case unix.IFLA_MASTER:
				l.master = int32(native32(data))
			case unix.IFLA_PROTINFO:
				l.isolated, l.flags = isolated(data), parseFlags(data)
			}
		})
	}
	if l == d.link {
		return false
	}
	d.link = l
	return true
}

func (ds devices) addrEvent(there bool, b []byte) bool {
	index, p, ok := parseAddr(b)
	d := ds[index]
	if !ok || d == nil {
		return false
	}
	i := slices.Index(d.addrs, p)
	switch {
	case there && i < 0:
		d.addrs = append(slices.Clip(d.addrs), p)
		return true
	case !there && i >= 0:
		d.addrs = slices.Delete(slices.Clone(d.addrs), i, i+1)
		return true
	}
	return false
}

func (ds devices) neighEvent(there bool, b []byte) bool {
	if len(b) > 0 && b[0] != unix.AF_BRIDGE {
		return ds.answerEvent(there, b)
	}
	index, e, ok := parseNeigh(b)
	d := ds[index]
	if !ok || d == nil {
		return false
	}
	switch {
	case d.tunnel && e.self && e.mac == cluster.MAC{}:
		if there {
			return d.flood.set(e.dst, struct{}{})
		}
		return d.flood.remove(e.dst)
	case d.tunnel && e.self:
		if there && (e.static || e.permanent) {
			d.self[e.mac] = e.dst
		} else {
			delete(d.self, e.mac)
		}
		return d.merge(e.mac)
	case d.tunnel:
		return ds.heldEvent(d, e.mac, there && e.static && e.sticky)
	case e.sticky && there:
		ds.taken(d, e.mac)
		changed := d.pinned != e.mac
		d.pinned = e.mac
		return changed
	case !there && d.pinned == e.mac && !e.self:
		changed := d.pinned != cluster.MAC{}
		d.pinned = cluster.MAC{}
		return changed
	}
	return false
}

// taken forgets that other ports of the bridge have its entry of a MAC, of which there
// is one: the kernel says only who has it now.
func (ds devices) taken(by *device, mac cluster.MAC) {
	for _, other := range ds {
		if other == by || other.master != by.master {
			continue
		}
		if _, was := other.held[mac]; was {
			delete(other.held, mac)
			other.merge(mac)
		}
		if other.pinned == mac {
			other.pinned = cluster.MAC{}
		}
	}
}

// heldEvent applies a message about an entry of the bridge for a tunnel's port.
func (ds devices) heldEvent(d *device, mac cluster.MAC, holds bool) bool {
	if !holds {
		delete(d.held, mac)
		return d.merge(mac)
	}
	ds.taken(d, mac)
	d.held[mac] = struct{}{}
	return d.merge(mac)
}

// readLinks dumps the links alone.
func readLinks(c *conn) (devices, error) {
	ds := devices{}
	msgs, err := c.list(unix.RTM_GETLINK, unix.RTM_NEWLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), attr(unix.IFLA_EXT_MASK, u32(skipStats)))
	if err != nil {
		return nil, wrap("list devices", err)
	}
	for _, m := range msgs {
		if l, ok := parseLink(m); ok {
			ds[l.index] = newDevice(l)
		}
	}
	return ds, nil
}

// read dumps a namespace. FDB entries are read of our own devices only.
func read(c *conn) (devices, error) {
	ds, err := readLinks(c)
	if err != nil {
		return nil, err
	}
	msgs, err := c.list(unix.RTM_GETADDR, unix.RTM_NEWADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	if err != nil {
		return nil, wrap("list addresses", err)
	}
	for _, m := range msgs {
		ds.addrEvent(true, m)
	}
	for _, d := range ds {
		if _, ours := d.ours(); !ours || (d.kind != "vxlan" && d.kind != "veth" && d.use() == hostops.UseVPC) {
			continue
		}
		h := nl.NewIfInfomsg(unix.AF_BRIDGE)
		h.Index = d.index
		msgs, err := c.list(unix.RTM_GETNEIGH, unix.RTM_NEWNEIGH, h)
		if err != nil {
			return nil, wrap("list FDB entries of "+d.name, err)
		}
		for _, m := range msgs {
			ds.neighEvent(true, m)
		}
	}
	return ds, ds.readAnswers(c)
}

// byName finds a device.
func (ds devices) byName(name string) *device {
	for _, d := range ds {
		if d.name == name {
			return d
		}
	}
	return nil
}
