package hostops

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Gater is a Driver whose kernel lets frames pass by gated ports until a time, and
// shuts them by itself then: also when whoever moves that time is frozen, or gone. One
// gate is for all gated ports of a host. A driver that is none carries no such port.
//
// All methods are safe for concurrent use, also with Apply, and do not wait for it.
type Gater interface {
	Driver
	// Uptime is a clock of the host that nobody sets, and that goes on while the host is
	// suspended.
	Uptime() time.Duration
	// GateUntil is when the gate shuts, by Uptime, as the kernel has it; not after
	// Uptime: it is shut.
	GateUntil() (time.Duration, error)
	// SetGate has the gate shut at a time of Uptime, later or earlier than before; one
	// that has come shuts it at once. It is not late by more than GateDelay, or fails,
	// and then the gate shuts not later than before.
	//
	// A kernel that counts what is left only while it runs is late by as long as the
	// host was suspended since: SetGate again then, with the same time, shuts it.
	SetGate(until time.Duration) error
}

// GateDelay bounds how late a gate shuts.
const GateDelay = 100 * time.Millisecond

// The operations on ports that pass frames only while the host's gate is open.
type (
	// Gate has a port, the Object, pass frames in neither direction unless the host's
	// gate is open.
	Gate struct{ Target }
	// Ungate takes Gate back.
	Ungate struct {
		Target
		Devices []string
	}
)

func (o Gate) String() string {
	return "gate port " + o.Object + ": frames pass while the host is granted its endpoints"
}
func (o Ungate) String() string { return "stop gating ports " + strings.Join(o.Devices, ", ") }

// gate plans whether a port is gated: before it may be up, and not any more at the end.
func (p *planner) gate(on Target, port Port) {
	switch is := has(p.actual.Filter.Gated, on.Object); {
	case port.Gated && !is:
		p.add(Gate{on})
	case !port.Gated && is:
		p.remove(Ungate{on, []string{on.Object}})
	}
}

// ungate takes ports out that are neither wanted nor stay.
func (p *planner) ungate() {
	var gone []string
	for name := range p.actual.Filter.Gated {
		if !has(p.ports, name) && !p.staysPort(name) {
			gone = append(gone, name)
		}
	}
	if len(gone) > 0 {
		slices.Sort(gone)
		p.remove(Ungate{Target{"", "filter"}, gone})
	}
}

// staysPort reports whether a device is a workload's port that is left as it is.
func (p *planner) staysPort(name string) bool {
	d, there := p.actual.Devices[name]
	return there && !p.gone[name] && d.Use != UseVPC && (p.keeping[d.Owner] || p.held(d.Owner))
}

// OpenGated lists, sorted, the gated ports that frames pass by while the gate is open.
func (s State) OpenGated() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(s.Filter.Gated)), func(name string) bool { return !s.Devices[name].Up })
}

// OnlyGated reports whether no frame passes by a device unless the gate is open.
func (s State) OnlyGated(device string) bool {
	return has(s.Filter.Gated, device) || !s.Devices[device].Up
}
