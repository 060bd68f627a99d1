package fake

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// What follows is the kernel: callers hold net.mu.

func (h *Host) taken(name string) bool {
	_, ours := h.state.Devices[name]
	_, other := h.state.Others[name]
	return ours || other
}

// holder reports whether a tunnel, ours or not, has this VNI, port and family.
func (h *Host) holder(v cluster.VNI, port uint16, v6 bool) bool {
	for _, d := range h.state.Devices {
		if d.Kind == hostops.KindTunnel && d.VNI == v && d.Port == port && d.Local.Is6() == v6 {
			return true
		}
	}
	for _, o := range h.state.Others {
		if o.Kind == hostops.KindTunnel && o.VNI == v && o.Port == port && o.V6 == v6 {
			return true
		}
	}
	return false
}

// set changes one of our devices.
func (h *Host) set(name string, f func(*hostops.Device)) error {
	d, ok := h.state.Devices[name]
	if !ok {
		return syscall.ENODEV
	}
	left := d.Master
	f(&d)
	h.state.Devices[name] = d
	if left != d.Master || d.Silent || !d.Up {
		h.unlearn(name, !d.Up)
	}
	if left != d.Master {
		h.follow(left)
	}
	h.follow(d.Master)
	return nil
}

func (h *Host) setMTU(name string, mtu int) error {
	d, ok := h.state.Devices[name]
	if !ok {
		return syscall.ENODEV
	}
	if d.Kind == hostops.KindTunnel {
		if under, ok := h.state.Others[d.Underlay]; ok && mtu > under.MTU-hostops.Overhead(d.Local) {
			return syscall.EINVAL
		}
	}
	if d.Kind == hostops.KindBridge && d.MTU != mtu {
		h.explicit[name] = true
	}
	return h.set(name, func(d *hostops.Device) { d.MTU = mtu })
}

// follow gives a bridge the least MTU of its ports, or the default without
// ports, unless it was set.
func (h *Host) follow(bridge string) {
	b, ok := h.state.Devices[bridge]
	if !ok || h.explicit[bridge] {
		return
	}
	least := 0
	for _, d := range h.state.Devices {
		if d.Master == bridge && (least == 0 || d.MTU < least) {
			least = d.MTU
		}
	}
	for _, port := range b.Ports {
		if mtu := h.state.Others[port].MTU; least == 0 || mtu < least {
			least = mtu
		}
	}
	b.MTU = cmp.Or(least, 1500)
	h.state.Devices[bridge] = b
}

// bridgeOf is the bridge that has a foreign device as a port, "" if none has.
func (h *Host) bridgeOf(port string) string {
	for name, d := range h.state.Devices {
		if slices.Contains(d.Ports, port) {
			return name
		}
	}
	return ""
}

// detach takes a foreign device out of its bridge.
func (h *Host) detach(port string) {
	name := h.bridgeOf(port)
	if b, ok := h.state.Devices[name]; ok {
		b.Ports = slices.DeleteFunc(slices.Clone(b.Ports), func(p string) bool { return p == port })
		for mac, at := range b.Heard.Clone().All() {
			if at.Port == port {
				h.unhear(name, mac)
			}
		}
		h.state.Devices[name] = b
		h.follow(name)
	}
}

func (h *Host) deleteDevice(name string) {
	d, ok := h.state.Devices[name]
	if !ok {
		return
	}
	delete(h.state.Devices, name)
	delete(h.explicit, name)
	h.unlearn(name, true)
	switch d.Kind {
	case hostops.KindBridge:
		delete(h.state.Filter.Seals, name)
		for port, o := range h.state.Others {
			if o.Master == name {
				o.Master = ""
				h.state.Others[port] = o
			}
		}
		for port, p := range h.state.Devices {
			if p.Master == name {
				master(&p, "")
				h.state.Devices[port] = p
				h.unlearn(port, false)
			}
		}
	case hostops.KindPort:
		h.closePair(name)
		for ns, n := range h.state.Namespaces {
			if n.Port != nil && n.Port.Peer == name {
				h.forget(n)
				n.Port = nil
				h.state.Namespaces[ns] = n
			}
			for inner, p := range n.Further {
				if p.Peer == name {
					h.setPortOf(ns, inner, nil)
				}
			}
		}
	}
	h.follow(d.Master)
}

// applyOp counts loops: a tunnel's port that forwards and is not isolated.
func (h *Host) applyOp(op hostops.Op) error {
	err := h.apply(op)
	switch op.(type) {
	case hostops.SetUp, hostops.SetMaster:
		if d := h.state.Devices[op.On().Object]; d.Kind == hostops.KindTunnel && d.Up && d.Master != "" && !d.Isolated {
			h.loops++
		}
	}
	return err
}

// apply performs one operation as the Linux driver does.
func (h *Host) apply(op hostops.Op) error {
	name := op.On().Object
	switch op := op.(type) {
	case hostops.CreateBridge:
		return h.create(name, hostops.Device{Kind: hostops.KindBridge, Owner: op.Owner, MTU: 1500})
	case hostops.CreateTunnel:
		return h.createTunnel(op)
	case hostops.SetUnderlay:
		if err := h.hasLocal(op.Underlay, op.Local); err != nil {
			return err
		}
		if h.state.Devices[name].Group.IsValid() {
			return syscall.EBUSY // Linux would go on to flood to it by the old device
		}
		return h.set(name, func(d *hostops.Device) {
			d.Local, d.Underlay = op.Local, op.Underlay
			d.MTU = min(d.MTU, h.state.Others[op.Underlay].MTU-hostops.Overhead(op.Local))
		})
	case hostops.SetBridge, hostops.SetQuiet:
		return h.set(name, func(d *hostops.Device) { d.Quiet = true })
	case hostops.SetLearning:
		if d, ok := h.state.Devices[name]; ok && d.Kind != hostops.KindTunnel {
			return syscall.EOPNOTSUPP
		}
		return h.set(name, func(d *hostops.Device) { d.Learning = op.Enabled })
	case hostops.SetGroup:
		return h.setGroup(name, op.Group)
	case hostops.SetSending, hostops.SetIsolated, hostops.ResetPort, hostops.PinMAC:
		return h.setPort(op)
	case hostops.SetOwner:
		return h.set(name, func(d *hostops.Device) { d.Owner = op.Owner })
	case hostops.SetAlias:
		return h.set(name, func(d *hostops.Device) { d.Alias = op.Alias })
	case hostops.SetMTU:
		return h.setMTU(name, op.MTU)
	case hostops.SetMaster:
		if _, ok := h.state.Devices[op.Bridge]; !ok {
			return syscall.ENODEV
		}
		if h.state.Devices[name].Kind == hostops.KindBridge {
			return syscall.ELOOP
		}
		return h.set(name, func(d *hostops.Device) { master(d, op.Bridge) })
	case hostops.StripAddress:
		return h.set(name, func(d *hostops.Device) {
			d.Addresses = slices.DeleteFunc(slices.Clone(d.Addresses), func(p netip.Prefix) bool { return p == op.Address })
		})
	case hostops.SetUp:
		return h.set(name, func(d *hostops.Device) { d.Up = true })
	case hostops.SetDown:
		return h.set(name, func(d *hostops.Device) { d.Up = false })
	case hostops.DeleteDevice:
		if _, foreign := h.state.Others[name]; foreign || h.state.Devices[name].Use == hostops.UseLent {
			return hostops.ErrForeign
		}
		h.deleteDevice(name)
	case hostops.DeleteDevices:
		for _, n := range slices.Sorted(maps.Keys(h.state.Devices)) {
			switch d, ok := h.state.Devices[n]; {
			case !ok || d.Owner != op.Owner:
			case d.Use == hostops.UseLent:
				h.giveBack(n)
			default:
				h.deleteDevice(n)
			}
		}
	case hostops.AddPeer:
		return h.addPeer(op)
	case hostops.RemovePeer:
		if d, ok := h.state.Devices[name]; ok {
			d.Flood.Delete(op.Peer)
		}
	case hostops.SetFDB:
		return h.setFDB(name, op.MAC, op.Peer, op.Yields)
	case hostops.RemoveFDB:
		if d, ok := h.state.Devices[name]; ok {
			if d.Master == "" {
				return syscall.EOPNOTSUPP // there is but one of the two tables
			}
			d.FDB.Delete(op.MAC)
			d.Yielding.Delete(op.MAC)
		}
	case hostops.Forget:
		h.forgetPeer(name, op.Peer)
	default:
		if done, err := h.applyStatic(op); done {
			return err
		}
		return h.applyPort(op)
	}
	return nil
}

// setPort changes how a bridge treats a port. What a tunnel's port may be is odd
// on that of a namespace.
func (h *Host) setPort(op hostops.Op) error {
	name := op.On().Object
	if d, ok := h.state.Devices[name]; ok && d.Master == "" {
		if _, reset := op.(hostops.ResetPort); reset {
			return nil // there is nothing to take back
		}
		return syscall.EOPNOTSUPP
	}
	return h.set(name, func(d *hostops.Device) {
		tunnel := d.Kind == hostops.KindTunnel
		switch op := op.(type) {
		case hostops.SetStatic:
			d.Sends, d.Static, d.Silent = false, tunnel, false
			d.Odd = d.Odd || !tunnel
		case hostops.SetSending:
			d.Sends, d.Static, d.Silent = tunnel && op.Enabled, false, tunnel && !op.Enabled
			d.Odd = d.Odd || !tunnel && !op.Enabled
		case hostops.SetIsolated:
			d.Isolated = true
			d.Odd = d.Odd || !tunnel
		case hostops.ResetPort:
			d.Odd = false
			d.Isolated = d.Isolated && tunnel
		case hostops.PinMAC:
			d.Pinned = op.MAC
		}
	})
}

// master makes a device a port of a bridge: of what the last one was told of
// the port, nothing stays.
func master(d *hostops.Device, bridge string) {
	if d.Master == bridge {
		return
	}
	d.Master, d.Isolated, d.Odd, d.Pinned = bridge, false, false, cluster.MAC{}
	d.Sends, d.Static, d.Silent = bridge != "" && d.Kind == hostops.KindTunnel, false, false
	for mac := range d.FDB.Keys() {
		d.FDB.Set(mac, netip.Addr{})
	}
	d.Yielding = nil
}

// setFDB sets an entry in both tables. The bridge's is one for all its ports. One that
// does not yield stays so.
func (h *Host) setFDB(tunnel string, mac cluster.MAC, peer netip.Addr, yields bool) error {
	d, ok := h.state.Devices[tunnel]
	if !ok {
		return syscall.ENODEV
	}
	if d.Local.Is6() != peer.Is6() {
		return syscall.EAFNOSUPPORT
	}
	for name, other := range h.state.Devices {
		if name != tunnel && d.Master != "" && other.Master == d.Master && other.FDB.Has(mac) {
			other.FDB.Set(mac, netip.Addr{})
		}
	}
	if d.Master == "" {
		peer = netip.Addr{}
	}
	firm := d.FDB.Has(mac) && !d.Yielding.Has(mac)
	d.FDB.Set(mac, peer)
	if yields && !firm {
		if d.Yielding == nil {
			d.Yielding = hostops.NewTable[cluster.MAC, struct{}]()
			h.state.Devices[tunnel] = d
		}
		d.Yielding.Set(mac, struct{}{})
	} else {
		d.Yielding.Delete(mac)
	}
	h.unhear(d.Master, mac)
	return nil
}

func (h *Host) create(name string, d hostops.Device) error {
	if old, ok := h.state.Devices[name]; ok && old.Owner == d.Owner {
		return nil
	}
	if h.taken(name) {
		return hostops.ErrForeign
	}
	h.state.Devices[name] = d
	return nil
}

func (h *Host) hasLocal(device string, local netip.Addr) error {
	o, ok := h.state.Others[device]
	if !ok {
		return syscall.ENODEV
	}
	if !slices.ContainsFunc(o.Addresses, func(p netip.Prefix) bool { return p.Addr() == local }) {
		return syscall.EADDRNOTAVAIL
	}
	return nil
}

func (h *Host) createTunnel(op hostops.CreateTunnel) error {
	if err := h.hasLocal(op.Underlay, op.Local); err != nil {
		return err
	}
	if !h.taken(op.Object) && h.holder(op.VNI, op.Port, op.Local.Is6()) {
		return hostops.ErrForeign
	}
	flood := h.net.addrs.NewTable()
	if op.Group.IsValid() {
		if op.Group.Is6() != op.Local.Is6() {
			return syscall.EINVAL
		}
		flood.Set(op.Group, struct{}{})
	}
	if op.MTU > h.state.Others[op.Underlay].MTU-hostops.Overhead(op.Local) {
		return syscall.EINVAL
	}
	return h.create(op.Object, hostops.Device{
		Kind: hostops.KindTunnel, Owner: op.Owner, VNI: op.VNI, Local: op.Local, Underlay: op.Underlay, Port: op.Port,
		MTU: op.MTU, Alias: op.Alias, Quiet: true, Group: op.Group, Learning: op.Learning, Flood: flood, FDB: h.net.fdb.NewTable(),
	})
}

// setGroup refuses what would have no effect: a tunnel joins as it comes up.
func (h *Host) setGroup(name string, group netip.Addr) error {
	d, ok := h.state.Devices[name]
	switch {
	case !ok:
		return syscall.ENODEV
	case d.Kind != hostops.KindTunnel:
		return syscall.EOPNOTSUPP
	case d.Up:
		return syscall.EBUSY
	case group.IsValid() && group.Is6() != d.Local.Is6():
		return syscall.EINVAL
	}
	flood := d.Flood.Clone()
	flood.Delete(d.Group)
	if group.IsValid() {
		flood.Set(group, struct{}{})
	}
	return h.set(name, func(d *hostops.Device) { d.Group, d.Flood = group, flood })
}

func (h *Host) addPeer(op hostops.AddPeer) error {
	d, ok := h.state.Devices[op.Object]
	if !ok {
		return syscall.ENODEV
	}
	if d.Local.Is6() != op.Peer.Is6() {
		return syscall.EAFNOSUPPORT
	}
	d.Flood.Set(op.Peer, struct{}{})
	return nil
}
