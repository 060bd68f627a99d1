package linux

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Config is what New needs. The zero value drives the host of this process.
type Config struct {
	Log *zap.Logger // nil: none
	// Namespace is a descriptor of the network namespace to drive, which must
	// stay open until Close; 0 is that of the process.
	Namespace int
	// PinDir is where VPC namespaces are pinned; default /run/netns.
	PinDir string
}

// lockName is the abstract socket that one agent per network namespace holds.
const lockName = "@meshvpc/hostops"

// Driver implements hostops.Driver. It is safe for concurrent use.
type Driver struct {
	log      *zap.Logger
	ns       int
	self     uint64 // inode of that namespace
	dir      string
	lock     net.Listener
	requests atomic.Uint64
	changed  chan struct{}
	wg       sync.WaitGroup // the goroutines that follow events

	mu       sync.Mutex
	buf      []byte // that all sockets are read into
	conn     *conn
	events   *source
	filter   *filter
	pins     *source // inotify on dir, nil while dir is not there
	devices  devices // nil until the first full reading, and after lost events
	spaces   map[string]*space
	pingers  map[pingKey]*pinger
	greeters map[greetKey]*greeter
	listener listener
	// unbounded: bridges of this kernel cannot bound what they learn, it
	// ignored the attribute.
	unbounded bool
}

var _ hostops.Driver = (*Driver)(nil)

// New takes the host for this process; it wraps hostops.ErrBusy if another
// agent has it. It changes nothing.
func New(cfg Config) (*Driver, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.PinDir == "" {
		cfg.PinDir = "/run/netns"
	}
	d := &Driver{
		log: cfg.Log.Named("linux"), ns: cfg.Namespace, dir: cfg.PinDir,
		changed:  make(chan struct{}, 1),
		buf:      make([]byte, readSize),
		spaces:   map[string]*space{},
		pingers:  map[pingKey]*pinger{},
		greeters: map[greetKey]*greeter{},
		listener: listener{bridges: map[string]*hearing{}, hears: make(chan struct{}, 1), end: make(chan struct{})},
	}
	if err := within(d.ns, d.open); err != nil {
		d.Close()
		if errors.Is(err, unix.EPERM) {
			return nil, fmt.Errorf("%w: CAP_NET_ADMIN is missing, run the agent as root", err)
		}
		return nil, err
	}
	follow(&d.wg, &d.mu, d.events, func() {
		if d.drain() {
			d.signal()
		}
	})
	follow(&d.wg, &d.mu, d.filter.events, d.filterEvents)
	return d, nil
}

// open runs in the host's namespace.
func (d *Driver) open() error {
	var err error
	d.lock, err = net.Listen("unix", lockName)
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("lock host: %w", hostops.ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("lock host: %w", err)
	}
	if d.conn, err = dial(d.buf, &d.requests); err != nil {
		return err
	}
	if err := d.identify(); err != nil {
		return err
	}
	only, err := staticEntries()
	if err != nil {
		return err
	}
	if d.events, err = subscribe(d.buf, unix.NETLINK_ROUTE, groupsHost, only); err != nil {
		return err
	}
	d.filter, err = openFilter(d.ns, d.buf, &d.requests)
	return err
}

// Requests counts the netlink requests sent so far, dumps and nftables
// transactions included, one each.
func (d *Driver) Requests() uint64 { return d.requests.Load() }

// Changed implements hostops.Driver.
func (d *Driver) Changed() <-chan struct{} { return d.changed }

func (d *Driver) signal() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// drain applies the host's waiting events and reports whether they made a
// difference. What concerns the host's own addresses it signals itself: the
// caller may have asked for them already, and no operation changes them.
func (d *Driver) drain() (changed bool) {
	lost := d.events.drain(func(h *unix.NlMsghdr, b []byte) {
		if d.devices == nil {
			return
		}
		if h.Type == unix.RTM_NEWNETCONF { // what is forwarded concerns uplinks
			changed = changed || len(d.uplinks()) > 0
			return
		}
		had := d.devices.addressed(b)
		diff, unknown := d.devices.event(h.Type, b)
		changed = changed || diff
		if diff && (had || d.devices.addressed(b)) {
			d.signal()
		}
		if unknown {
			d.devices = nil
		}
	})
	if lost {
		d.log.Warn("lost kernel events, reading the host again")
		d.devices = nil
	}
	return changed || lost
}

// filterEvents reads the filter again if others changed it.
func (d *Driver) filterEvents() {
	if !d.filter.touched() {
		return
	}
	old := d.filter.state
	if err := d.filter.read(); err != nil {
		d.log.Warn("cannot read filter", zap.Error(err))
		d.filter.known = false
		d.signal()
		return
	}
	if !sameFilter(old, d.filter.state) {
		d.signal()
	}
}

func sameFilter(a, b hostops.Filter) bool {
	return a.Exists == b.Exists && a.Foreign == b.Foreign && a.Port == b.Port && a.Uplinks == b.Uplinks && maps.Equal(a.VNIs, b.VNIs) &&
		maps.EqualFunc(a.Sources, b.Sources, hostops.AddrSet.Equal) && maps.Equal(a.Shields, b.Shields) && maps.Equal(a.Budgets, b.Budgets) &&
		maps.Equal(a.Placed, b.Placed) && maps.EqualFunc(a.Places, b.Places, hostops.PlaceSet.Equal) &&
		maps.Equal(a.Seals, b.Seals) && a.Fenced.Equal(b.Fenced) && maps.EqualFunc(a.Bindings, b.Bindings, hostops.Binding.Equal) &&
		maps.EqualFunc(a.Wards, b.Wards, hostops.Ward.Equal) &&
		maps.Equal(a.Gated, b.Gated)
}

// Observe implements hostops.Driver.
func (d *Driver) Observe(ctx context.Context, full bool) (hostops.State, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drain()
	if full || d.devices == nil {
		ds, err := read(d.conn)
		if err != nil {
			return hostops.State{}, err
		}
		d.devices = ds
		full = true
		for _, sp := range d.spaces {
			sp.neighboursRead = false
		}
		if err := d.readBridges(); err != nil {
			return hostops.State{}, err
		}
	}
	d.takeHeard(false)
	if err := d.watchPins(full); err != nil {
		return hostops.State{}, err
	}
	for name := range d.spaces { // one end of a pair that is gone took the other with it
		if _, err := d.follow(name, false); err != nil {
			return hostops.State{}, err
		}
	}
	if full || !d.filter.known || d.filter.touched() {
		if err := d.filter.read(); err != nil {
			return hostops.State{}, err
		}
	}
	return d.state(), nil
}

// state copies what is tracked.
func (d *Driver) state() hostops.State {
	s := hostops.State{
		Devices:    make(map[string]hostops.Device, len(d.devices)),
		Others:     map[string]hostops.Other{},
		Namespaces: make(map[string]hostops.Namespace, len(d.spaces)),
		Filter:     d.filter.share(),
	}
	uplinks, closed := d.forwarding()
	s.Closed = closed
	for _, v := range d.devices {
		owner, ours := v.ours()
		if !ours {
			s.Others[v.name] = hostops.Other{
				Kind: hostops.Kind(v.kind), Group: v.group, MTU: v.mtu, Up: v.up, Addresses: v.addrs,
				Master: d.name(v.master), VNI: v.vni, Port: v.port, V6: v.v6, Underlay: d.name(v.underlay),
			}
			continue
		}
		s.Devices[v.name] = hostops.Device{
			Kind: hostops.Kind(v.kind), Owner: owner, Alias: v.alias, MTU: v.mtu, Master: d.name(v.master), Up: v.up,
			Quiet: v.noAddrGen && (v.kind != "bridge" || v.deaf && v.forwards == forwardReserved && !v.stp && !v.snooping && (v.maxLearned == hostops.MaxLearnedBridge || d.unbounded)),
			VNI:   v.vni, Local: v.local, Underlay: d.name(v.underlay), Port: v.port, Group: v.joined, Learning: v.learning,
			Isolated: v.isolated, Sends: v.sends(), Static: v.static(), Silent: v.silent(), Odd: v.odd() != 0, Addresses: v.addrs,
			Flood: hostops.TableOf(v.flood.share()), FDB: hostops.TableOf(v.fdb.share()), Pinned: v.pinned,
			Answers: hostops.TableOf(v.answers.share()), Yielding: hostops.TableOf(v.yielding.share()), Heard: d.heardBy(v),
			Use: hostops.UseOf(v.group), User: v.user, Space: v.room(),
			Forwards: uplinks[v.name],
		}
	}
	for _, v := range d.devices {
		bridge := d.name(v.master)
		if _, ours := v.ours(); ours || bridge == "" {
			continue
		}
		if b, ok := s.Devices[bridge]; ok {
			b.Ports = append(b.Ports, v.name)
			slices.Sort(b.Ports)
			s.Devices[bridge] = b
		}
	}
	for name, sp := range d.spaces {
		n := sp.state
		if n.Port != nil {
			p := *n.Port
			p.Addresses = slices.Clone(p.Addresses)
			p.Peer, p.Neighbours = d.name(sp.peer), hostops.TableOf(sp.neighbours.share())
			n.Port = &p
		}
		if len(n.Further) > 0 {
			n.Further = maps.Clone(n.Further)
			for inner, p := range n.Further {
				p := *p
				p.Peer = d.name(sp.of(inner).peer)
				n.Further[inner] = &p
			}
		}
		s.Namespaces[name] = n
	}
	return s
}

func (d *Driver) name(index int32) string {
	if v := d.devices[index]; v != nil && index != 0 {
		return v.name
	}
	return ""
}

// Addresses implements hostops.Driver.
func (d *Driver) Addresses(ctx context.Context) ([]hostops.Address, error) {
	s, err := d.Observe(ctx, false)
	if err != nil {
		return nil, err
	}
	var out []hostops.Address
	for _, name := range slices.Sorted(maps.Keys(s.Others)) {
		o := s.Others[name]
		for _, p := range o.Addresses {
			out = append(out, hostops.Address{Device: name, Prefix: p, MTU: o.MTU, Up: o.Up})
		}
	}
	return out, nil
}

// Close implements hostops.Driver.
func (d *Driver) Close() error {
	d.mu.Lock()
	for name := range d.spaces {
		d.drop(name)
	}
	for k, g := range d.greeters {
		unix.Close(g.fd)
		delete(d.greeters, k)
	}
	if d.pins != nil {
		d.pins.close()
	}
	if d.events != nil {
		d.events.close()
	}
	if d.listener.events != nil {
		d.listener.events.close()
		d.listener.events = nil
		close(d.listener.end)
	}
	if d.filter != nil {
		d.filter.close()
	}
	if d.conn != nil {
		d.conn.close()
		d.conn = nil
	}
	lock := d.lock
	d.lock = nil
	d.mu.Unlock()
	d.wg.Wait()
	if lock != nil {
		return lock.Close()
	}
	return nil
}

// underlay finds the device that holds local.
func (d *Driver) underlay(name string, local netip.Addr) (*device, error) {
	v := d.devices.byName(name)
	if v == nil {
		return nil, unix.ENODEV
	}
	if !slices.ContainsFunc(v.addrs, func(p netip.Prefix) bool { return p.Addr() == local }) {
		return nil, fmt.Errorf("address %s: %w", local, unix.EADDRNOTAVAIL)
	}
	return v, nil
}
