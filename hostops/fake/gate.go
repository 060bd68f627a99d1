package fake

import (
	"errors"
	"time"

	"github.com/meshvpc/meshvpc/hostops"
)

var _ hostops.Gater = (*Driver)(nil)

// SetClock gives a host another clock that nobody sets: what is gated shuts by it. Its
// rate may be wrong. One host has one clock, whatever becomes of its power.
func (h *Host) SetClock(uptime func() time.Duration) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.uptime = uptime
}

func (h *Host) now() time.Duration {
	if h.uptime == nil {
		began := time.Now()
		h.uptime = func() time.Duration { return time.Since(began) }
	}
	return h.uptime()
}

// Uptime implements hostops.Gater.
func (d *Driver) Uptime() time.Duration { return locked(d.host, d.host.now) }

// GateUntil implements hostops.Gater.
func (d *Driver) GateUntil() (time.Duration, error) {
	return locked(d.host, func() time.Duration { return d.host.gate }), nil
}

// SetGate implements hostops.Gater.
func (d *Driver) SetGate(until time.Duration) error {
	return locked(d.host, func() error {
		if d.host.state.Filter.NoShields {
			return errors.ErrUnsupported
		}
		d.host.gate = until
		return nil
	})
}

// Passes reports whether frames pass by a device: it is up, and if it is gated, the gate
// is open. It is so whether an agent runs or not.
func (h *Host) Passes(device string) bool {
	return locked(h, func() bool {
		_, gated := h.state.Filter.Gated[device]
		return h.state.Devices[device].Up && (!gated || h.now() < h.gate)
	})
}

// CannotShut has the kernel lack what shields and gates take, from now on: what there is
// of them is gone.
func (h *Host) CannotShut() {
	locked(h, func() bool {
		f := &h.state.Filter
		f.NoShields, f.Shields, f.Bindings, f.Gated = true, nil, nil, nil
		return true
	})
}
