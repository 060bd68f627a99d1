package fake

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Network is an underlay that reaches every address of its hosts. It is safe
// for concurrent use.
type Network struct {
	mu    sync.Mutex // guards all hosts too: a ping looks at two
	vteps map[vtep]map[*Host]struct{}
	cuts  map[[2]netip.Addr]bool
	// dumb: multicast is not carried.
	dumb   bool
	groups map[greetKey]map[*Host]*greeter
}

// vtep is one VTEP address in one VPC; more hosts than one may hold it by
// mistake.
type vtep struct {
	vni  cluster.VNI
	addr netip.Addr
}

// NewNetwork makes an underlay without hosts.
func NewNetwork() *Network {
	return &Network{vteps: map[vtep]map[*Host]struct{}{}, cuts: map[[2]netip.Addr]bool{}}
}

// Cut loses all packets from one underlay address to another, until Heal.
func (n *Network) Cut(from, to netip.Addr) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[[2]netip.Addr{from, to}] = true
}

// Heal takes all cuts back.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
}

// Multicast tells whether the underlay carries multicast, as at first it does.
func (n *Network) Multicast(yes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dumb = !yes
}

// greetKey is what a greeting is heard by.
type greetKey struct {
	group netip.Addr
	vni   cluster.VNI
}

// greeter is one host in a group, and whom it has heard.
type greeter struct {
	local netip.Addr
	heard []netip.Addr
}

// Greet implements hostops.Driver.
func (d *Driver) Greet(g hostops.Greeting) ([]netip.Addr, error) {
	h, n := d.host, d.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := h.hasLocal(g.Device, g.Local); err != nil {
		return nil, err
	}
	key := greetKey{g.Group, g.VNI}
	if n.groups == nil {
		n.groups = map[greetKey]map[*Host]*greeter{}
	}
	if n.groups[key] == nil {
		n.groups[key] = map[*Host]*greeter{}
	}
	me := n.groups[key][h]
	if me == nil {
		me = &greeter{}
		n.groups[key][h] = me
	}
	me.local = g.Local
	for other, o := range n.groups[key] {
		if other != h && !n.dumb && !n.cuts[[2]netip.Addr{g.Local, o.local}] && !slices.Contains(o.heard, g.Local) {
			o.heard = append(o.heard, g.Local)
		}
	}
	heard := me.heard
	me.heard = nil
	return heard, nil
}

// Host is the kernel of one host.
type Host struct {
	net *Network
	// Guarded by net.mu.
	state    hostops.State
	explicit map[string]bool // bridges whose MTU was set
	driver   *Driver
	loops    int
	writes   int
}

// NewHost makes a host with one device for each distinct Device of addresses.
func (n *Network) NewHost(addresses ...hostops.Address) *Host {
	h := &Host{net: n, explicit: map[string]bool{}, state: hostops.State{
		Devices: map[string]hostops.Device{}, Others: map[string]hostops.Other{}, Namespaces: map[string]hostops.Namespace{},
	}}
	for _, a := range addresses {
		o := h.state.Others[a.Device]
		o.MTU, o.Up = a.MTU, a.Up
		o.Addresses = append(o.Addresses, a.Prefix)
		h.state.Others[a.Device] = o
	}
	return h
}

// Loops counts how often a tunnel's port could have forwarded to another's.
func (h *Host) Loops() int { return locked(h, func() int { return h.loops }) }

// Writes counts the operations that drivers applied.
func (h *Host) Writes() int { return locked(h, func() int { return h.writes }) }

// Flood counts the peers in a tunnel's flood list.
func (h *Host) Flood(tunnel string) int {
	return locked(h, func() int { return len(h.state.Devices[tunnel].Flood) })
}

// State is a copy of all that the host carries.
func (h *Host) State() hostops.State {
	return locked(h, func() hostops.State { return h.state.Clone() })
}

func locked[T any](h *Host, f func() T) T {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return f()
}

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

// Devices are the names of all devices, sorted.
func (h *Host) Devices() []string {
	return locked(h, func() []string {
		return slices.Sorted(func(yield func(string) bool) {
			for name := range h.state.Devices {
				if !yield(name) {
					return
				}
			}
			for name := range h.state.Others {
				if !yield(name) {
					return
				}
			}
		})
	})
}

// Namespaces are the names of all pinned namespaces, sorted.
func (h *Host) Namespaces() []string {
	return locked(h, func() []string { return slices.Sorted(maps.Keys(h.state.Namespaces)) })
}

// HasFilter reports whether a table of our name is there.
func (h *Host) HasFilter() bool {
	return locked(h, func() bool { return h.state.Filter.Exists || h.state.Filter.Foreign })
}

// Hears reports whether a frame for the host that comes in by a port of the
// bridge gets there.
func (h *Host) Hears(bridge string) bool {
	return locked(h, func() bool {
		_, sealed := h.state.Filter.Seals[bridge]
		return h.state.Devices[bridge].Up && !sealed
	})
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
			return nil
		}
		return h.setMTU(name, mtu)
	})
}

// SetUp brings a device up or down.
func (h *Host) SetUp(name string, up bool) error {
	return h.change(name, func(d *hostops.Device) { d.Up = up })
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
	return h.change(tunnel, func(d *hostops.Device) { d.Flood[peer] = struct{}{} })
}

// RemovePeer removes a flood list entry.
func (h *Host) RemovePeer(tunnel string, peer netip.Addr) error {
	return h.change(tunnel, func(d *hostops.Device) { delete(d.Flood, peer) })
}

// SetFDB sets an FDB entry in a tunnel's table and its bridge's.
func (h *Host) SetFDB(tunnel string, mac cluster.MAC, peer netip.Addr) error {
	return h.tamper(func() error { return h.setFDB(tunnel, mac, peer) })
}

// RemoveFDB removes an FDB entry from a tunnel's table, or from its bridge's.
func (h *Host) RemoveFDB(tunnel string, mac cluster.MAC, bridge bool) error {
	return h.change(tunnel, func(d *hostops.Device) {
		if _, there := d.FDB[mac]; there {
			d.FDB[mac] = netip.Addr{}
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
		n.Port.Neighbours[a] = mac
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
		delete(n.Port.Neighbours, a)
		return nil
	})
}

// RemoveAddress removes an address in a namespace.
func (h *Host) RemoveAddress(namespace string, p netip.Prefix) error {
	return h.tamper(func() error {
		n := h.state.Namespaces[namespace]
		if n.Port == nil || !slices.Contains(n.Port.Addresses, p) {
			return syscall.EADDRNOTAVAIL
		}
		h.address(namespace, p, false)
		return nil
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
			d.Sends, d.Silent = yes && !d.Silent, !yes && !d.Sends
		default:
			d.Odd = true
		}
	})
}

// SetSTP switches a bridge's STP.
func (h *Host) SetSTP(bridge string, yes bool) error {
	return h.change(bridge, func(d *hostops.Device) { d.Quiet = !yes })
}

// AddAddress adds an address to a device of ours.
func (h *Host) AddAddress(device string, p netip.Prefix) error {
	return h.change(device, func(d *hostops.Device) { d.Addresses = append(slices.Clone(d.Addresses), p) })
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

// PowerCycle starts an empty kernel: what was configured by hand, which is the
// devices that are not ours, is there again, nothing else. No driver may be
// open.
func (h *Host) PowerCycle() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, n := range h.state.Namespaces {
		h.forget(n)
	}
	h.explicit = map[string]bool{}
	h.state = hostops.State{Devices: map[string]hostops.Device{}, Others: h.state.Others, Namespaces: map[string]hostops.Namespace{}}
}
