package fake

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/hostops"
)

// learned is what a host has learned of the MAC of a workload on another.
type learned struct {
	by string // the bridge, or the tunnel
	of *Host
}

// Tell has a workload of a VPC on one host send a frame to one on another, to its
// MAC, and reports whether it arrived. A bridge that has not learned the MAC sends it
// by each tunnel, and a tunnel that has not to each peer that it floods to. As the
// kernel does, bridges and shared tunnels learn where it came from and send there
// next time, whatever the flood lists say; they forget nothing for its age.
func (n *Network) Tell(from, to *Host, vpc string) (arrived bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	port, known := from.ports[learned{vpc, to}]
	owner := from.state.Devices[vpc].Owner
	for _, name := range slices.Sorted(maps.Keys(from.state.Devices)) {
		s, r := from.state.Devices[name], to.state.Devices[name]
		if known && name != port || !n.carries(from, to, s, r, owner, 0) {
			continue
		}
		if at, ok := from.places[learned{name, to}]; ok && at != r.Local || !ok && n.floods(s, r) == 0 || s.Silent {
			continue
		}
		arrived = true
		to.learn(name, r, from, s.Local)
	}
	return arrived
}

// learn takes in where a frame came from: by which tunnel, from which address.
func (h *Host) learn(tunnel string, d hostops.Device, from *Host, at netip.Addr) {
	if h.ports == nil {
		h.ports, h.places = map[learned]string{}, map[learned]netip.Addr{}
	}
	if d.Learning {
		h.places[learned{tunnel, from}] = at
	}
	if !d.Silent {
		h.ports[learned{d.Master, from}] = tunnel
	}
}

// unlearn forgets what was learned behind a port. A tunnel that is down has
// forgotten itself what it learned.
func (h *Host) unlearn(port string, down bool) {
	maps.DeleteFunc(h.ports, func(_ learned, by string) bool { return by == port })
	if down {
		maps.DeleteFunc(h.places, func(l learned, _ netip.Addr) bool { return l.by == port })
	}
}

// forgetPeer forgets what a tunnel has learned to be at a peer, and its bridge too.
func (h *Host) forgetPeer(tunnel string, peer netip.Addr) {
	bridge := h.state.Devices[tunnel].Master
	for l, at := range h.places {
		if l.by != tunnel || at != peer {
			continue
		}
		delete(h.places, l)
		if on := (learned{bridge, l.of}); h.ports[on] == tunnel {
			delete(h.ports, on)
		}
	}
}
