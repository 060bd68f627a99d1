package fake

import (
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// tamper changes the host behind the driver's back.
func (h *Host) tamper(f func() error) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	err := f()
	if err == nil && h.driver != nil {
		h.driver.signal()
	}
	return err
}

// DeleteDevice deletes any device.
func (h *Host) DeleteDevice(name string) error {
	return h.tamper(func() error {
		if _, ok := h.state.Others[name]; ok {
			delete(h.state.Others, name)
			for _, tunnel := range slices.Sorted(maps.Keys(h.state.Devices)) {
				if h.state.Devices[tunnel].Underlay == name { // the kernel takes its tunnels along
					h.deleteDevice(tunnel)
				}
			}
			h.detach(name)
			return nil
		}
		if _, ok := h.state.Devices[name]; !ok {
			return syscall.ENODEV
		}
		h.deleteDevice(name)
		return nil
	})
}

// SetMTU sets a device's MTU in bytes.
func (h *Host) SetMTU(name string, mtu int) error {
	return h.tamper(func() error {
		if o, ok := h.state.Others[name]; ok {
			o.MTU = mtu
			h.state.Others[name] = o
			h.follow(h.bridgeOf(name))
			return nil
		}
		return h.setMTU(name, mtu)
	})
}

// SetUp brings a device up or down.
func (h *Host) SetUp(name string, up bool) error {
	return h.tamper(func() error {
		if o, ok := h.state.Others[name]; ok {
			o.Up = up
			h.state.Others[name] = o
			return nil
		}
		return h.set(name, func(d *hostops.Device) { d.Up = up })
	})
}

// SetIsolated sets or clears a port's isolation.
func (h *Host) SetIsolated(name string, yes bool) error {
	return h.change(name, func(d *hostops.Device) { d.Isolated = yes })
}

// SetMaster makes a device a port of a bridge; "" takes it out.
func (h *Host) SetMaster(name, bridge string) error {
	return h.tamper(func() error {
		if _, ok := h.state.Others[name]; ok {
			h.detach(name)
			o := h.state.Others[name]
			o.Master = bridge
			h.state.Others[name] = o
			if b, ok := h.state.Devices[bridge]; ok {
				b.Ports = append(slices.Clone(b.Ports), name)
				slices.Sort(b.Ports)
				h.state.Devices[bridge] = b
			}
			h.follow(bridge)
			return nil
		}
		return h.set(name, func(d *hostops.Device) { master(d, bridge) })
	})
}

// AddPeer adds a flood list entry.
func (h *Host) AddPeer(tunnel string, peer netip.Addr) error {
	return h.change(tunnel, func(d *hostops.Device) { d.Flood.Set(peer, struct{}{}) })
}

// RemovePeer removes a flood list entry.
func (h *Host) RemovePeer(tunnel string, peer netip.Addr) error {
	return h.change(tunnel, func(d *hostops.Device) { d.Flood.Delete(peer) })
}

// SetFDB sets an FDB entry in a tunnel's table and its bridge's.
func (h *Host) SetFDB(tunnel string, mac cluster.MAC, peer netip.Addr) error {
	return h.tamper(func() error { return h.setFDB(tunnel, mac, peer, false) })
}

// RemoveFDB removes an FDB entry from a tunnel's table, or from its bridge's.
func (h *Host) RemoveFDB(tunnel string, mac cluster.MAC, bridge bool) error {
	return h.change(tunnel, func(d *hostops.Device) {
		if d.FDB.Has(mac) {
			d.FDB.Set(mac, netip.Addr{})
		}
	})
}

// SetNeighbour sets a namespace's neighbour.
func (h *Host) SetNeighbour(namespace string, a netip.Addr, mac cluster.MAC) error {
	return h.tamper(func() error {
		n := h.state.Namespaces[namespace]
		if n.Port == nil {
			return syscall.ENODEV
		}
		n.Port.Neighbours.Set(a, mac)
		return nil
	})
}

// RemoveNeighbour removes a namespace's neighbour.
func (h *Host) RemoveNeighbour(namespace string, a netip.Addr) error {
	return h.tamper(func() error {
		n := h.state.Namespaces[namespace]
		if n.Port == nil {
			return syscall.ENODEV
		}
		n.Port.Neighbours.Delete(a)
		return nil
	})
}

// RemoveAddress removes an address in a namespace.
func (h *Host) RemoveAddress(namespace string, p netip.Prefix) error {
	return h.tamper(func() error {
		n := h.state.Namespaces[namespace]
		for _, inner := range append(slices.Collect(maps.Keys(n.Further)), hostops.InnerVTEP) {
			if port := portOf(n, inner); port != nil && slices.Contains(port.Addresses, p) {
				h.address(namespace, inner, p, false)
				return nil
			}
		}
		return syscall.EADDRNOTAVAIL
	})
}

// DeleteNamespace unpins a namespace and ends it.
func (h *Host) DeleteNamespace(name string) error {
	return h.tamper(func() error {
		if _, ok := h.state.Namespaces[name]; !ok {
			return syscall.ENOENT
		}
		h.deleteNamespace(name)
		return nil
	})
}

// WipeFilter removes every table, as `nft flush ruleset` does.
func (h *Host) WipeFilter() error {
	return h.tamper(func() error {
		h.state.Filter = hostops.Filter{}
		return nil
	})
}

// SetFlag switches a setting of a port: of a tunnel's, one of those that make it
// send, or else to what is odd there.
func (h *Host) SetFlag(port, flag string, yes bool) error {
	return h.change(port, func(d *hostops.Device) {
		sending := flag == "flood" || flag == "mcast_flood" || flag == "bcast_flood" || flag == "learning"
		switch {
		case d.Master == "":
		case d.Kind == hostops.KindTunnel && sending:
			d.Sends, d.Silent, d.Static = yes && !d.Silent && !d.Static, !yes && !d.Sends && !d.Static, false
		default:
			d.Odd = true
		}
	})
}

// SetSTP switches a bridge's STP.
func (h *Host) SetSTP(bridge string, yes bool) error {
	return h.change(bridge, func(d *hostops.Device) { d.Quiet = !yes })
}

// AddAddress adds an address to any device.
func (h *Host) AddAddress(device string, p netip.Prefix) error {
	return h.tamper(func() error {
		if o, ok := h.state.Others[device]; ok {
			o.Addresses = append(slices.Clone(o.Addresses), p)
			h.state.Others[device] = o
			return nil
		}
		return h.set(device, func(d *hostops.Device) { d.Addresses = append(slices.Clone(d.Addresses), p) })
	})
}

// AddDevice adds a device that is not ours, with the attributes of o.
func (h *Host) AddDevice(name string, o hostops.Other) error {
	return h.tamper(func() error {
		if h.taken(name) || (o.Kind == hostops.KindTunnel && h.holder(o.VNI, o.Port, o.V6)) {
			return syscall.EEXIST
		}
		h.state.Others[name] = o
		return nil
	})
}

// AddNamespace adds a namespace that is not ours.
func (h *Host) AddNamespace(name string) error {
	return h.tamper(func() error {
		if _, ok := h.state.Namespaces[name]; ok {
			return syscall.EEXIST
		}
		h.state.Namespaces[name] = hostops.Namespace{}
		return nil
	})
}

// SetAddresses replaces the addresses of a device that is not ours.
func (h *Host) SetAddresses(device string, as ...netip.Prefix) error {
	return h.tamper(func() error {
		o, ok := h.state.Others[device]
		if !ok {
			return syscall.ENODEV
		}
		o.Addresses = as
		h.state.Others[device] = o
		return nil
	})
}

func (h *Host) change(name string, f func(*hostops.Device)) error {
	return h.tamper(func() error { return h.set(name, f) })
}
