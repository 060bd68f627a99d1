package fake

import (
	"context"
	"maps"

	"github.com/meshvpc/meshvpc/cluster"
)

// FloodDrops implements hostops.Dropper.
func (d *Driver) FloodDrops(context.Context) (map[cluster.VNI]uint64, error) {
	return locked(d.host, func() map[cluster.VNI]uint64 { return maps.Clone(d.host.floods) }), nil
}

// FloodOver has a VPC flood n frames into a tunnel that are over its budget, and
// reports whether it has one.
func (h *Host) FloodOver(v cluster.VNI, n uint64) bool {
	return locked(h, func() bool {
		if _, limited := h.state.Filter.Budgets[v]; !limited {
			return false
		}
		if h.floods == nil {
			h.floods = map[cluster.VNI]uint64{}
		}
		h.floods[v] += n
		return true
	})
}

// CannotLimit has the kernel lack what a flood budget takes.
func (h *Host) CannotLimit() {
	locked(h, func() bool { h.unlimited = true; return true })
}
