package fake

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

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

	// What the tables of its hosts have in common; nil: each has its own.
	addrs      *hostops.Usual[netip.Addr, struct{}]
	fdb        *hostops.Usual[cluster.MAC, netip.Addr]
	neighbours *hostops.Usual[netip.Addr, cluster.MAC]
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

// NewLargeNetwork is NewNetwork for thousands of hosts that have entries for each
// other. It is for one goroutine, with all its hosts and drivers.
func NewLargeNetwork() *Network {
	n := NewNetwork()
	n.addrs, n.fdb, n.neighbours = new(hostops.Usual[netip.Addr, struct{}]), new(hostops.Usual[cluster.MAC, netip.Addr]), new(hostops.Usual[netip.Addr, cluster.MAC])
	return n
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

// Host is the kernel of one host.
type Host struct {
	net *Network
	// Guarded by net.mu.
	state    hostops.State
	explicit map[string]bool // bridges whose MTU was set
	driver   *Driver
	loops    int
	writes   int
	ports    map[learned]string     // of bridges, by tunnel
	places   map[learned]netip.Addr // of tunnels

	rooms     map[string]*room // by path
	inodes    uint64           // of rooms so far
	routes    map[string]netip.Prefix
	announced map[string]int
	sightings map[station]hostops.Sighting
	unlimited bool // the kernel cannot bound floods
	floods    map[cluster.VNI]uint64
	drops     map[string]map[string]uint64 // by port and reason

	uptime func() time.Duration // nil: since it is first asked
	gate   time.Duration        // of uptime: when it shuts
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
	return locked(h, func() int { return h.state.Devices[tunnel].Flood.Len() })
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

// PowerCycle starts an empty kernel: what was configured by hand, which is the
// devices that are not ours, is there again, nothing else. No driver may be
// open.
func (h *Host) PowerCycle() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for _, n := range h.state.Namespaces {
		h.forget(n)
	}
	h.reboot()
	h.explicit, h.ports, h.places = map[string]bool{}, nil, nil
	h.gate = 0
	h.state = hostops.State{Devices: map[string]hostops.Device{}, Others: h.state.Others, Namespaces: map[string]hostops.Namespace{}}
}
