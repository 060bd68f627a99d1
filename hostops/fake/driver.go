package fake

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// RTT is what every ping takes.
const RTT = time.Millisecond

// Driver implements hostops.Driver on a Host. It is safe for concurrent use.
type Driver struct {
	host    *Host
	changed chan struct{}
	hears   chan struct{}
	counts  map[string]uint64 // of bridges that are listened to: the next count
}

var _ hostops.Driver = (*Driver)(nil)

// Open takes the host; it wraps hostops.ErrBusy if another driver has it.
func (h *Host) Open() (*Driver, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.driver != nil {
		return nil, fmt.Errorf("lock host: %w", hostops.ErrBusy)
	}
	h.driver = &Driver{host: h, changed: make(chan struct{}, 1), hears: make(chan struct{}, 1), counts: map[string]uint64{}}
	return h.driver, nil
}

func (d *Driver) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Check implements hostops.Driver: a fake host lacks nothing.
func (d *Driver) Check(context.Context) []hostops.Problem { return nil }

// Observe implements hostops.Driver.
func (d *Driver) Observe(ctx context.Context, _ bool) (hostops.State, error) {
	if err := ctx.Err(); err != nil {
		return hostops.State{}, err
	}
	return locked(d.host, func() hostops.State { return d.host.state }), nil
}

// Apply implements hostops.Driver.
func (d *Driver) Apply(ctx context.Context, op hostops.Op) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return locked(d.host, func() error {
		d.host.writes++
		if err := d.host.applyOp(op); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
		return nil
	})
}

// Changed implements hostops.Driver.
func (d *Driver) Changed() <-chan struct{} { return d.changed }

// Addresses implements hostops.Driver.
func (d *Driver) Addresses(context.Context) ([]hostops.Address, error) {
	return locked(d.host, func() []hostops.Address {
		var out []hostops.Address
		for _, name := range slices.Sorted(maps.Keys(d.host.state.Others)) {
			o := d.host.state.Others[name]
			for _, p := range o.Addresses {
				out = append(out, hostops.Address{Device: name, Prefix: p, MTU: o.MTU, Up: o.Up})
			}
		}
		return out
	}), nil
}

// Close implements hostops.Driver.
func (d *Driver) Close() error {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	if d.host.driver == d {
		d.host.driver = nil
		for _, hosts := range d.host.net.groups { // its sockets close
			delete(hosts, d.host)
		}
	}
	return nil
}

// Send implements hostops.Driver. An answer comes before it returns.
func (d *Driver) Send(e hostops.Echo, answer func(time.Duration)) error {
	answered, err := d.ping(hostops.NamespaceOf(e.VPC), e.To, e.Size)
	if err != nil {
		return fmt.Errorf("ping %s in VPC %s: %w", e.To, e.VPC, err)
	}
	if answered {
		answer(RTT)
	}
	return nil
}

func (d *Driver) ping(namespace string, to netip.Addr, size int) (bool, error) {
	n := d.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	from, ok := d.host.state.Namespaces[namespace]
	if !ok || from.Owner == 0 {
		return false, os.ErrNotExist
	}
	if from.Port == nil || !from.Port.Up || len(from.Port.Addresses) == 0 {
		return false, syscall.ENETUNREACH
	}
	if size > from.Port.MTU {
		return false, syscall.EMSGSIZE
	}
	source := from.Port.Addresses[0].Addr()
	for h := range n.vteps[vtep{from.Owner, to}] {
		if h == d.host || (n.reaches(d.host, h, namespace, to, size) && n.reaches(h, d.host, namespace, source, size)) {
			return true, nil
		}
	}
	return false, nil
}

// reaches reports whether a frame of size bytes for the VTEP address to goes
// from one host's namespace to the other's.
func (n *Network) reaches(from, to *Host, namespace string, dst netip.Addr, size int) bool {
	out, in := from.state.Namespaces[namespace], to.state.Namespaces[namespace]
	if !from.attached(out, size) || !to.attached(in, size) || out.Owner != in.Owner ||
		!slices.ContainsFunc(in.Port.Addresses, func(p netip.Prefix) bool { return p.Addr() == dst }) {
		return false
	}
	for name, s := range from.state.Devices {
		r := to.state.Devices[name]
		if n.carries(from, to, s, r, out.Owner, size) && n.sends(s, r, out.Port.Neighbours, dst) && receives(r, out.Port.MAC, s.Local) && to.placed(s.VNI, out.Port.MAC, s.Local) {
			return true
		}
	}
	return false
}

// Copies counts how often a frame for all that a workload on one host sends
// arrives at the bridge of another. More than one is a flood doubled.
func (n *Network) Copies(from, to *Host, vpc string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count, vni := 0, from.state.Devices[vpc].Owner
	for name, s := range from.state.Devices {
		if r := to.state.Devices[name]; n.carries(from, to, s, r, vni, 0) {
			count += n.floods(s, r)
		}
	}
	return count
}

// carries reports whether what a VPC's tunnel s of one host sends to its
// counterpart r on the other arrives at the other's bridge.
func (n *Network) carries(from, to *Host, s, r hostops.Device, owner cluster.VNI, size int) bool {
	return forwards(s, size) && forwards(r, size) && s.Owner == owner && r.Owner == owner && s.VNI == r.VNI && s.Port == r.Port &&
		!n.cuts[[2]netip.Addr{s.Local, r.Local}] && to.passes(s.VNI, s.Local) && !from.fences(r.Local) &&
		from.hasLocal(s.Underlay, s.Local) == nil && to.hasLocal(r.Underlay, r.Local) == nil
}

// floods counts the copies of a flooded frame that s sends to r.
func (n *Network) floods(s, r hostops.Device) (count int) {
	if s.Silent {
		return 0
	}
	if s.Flood.Has(r.Local) {
		count++
	}
	if r.Group.IsValid() && s.Flood.Has(r.Group) && !n.dumb {
		count++
	}
	return count
}

// sends reports whether s sends to r what is for the VTEP address dst: by its
// FDB entry, or flooding. Asking for a MAC that nobody told is flooding too.
func (n *Network) sends(s, r hostops.Device, known *hostops.Table[netip.Addr, cluster.MAC], dst netip.Addr) bool {
	mac, told := known.Get(dst)
	if at, _ := s.FDB.Get(mac); told && at.IsValid() {
		return at == r.Local
	}
	return n.floods(s, r) > 0 && (!told || mac == hostops.VTEPMAC(dst))
}

// receives reports whether a tunnel takes what has the MAC from peer: a MAC that
// it was told the place of comes from nowhere else.
func receives(d hostops.Device, mac cluster.MAC, peer netip.Addr) bool {
	at, _ := d.FDB.Get(mac)
	return !at.IsValid() || at == peer
}

// forwards reports whether a tunnel carries frames.
func forwards(d hostops.Device, size int) bool {
	return d.Kind == hostops.KindTunnel && d.Up && d.Master != "" && size <= d.MTU
}

// attached reports whether a namespace's port takes part in its bridge.
func (h *Host) attached(n hostops.Namespace, size int) bool {
	if n.Port == nil || !n.Port.Up || size > n.Port.MTU {
		return false
	}
	p := h.state.Devices[n.Port.Peer]
	b := h.state.Devices[p.Master]
	return p.Up && p.Master != "" && b.Up && size <= p.MTU && size <= b.MTU
}

// fences reports whether the host drops what is from an address, or for it.
func (h *Host) fences(a netip.Addr) bool {
	return h.state.Filter.Port != 0 && h.state.Filter.Fenced.Has(a)
}

// passes asks the filter.
func (h *Host) passes(v cluster.VNI, source netip.Addr) bool {
	f := h.state.Filter
	if h.fences(source) {
		return false
	}
	if _, guarded := f.VNIs[v]; f.Port == 0 || !guarded {
		return true
	}
	return f.Sources[v].Has(source)
}
