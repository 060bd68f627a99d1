package fake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// room is the network namespace of a workload.
type room struct {
	id      int
	inode   uint64
	devices map[string]*Inner
}

// Inner is a device in the namespace of a workload.
type Inner struct {
	Peer      string // the device at the host's end, "" if it is somebody else's
	MAC       cluster.MAC
	MTU       int // bytes
	Up        bool
	Addresses []netip.Prefix
	Routes    []cluster.Route
}

// Spaces implements hostops.Driver.
func (d *Driver) Spaces(_ context.Context, paths []string) map[string]hostops.Space {
	return locked(d.host, func() map[string]hostops.Space {
		out := map[string]hostops.Space{}
		for _, path := range paths {
			out[path] = hostops.Space{ID: -1}
			if r := d.host.rooms[path]; r != nil {
				out[path] = hostops.Space{Inode: r.inode, ID: r.id}
			}
		}
		return out
	})
}

// Drops implements hostops.Dropper.
func (d *Driver) Drops(context.Context) (map[string]uint64, error) {
	return locked(d.host, func() map[string]uint64 {
		out := map[string]uint64{}
		for _, reason := range hostops.DropReasons() {
			for _, of := range d.host.drops {
				out[reason] += of[reason]
			}
		}
		return out
	}), nil
}

// PortDrops implements hostops.Dropper.
func (d *Driver) PortDrops(context.Context) (map[string]map[string]uint64, error) {
	return locked(d.host, func() map[string]map[string]uint64 {
		out := map[string]map[string]uint64{}
		for device, of := range d.host.drops {
			out[device] = maps.Clone(of)
		}
		return out
	}), nil
}

// Drop has the filter drop n frames of a port for one of hostops.DropReasons.
func (h *Host) Drop(device, reason string, n uint64) {
	locked(h, func() bool {
		if h.drops == nil {
			h.drops = map[string]map[string]uint64{}
		}
		if h.drops[device] == nil {
			h.drops[device] = map[string]uint64{}
		}
		h.drops[device][reason] += n
		return true
	})
}

// Announced counts announcements by device.
func (h *Host) Announced(device string) int {
	return locked(h, func() int { return h.announced[device] })
}

// NewRoom makes a namespace for a workload and returns its path. An earlier one of
// that name goes on as long as something else holds it.
func (h *Host) NewRoom(name string) (path string, err error) {
	path = "/run/rooms/" + name
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.rooms == nil {
		h.rooms = map[string]*room{}
	}
	h.inodes++
	h.rooms[path] = &room{id: int(h.inodes), inode: 4026532000 + h.inodes, devices: map[string]*Inner{}}
	return path, nil
}

// EndRoom ends a namespace of a workload: the kernel takes its devices along, and
// the other ends of their pairs.
func (h *Host) EndRoom(path string) error {
	return h.tamper(func() error {
		r := h.rooms[path]
		if r == nil {
			return os.ErrNotExist
		}
		delete(h.rooms, path)
		for _, in := range r.devices {
			if in.Peer != "" {
				h.deleteDevice(in.Peer)
			}
		}
		return nil
	})
}

// AddInRoom makes a device in a workload's namespace that is not ours.
func (h *Host) AddInRoom(path, name string) error {
	return h.tamper(func() error {
		r := h.rooms[path]
		switch {
		case r == nil:
			return os.ErrNotExist
		case r.devices[name] != nil:
			return syscall.EEXIST
		}
		r.devices[name] = &Inner{MTU: 1500}
		return nil
	})
}

// InRoom is a device in a workload's namespace.
func (h *Host) InRoom(path, name string) (Inner, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	r := h.rooms[path]
	if r == nil || r.devices[name] == nil {
		return Inner{}, os.ErrNotExist
	}
	return *r.devices[name], nil
}

// AddRoute adds a route by a device that is not ours.
func (h *Host) AddRoute(device string, p netip.Prefix) error {
	return h.tamper(func() error {
		if _, ok := h.state.Others[device]; !ok {
			return syscall.ENODEV
		}
		if h.routes == nil {
			h.routes = map[string]netip.Prefix{}
		}
		h.routes[device] = p
		return nil
	})
}

// applyPort performs the operations on workloads' ports.
func (h *Host) applyPort(op hostops.Op) error {
	name := op.On().Object
	switch op := op.(type) {
	case hostops.CreatePair:
		return h.createPair(op)
	case hostops.SetInner:
		return h.setInner(op)
	case hostops.CreateTap:
		return h.create(name, hostops.Device{Kind: hostops.KindTap, Use: hostops.UseMade, Owner: op.Owner, MTU: 1500, User: op.User})
	case hostops.SetTap:
		if d, ok := h.state.Devices[name]; ok && d.Kind != hostops.KindTap {
			return syscall.EINVAL
		}
		return h.set(name, func(d *hostops.Device) { d.User = op.User })
	case hostops.Lend:
		return h.lend(op)
	case hostops.GiveBack:
		h.giveBack(name)
	case hostops.UnpinMAC:
		return h.set(name, func(d *hostops.Device) {
			if d.Pinned == op.MAC {
				d.Pinned = cluster.MAC{}
			}
		})
	case hostops.Announce:
		if _, ok := h.state.Devices[op.Bridge]; !ok {
			return syscall.ENODEV
		}
		if h.announced == nil {
			h.announced = map[string]int{}
		}
		h.announced[name]++
	default:
		return h.applyNamespace(op)
	}
	return nil
}

// room opens the namespace of a workload.
func (h *Host) room(path string, inode uint64) (*room, error) {
	r := h.rooms[path]
	if r == nil || inode != 0 && inode != r.inode {
		return nil, fmt.Errorf("%s: %w", path, hostops.ErrGone)
	}
	return r, nil
}

func (h *Host) createPair(op hostops.CreatePair) error {
	r, err := h.room(op.Namespace, op.Inode)
	if err != nil {
		return err
	}
	if old, ok := h.state.Devices[op.Object]; ok && old.Owner == op.Owner && old.Space == r.id {
		return nil
	}
	if _, ours := hostops.OwnDevice(op.Object, hostops.KindPort, hostops.GroupFor(hostops.UseMade, op.Owner)); !ours || h.taken(op.Object) {
		return hostops.ErrForeign
	}
	if r.devices[op.Inner] != nil {
		return fmt.Errorf("device %s is in %s already: %w", op.Inner, op.Namespace, hostops.ErrForeign)
	}
	r.devices[op.Inner] = &Inner{Peer: op.Object, MAC: op.MAC, MTU: op.MTU}
	h.state.Devices[op.Object] = hostops.Device{
		Kind: hostops.KindPort, Use: hostops.UseMade, Owner: op.Owner, MTU: op.MTU, Space: r.id,
	}
	return nil
}

// innerOf finds the other end of a pair.
func (h *Host) innerOf(device string) (*room, string) {
	for _, r := range h.rooms {
		for name, in := range r.devices {
			if in.Peer == device {
				return r, name
			}
		}
	}
	return nil, ""
}

func (h *Host) setInner(op hostops.SetInner) error {
	if _, ok := h.state.Devices[op.Object]; !ok {
		return syscall.ENODEV
	}
	want, err := h.room(op.Namespace, op.Inode)
	if err != nil {
		return err
	}
	r, name := h.innerOf(op.Object)
	if r != want {
		return fmt.Errorf("%s: %w", op.Namespace, hostops.ErrGone)
	}
	if name != op.Inner {
		if r.devices[op.Inner] != nil {
			return fmt.Errorf("device %s is in %s already: %w", op.Inner, op.Namespace, hostops.ErrForeign)
		}
		r.devices[op.Inner] = r.devices[name]
		delete(r.devices, name)
	}
	in := r.devices[op.Inner]
	in.MAC, in.MTU, in.Up, in.Routes = op.MAC, op.MTU, true, slices.Clone(op.Routes)
	if len(op.Addresses) > 0 {
		in.Addresses = slices.Clone(op.Addresses)
	}
	return nil
}

func (h *Host) lend(op hostops.Lend) error {
	if d, ok := h.state.Devices[op.Object]; ok {
		if d.Use != hostops.UseLent {
			return hostops.ErrForeign
		}
		d.Owner, d.Quiet = op.Owner, true
		h.state.Devices[op.Object] = d
		return nil
	}
	o, ok := h.state.Others[op.Object]
	if !ok {
		return syscall.ENODEV
	}
	if p, ok := h.routes[op.Object]; ok {
		return fmt.Errorf("it has the route %s: %w", p, hostops.ErrInUse)
	}
	for _, a := range o.Addresses {
		if !a.Addr().Is6() || !a.Addr().IsLinkLocalUnicast() {
			return fmt.Errorf("it has the address %s: %w", a, hostops.ErrInUse)
		}
	}
	if o.Master != "" || o.Kind == hostops.KindBridge || o.Kind == hostops.KindTunnel {
		return hostops.ErrInUse
	}
	delete(h.state.Others, op.Object)
	h.state.Devices[op.Object] = hostops.Device{Kind: o.Kind, Use: hostops.UseLent, Owner: op.Owner, MTU: o.MTU, Up: o.Up, Quiet: true}
	return nil
}

func (h *Host) giveBack(name string) {
	d, ok := h.state.Devices[name]
	if !ok || d.Use != hostops.UseLent {
		return
	}
	h.deleteDevice(name)
	h.state.Others[name] = hostops.Other{Kind: d.Kind, MTU: d.MTU, Addresses: d.Addresses}
}

// closePair removes the other end of a pair.
func (h *Host) closePair(device string) {
	if r, name := h.innerOf(device); r != nil {
		delete(r.devices, name)
	}
}

// reboot ends all namespaces of workloads, and leaves what was lent.
func (h *Host) reboot() {
	h.rooms = nil
	for _, name := range slices.Sorted(maps.Keys(h.state.Devices)) {
		h.giveBack(name)
	}
}
