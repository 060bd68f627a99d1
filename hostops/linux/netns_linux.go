package linux

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// inner is the name of the end of the VTEP's port in a VPC's namespace.
const inner = hostops.InnerVTEP

// end is the inner end of one of its ports.
type end struct {
	index int32
	peer  int32 // in the host's namespace
}

// space is one pinned namespace that is followed.
type space struct {
	file   *os.File
	ino    uint64
	conn   *conn
	events *source
	nft    *source
	state  hostops.Namespace // Peer and Neighbours of ports are not set
	end                      // of the VTEP's port
	others map[string]end    // of further ports, by name
	// neighbours are those that the port was told for good; they are to be read
	// unless neighboursRead.
	neighbours     shared[netip.Addr, cluster.MAC]
	neighboursRead bool
}

func (s *space) close() {
	for _, src := range []*source{s.events, s.nft} {
		if src != nil {
			src.close()
		}
	}
	if s.conn != nil {
		s.conn.close()
	}
	s.file.Close()
}

// track reads the namespace called name, and follows it from now on; one that
// is followed already it reads only if told to do so again. It closes what it
// knew of an earlier namespace of that name.
func (d *Driver) track(name string, again bool) (there, changed bool, err error) {
	file, ino, err := openNamespace(d.pin(name))
	if errors.Is(err, os.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("open namespace %s: %w", name, err)
	}
	if file == nil { // a name without a namespace: free to be taken
		return false, false, nil
	}
	if old := d.spaces[name]; old != nil {
		if old.ino == ino {
			file.Close()
			if !again {
				return true, false, nil
			}
			changed, err := d.reread(name)
			return true, changed, err
		}
		d.drop(name)
	}
	sp := &space{file: file, ino: ino}
	err = within(int(file.Fd()), func() error {
		var err error
		if sp.conn, err = dial(d.buf, &d.requests); err != nil {
			return err
		}
		if sp.events, err = subscribe(d.buf, unix.NETLINK_ROUTE, groupsNamespace, nil); err != nil {
			return err
		}
		sp.nft, err = subscribe(d.buf, unix.NETLINK_NETFILTER, 1<<(unix.NFNLGRP_NFTABLES-1), nil)
		return err
	})
	if err != nil {
		sp.close()
		return true, false, fmt.Errorf("follow namespace %s: %w", name, err)
	}
	d.spaces[name] = sp
	for _, src := range []*source{sp.events, sp.nft} {
		follow(&d.wg, &d.mu, src, func() {
			if d.spaces[name] != sp {
				return
			}
			if changed, err := d.follow(name, src == sp.nft); changed || err != nil {
				d.signal()
			}
		})
	}
	_, err = d.reread(name)
	return true, true, err
}

// follow applies a tracked namespace's events. Those about neighbours, of which
// there are many, it applies one by one; for any other it reads all else again.
func (d *Driver) follow(name string, again bool) (changed bool, err error) {
	sp := d.spaces[name]
	changed, other := sp.drain()
	if !again && !other {
		return changed, nil
	}
	diff, err := d.reread(name)
	return changed || diff, err
}

// drain applies the waiting events about neighbours and reports whether they
// made a difference, and whether others came.
func (sp *space) drain() (changed, other bool) {
	lost := sp.events.drain(func(h *unix.NlMsghdr, b []byte) {
		if h.Type == unix.RTM_NEWNEIGH || h.Type == unix.RTM_DELNEIGH {
			changed = sp.neighbourEvent(h.Type == unix.RTM_NEWNEIGH, b) || changed
		} else {
			other = true
		}
	})
	if lost {
		sp.neighboursRead, other = false, true
	}
	return changed, other
}

// reread reads a tracked namespace but for its neighbours: it is small, and
// changes seldom.
func (d *Driver) reread(name string) (changed bool, err error) {
	sp := d.spaces[name]
	changed, _ = sp.drain()
	sp.nft.drain(func(*unix.NlMsghdr, []byte) {})
	ds, err := read(sp.conn)
	if err != nil {
		return false, fmt.Errorf("read namespace %s: %w", name, err)
	}
	old, oldEnd, oldOthers := sp.state, sp.end, sp.others
	sp.state, sp.end, sp.others = hostops.Namespace{}, end{}, map[string]end{}
	lo := ds.byName("lo")
	if lo == nil {
		return true, nil
	}
	sp.state.Owner = hostops.VNIOf(lo.group)
	if sp.state.Owner == 0 {
		return old.Owner != 0, nil // not ours: not looked into
	}
	d.requests.Add(1)
	err = within(int(sp.file.Fd()), func() error {
		var err error
		sp.state.Routing, sp.state.Filtered, err = filtered()
		sp.state.Quiet = lo.up && quiet(sp.state.Routing)
		sp.readPorts(ds)
		return errors.Join(err, sp.readDefaults(), sp.readSources())
	})
	if err != nil {
		return true, fmt.Errorf("read namespace %s: %w", name, err)
	}
	if sp.index != oldEnd.index || !sp.neighboursRead {
		if err := sp.readNeighbours(); err != nil {
			return true, fmt.Errorf("read namespace %s: %w", name, err)
		}
		changed = true
	}
	return changed || oldEnd.peer != sp.peer || !maps.Equal(oldOthers, sp.others) || !sameNamespace(old, sp.state), nil
}

// readPorts takes the namespace's ports from its devices. It runs there.
func (sp *space) readPorts(ds devices) {
	for _, v := range ds {
		if v.kind != "veth" {
			continue
		}
		p := &hostops.NamespacePort{MAC: v.mac, MTU: v.mtu, Up: v.up, Addresses: v.addrs, Forwards: forwards(v.name)}
		switch {
		case v.name == inner:
			sp.end, sp.state.Port = end{v.index, v.peer}, p
		case v.name == hostops.InnerGateway, v.name == hostops.InnerActive, v.name == hostops.InnerUplink, hostops.IsVIP(v.name):
			sp.others[v.name] = end{v.index, v.peer}
			if sp.state.Further == nil {
				sp.state.Further = map[string]*hostops.NamespacePort{}
			}
			sp.state.Further[v.name] = p
		}
	}
}

// readDefaults reads the default routes by the uplink.
func (sp *space) readDefaults() error {
	p := sp.state.Further[hostops.InnerUplink]
	if p == nil {
		return nil
	}
	routes, err := sp.conn.routes(sp.others[hostops.InnerUplink].index)
	for _, r := range routes {
		if r.to.Bits() == 0 && r.table == unix.RT_TABLE_MAIN && r.gateway.IsValid() {
			p.Gateways = append(p.Gateways, r.gateway)
		}
	}
	return err
}

// setDefault makes the default routes by a port.
func (d *Driver) setDefault(op hostops.SetDefault) error {
	sp := d.spaces[op.Object]
	if sp == nil || sp.of(op.Inner).index == 0 {
		return os.ErrNotExist
	}
	own := []netip.Prefix{}
	if p := sp.state.Further[op.Inner]; p != nil {
		own = p.Addresses
	}
	if err := sp.conn.setRoutes(sp.of(op.Inner).index, cluster.RoutesBy(op.Gateways, nil), own); err != nil {
		return err
	}
	_, err := d.reread(op.Object)
	return err
}

// of is one of the ends, the VTEP's for "".
func (sp *space) of(name string) end {
	if name == "" || name == inner {
		return sp.end
	}
	return sp.others[name]
}

func sameNamespace(a, b hostops.Namespace) bool {
	return a.Owner == b.Owner && a.Quiet == b.Quiet && a.Filtered == b.Filtered && a.Routing == b.Routing &&
		samePort(a.Port, b.Port) && maps.EqualFunc(a.Further, b.Further, samePort)
}

func samePort(a, b *hostops.NamespacePort) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.MAC == b.MAC && a.MTU == b.MTU && a.Up == b.Up && a.Forwards == b.Forwards && a.Sourced == b.Sourced && slices.Equal(a.Addresses, b.Addresses) && slices.Equal(a.Gateways, b.Gateways)
}

// pinDir makes the directory of pinned namespaces a shared mount point, as
// `ip netns` does, so that namespaces are seen in every mount namespace.
func (d *Driver) pinDir() error {
	if err := os.MkdirAll(d.dir, 0o755); err != nil {
		return err
	}
	err := unix.Mount("", d.dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err := unix.Mount(d.dir, d.dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return err
	}
	return unix.Mount("", d.dir, "none", unix.MS_SHARED|unix.MS_REC, "")
}

// createNamespace pins a new namespace that is marked and quiet already.
func (d *Driver) createNamespace(op hostops.CreateNamespace) error {
	if err := d.pinDir(); err != nil {
		return fmt.Errorf("make %s: %w", d.dir, err)
	}
	path := d.pin(op.Object)
	there, _, err := d.track(op.Object, true)
	if err != nil {
		return err
	}
	if there {
		if d.spaces[op.Object].state.Owner == op.Owner {
			return nil
		}
		return hostops.ErrForeign
	}
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("new network namespace: %w", err)
			}
			c, err := dial(d.buf, &d.requests)
			if err != nil {
				return err
			}
			defer c.close()
			if err := c.set(unix.RTM_NEWLINK, 0, linkMsg(1), attr(unix.IFLA_GROUP, u32(hostops.GroupOf(op.Owner)))); err != nil {
				return wrap("mark", err)
			}
			return wrap("pin", unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, ""))
		}()
	}()
	if err := <-done; err != nil {
		return err
	}
	if err := d.watchPins(false); err != nil {
		return err
	}
	_, _, err = d.track(op.Object, true)
	return err
}

// setNamespace makes a namespace quiet and filtered.
func (d *Driver) setNamespace(name string, r hostops.Routing) error {
	sp := d.spaces[name]
	if sp == nil {
		return os.ErrNotExist
	}
	up := linkMsg(1)
	up.Flags, up.Change = unix.IFF_UP, unix.IFF_UP
	if err := sp.conn.set(unix.RTM_NEWLINK, 0, up); err != nil {
		return wrap("bring up loopback", err)
	}
	if err := within(int(sp.file.Fd()), func() error {
		if err := makeFiltered(r); err != nil {
			return err
		}
		return makeQuiet(r)
	}); err != nil {
		return err
	}
	d.requests.Add(1)
	_, err := d.reread(name)
	return err
}

// deleteNamespace unpins a namespace of ours; it ends when its last user does.
func (d *Driver) deleteNamespace(name string) error {
	path := d.pin(name)
	if sp := d.spaces[name]; sp != nil && sp.state.Owner == 0 {
		return hostops.ErrForeign
	}
	d.drop(name)
	if err := ignore(unix.Unmount(path, unix.MNT_DETACH), unix.ENOENT, unix.EINVAL); err != nil {
		return err
	}
	return ignore(unix.Unlink(path), unix.ENOENT)
}

// createPort makes both ends of a namespace's port, down.
func (d *Driver) createPort(op hostops.CreatePort) error {
	sp := d.spaces[op.Namespace]
	if sp == nil {
		return fmt.Errorf("namespace %s: %w", op.Namespace, os.ErrNotExist)
	}
	name := cmp.Or(op.Inner, inner)
	group := attr(unix.IFLA_GROUP, u32(hostops.GroupFor(op.Use, op.Owner)))
	if name == hostops.InnerUplink {
		group = attr(unix.IFLA_GROUP, u32(hostops.GroupUplink|uint32(op.Owner)))
	}
	peer := attr(nl.VETH_INFO_PEER, nl.NewIfInfomsg(unix.AF_UNSPEC).Serialize())
	peer.AddRtAttr(unix.IFLA_IFNAME, zstr(name))
	peer.AddRtAttr(unix.IFLA_ADDRESS, op.MAC[:])
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, u32(uint32(sp.file.Fd())))
	peer.AddRtAttr(unix.IFLA_GROUP, u32(hostops.GroupOf(op.Owner)))
	err := d.conn.set(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nl.NewIfInfomsg(unix.AF_UNSPEC),
		attr(unix.IFLA_IFNAME, zstr(op.Object)), group, linkInfo("veth", peer))
	if errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%w: %w", hostops.ErrForeign, err)
	}
	if err != nil {
		return err
	}
	if _, err := d.reread(op.Namespace); err != nil {
		return err
	}
	if err := sp.conn.set(unix.RTM_NEWLINK, 0, linkMsg(sp.of(name).index), noAddrGen()); err != nil {
		return wrap("set "+name, err)
	}
	_, err = d.reread(op.Namespace)
	return err
}

// setPort sets the inner end.
func (d *Driver) setPort(op hostops.SetPort) error {
	sp, name := d.spaces[op.Object], cmp.Or(op.Inner, inner)
	if sp == nil || sp.of(name).index == 0 {
		return os.ErrNotExist
	}
	if err := within(int(sp.file.Fd()), func() error { return preparePort(name, op.Forwards) }); err != nil {
		return wrap("set "+name, err)
	}
	m := linkMsg(sp.of(name).index)
	m.Flags, m.Change = unix.IFF_UP, unix.IFF_UP
	if err := sp.conn.set(unix.RTM_NEWLINK, 0, m, attr(unix.IFLA_MTU, u32(uint32(op.MTU)))); err != nil {
		return err
	}
	_, err := d.reread(op.Object)
	return err
}

// address adds or removes an address of the inner end.
func (d *Driver) address(namespace, name string, p netip.Prefix, add bool) error {
	sp := d.spaces[namespace]
	if sp == nil || sp.of(name).index == 0 {
		return ignoreGone(add)
	}
	m := addrMsg(sp.of(name).index, p)
	m.Flags = unix.IFA_F_NODAD
	raw := p.Addr().AsSlice()
	var err error
	if add {
		err = ignore(sp.conn.set(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m, attr(unix.IFA_LOCAL, raw), attr(unix.IFA_ADDRESS, raw)), unix.EEXIST)
	} else {
		err = ignore(sp.conn.set(unix.RTM_DELADDR, 0, m, attr(unix.IFA_LOCAL, raw), attr(unix.IFA_ADDRESS, raw)), unix.EADDRNOTAVAIL, unix.ENODEV)
	}
	if err != nil {
		return err
	}
	_, err = d.reread(namespace)
	return err
}

// ignoreGone: there is nothing to remove from what is not there.
func ignoreGone(add bool) error {
	if add {
		return os.ErrNotExist
	}
	return nil
}
