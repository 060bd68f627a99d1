package fake

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

var _ hostops.Listener = (*Driver)(nil)

// Listen implements hostops.Listener.
func (d *Driver) Listen(ctx context.Context, bridges []string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return locked(d.host, func() error {
		for _, b := range bridges {
			if d.counts[b] == 0 {
				d.counts[b] = 1
				for s, at := range d.host.sightings {
					if s.bridge == b {
						d.host.hear(s, at, 0)
					}
				}
			}
		}
		for b := range d.counts {
			if !slices.Contains(bridges, b) {
				delete(d.counts, b)
			}
		}
		return nil
	})
}

// Heard implements hostops.Listener.
func (d *Driver) Heard(bridge string) *hostops.Table[cluster.MAC, hostops.Heard] {
	return locked(d.host, func() *hostops.Table[cluster.MAC, hostops.Heard] {
		if d.counts[bridge] == 0 {
			return nil
		}
		return d.host.state.Devices[bridge].Heard.Clone()
	})
}

// Hears implements hostops.Listener.
func (d *Driver) Hears() <-chan struct{} { return d.hears }

// Learned has a bridge learn a MAC: s without a device forgets it. As the kernel does,
// it learns nothing of one that it was told for good, and gives up what yields.
func (h *Host) Learned(bridge string, mac cluster.MAC, s hostops.Sighting) {
	locked(h, func() bool {
		if h.sightings == nil {
			h.sightings = map[station]hostops.Sighting{}
		}
		for name, dev := range h.state.Devices {
			if dev.Master != bridge || s.Device == "" || s.Device == name {
				continue
			}
			if at, _ := dev.FDB.Get(mac); dev.Pinned == mac || at.IsValid() && !dev.Yielding.Has(mac) {
				return false
			}
			if dev.Yielding.Has(mac) {
				dev.Yielding.Delete(mac)
				dev.FDB.Set(mac, netip.Addr{})
			}
		}
		h.unhear(bridge, mac)
		if h.sightings[station{bridge, mac}] = s; s.Device == "" {
			delete(h.sightings, station{bridge, mac})
		}
		if d := h.driver; d != nil && d.counts[bridge] > 0 {
			h.hear(station{bridge, mac}, s, d.counts[bridge])
			d.counts[bridge]++
			select {
			case d.hears <- struct{}{}:
			default:
			}
		}
		return true
	})
}

// hear notes what was learned at a port that is not ours.
func (h *Host) hear(at station, s hostops.Sighting, count uint64) {
	b, ok := h.state.Devices[at.bridge]
	if !ok || !slices.Contains(b.Ports, s.Device) {
		return
	}
	if b.Heard == nil {
		b.Heard = hostops.NewTable[cluster.MAC, hostops.Heard]()
		h.state.Devices[at.bridge] = b
	}
	b.Heard.Set(at.mac, hostops.Heard{Port: s.Device, Count: count})
}

// unhear forgets where a bridge has learned a MAC.
func (h *Host) unhear(bridge string, mac cluster.MAC) {
	delete(h.sightings, station{bridge, mac})
	h.state.Devices[bridge].Heard.Delete(mac)
}

// Speak has a workload at a port that is not ours send a frame from a MAC.
func (h *Host) Speak(port string, mac cluster.MAC) error {
	bridge := locked(h, func() string { return h.bridgeOf(port) })
	if bridge == "" {
		return syscall.ENODEV
	}
	h.Learned(bridge, mac, hostops.Sighting{Device: port})
	return nil
}
