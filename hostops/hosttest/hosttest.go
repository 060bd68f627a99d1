// Package hosttest is the suite that every hostops driver passes.
//
// It drives one host whose kernel the driver's tests provide, tampers with it
// behind the driver's back, and holds the driver to what hostops promises: the
// first pass makes everything, the second nothing, tampering is noticed without
// being asked for and repaired and counted, what is somebody else's stays as it
// was, and what is ours goes without a trace.
package hosttest

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Kernel is a host, as an administrator sees it. When a test begins it has,
// loopback aside, the devices Underlays with their addresses, up, and nothing
// else.
type Kernel interface {
	// Open starts a driver on the host; the suite closes it.
	Open() (hostops.Driver, error)

	// Devices are the names of all devices but loopback, sorted.
	Devices() []string
	// Namespaces are the names of all pinned namespaces, sorted.
	Namespaces() []string
	// HasFilter reports whether the table hostops.FilterName is there.
	HasFilter() bool
	// Hears reports whether a frame for the host that comes in by a port of
	// the bridge gets there.
	Hears(bridge string) bool

	DeleteDevice(name string) error
	SetMTU(name string, mtu int) error
	SetUp(name string, up bool) error
	SetIsolated(name string, yes bool) error
	SetMaster(name, bridge string) error // "" takes it out
	AddPeer(tunnel string, peer netip.Addr) error
	RemovePeer(tunnel string, peer netip.Addr) error
	SetFDB(tunnel string, mac cluster.MAC, peer netip.Addr) error     // in both tables
	RemoveFDB(tunnel string, mac cluster.MAC, bridge bool) error      // from the bridge's table, or the tunnel's
	SetNeighbour(namespace string, a netip.Addr, m cluster.MAC) error // for good
	RemoveNeighbour(namespace string, a netip.Addr) error
	SetAnswer(bridge string, a netip.Addr, m cluster.MAC) error // a neighbour, for good
	RemoveAnswer(bridge string, a netip.Addr) error
	RemoveAddress(namespace string, p netip.Prefix) error
	DeleteNamespace(name string) error
	// SetFlag switches one of the settings with which a bridge treats a port:
	// flood, mcast_flood, bcast_flood, learning, isolated, hairpin, locked, proxy_arp.
	SetFlag(port, flag string, yes bool) error
	SetSTP(bridge string, yes bool) error
	AddAddress(device string, p netip.Prefix) error
	// WipeFilter removes all tables of all families.
	WipeFilter() error

	// AddDevice makes a device that is not ours: a bridge, a tunnel, or by
	// default a veth.
	AddDevice(name string, o hostops.Other) error
	// Speak sends a frame from a MAC into a veth that AddDevice made, which is up.
	Speak(port string, mac cluster.MAC) error
	AddNamespace(name string) error
	AddRoute(device string, p netip.Prefix) error

	// NewRoom makes a network namespace for a workload. A second one of that name
	// takes the place of the first, which something else then holds.
	NewRoom(name string) (path string, err error)
	EndRoom(path string) error
	// AddInRoom makes a device there that is not ours; InRoom looks at one.
	AddInRoom(path, name string) error
	InRoom(path, name string) (Inner, error)
}

// Inner is a device in a workload's network namespace.
type Inner struct {
	MAC       cluster.MAC
	MTU       int // bytes
	Up        bool
	Addresses []netip.Prefix  // but for those that the kernel made
	Routes    []cluster.Route // those by a gateway
}

// Underlays are the devices of a fresh Kernel.
func Underlays() []hostops.Address {
	var out []hostops.Address
	for _, a := range []struct{ device, prefix string }{
		{"u0", "192.0.2.1/24"}, {"u0", "2001:db8::1/64"}, {"u1", "198.51.100.1/24"}, {"u1", "2001:db8:1::1/64"},
	} {
		out = append(out, hostops.Address{Device: a.device, Prefix: netip.MustParsePrefix(a.prefix), MTU: 1500, Up: true})
	}
	return out
}

// Port is the UDP port of the suite's tunnels.
const Port = 4789

// MakeVPC is VPC number n with two peers over both families.
func MakeVPC(n int) hostops.VPC {
	v := hostops.VPC{
		Name: fmt.Sprintf("net%c", 'a'+n), VNI: cluster.VNI(10000 + n), MTU: 1430, VTEP: netip.MustParsePrefix("10.100.0.1/16"),
	}
	for _, local := range []string{"192.0.2.1", "2001:db8::1"} {
		t := hostops.Tunnel{Local: netip.MustParseAddr(local), Device: "u0", Port: Port}
		for i := range 2 {
			t.Peers = append(t.Peers, MakePeer(i, t.Local.Is6()))
		}
		v.Tunnels = append(v.Tunnels, t)
	}
	return v
}

// MakePeer is peer number i of one family.
func MakePeer(i int, v6 bool) hostops.Peer {
	p := hostops.Peer{Node: fmt.Sprint("n", i), Underlay: Peer(i, v6), VTEP: netip.AddrFrom4([4]byte{10, 100, 4, byte(10 + i)})}
	if v6 {
		p.Node, p.VTEP = fmt.Sprint("m", i), netip.AddrFrom4([4]byte{10, 100, 6, byte(10 + i)})
	}
	return p
}

// Groups are multicast groups, over IPv4 and IPv6.
func Groups() [2]netip.Addr {
	return [2]netip.Addr{netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("ff05::1:1")}
}

// PairOf is VPC v's own tunnel to its peer number i over IPv6.
func PairOf(v hostops.VPC, i int) hostops.Tunnel {
	return hostops.Tunnel{
		Pair: 2*v.VNI + cluster.VNI(i), Local: netip.MustParseAddr("2001:db8::1"), Device: "u0", Port: Port,
		Peers: []hostops.Peer{MakePeer(i, true)},
	}
}

// MakeMixed is VPC number n with peer 0 by the shared tunnel over IPv4, and with
// tunnels of their own to peer 1, active, and to peer 2, which receives only.
func MakeMixed(n int) hostops.VPC {
	v := MakeVPC(n)
	v.Tunnels[0].Peers = v.Tunnels[0].Peers[:1]
	quiet := PairOf(v, 2)
	quiet.ReceiveOnly = true
	v.Tunnels = []hostops.Tunnel{v.Tunnels[0], PairOf(v, 1), quiet}
	return v
}

// Peer is the underlay address of peer number i.
func Peer(i int, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8:2::%x", 0x10+i))
	}
	return netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
}

// Run is the suite; newKernel makes a fresh host for each test.
func Run(t *testing.T, newKernel func(t *testing.T) Kernel) {
	for _, tt := range []struct {
		name string
		run  func(*testing.T, *bench)
	}{
		{"idempotent", idempotent},
		{"adopted", adopted},
		{"busy", busy},
		{"peers change", peersChange},
		{"underlay moves", underlayMoves},
		{"tampering is repaired", tampering},
		{"tenants do not reach the host", sealed},
		{"clashes", clashes},
		{"overlapping VPCs", overlapping},
		{"teardown leaves nothing", teardown},
		{"VPC is remade under another VNI", renumbered},
		{"missing underlay", missingUnderlay},
		{"bridge follows its ports", bridgeFollows},
		{"address in the VTEP's place", addressReplaced},
		{"tunnels of pairs", pairs},
		{"pair comes and goes", pairComesAndGoes},
		{"shared tunnel falls silent", sharedFallsSilent},
		{"tampering with pairs is repaired", tamperingPairs},
		{"pairs clash", pairsClash},
		{"multicast group", multicast},
		{"fenced hosts", fencing},
		{"static places", static},
		{"tampering with static places is repaired", tamperingStatic},
		{"static places of attached workloads", staticPorts},
		{"gateway", gateway},
		{"tampering with a gateway is repaired", tamperingGateway},
		{"gateway is held", gatewayHeld},
		{"gateway clashes", gatewayClashes},
		{"places yield to what is heard", yielding},
		{"active gateway", activeGateway},
		{"tampering with an active gateway is repaired", tamperingActive},
		{"VIPs", vips},
		{"tampering with VIPs is repaired", tamperingVIPs},
		{"VIPs are held", vipsHeld},
		{"further port is made anew alone", furtherPortAlone},
		{"workloads' ports", workloads},
		{"workloads' ports change", workloadsChange},
		{"workloads' ports end", workloadsEnd},
		{"workload's namespace ends", namespaceEnds},
		{"workload's namespace is remade", namespaceRemade},
		{"workloads' ports clash", workloadsClash},
		{"device is lent", deviceLent},
		{"device in use is refused", deviceInUse},
		{"tampering with ports is repaired", tamperingPorts},
		{"ports are held", portsHeld},
		{"MACs are found", finds},
		{"flood budget", budgets},
		{"gated ports", gatedPorts},
		{"gate", gateShuts},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.run(t, newBench(t, newKernel(t)))
		})
	}
}

// bench is a kernel with a reconciler on it.
type bench struct {
	t      *testing.T
	kernel Kernel
	driver hostops.Driver
	host   *hostops.Host
}

func newBench(t *testing.T, k Kernel) *bench {
	b := &bench{t: t, kernel: k}
	b.open()
	t.Cleanup(func() { must(t, b.driver.Close()) })
	return b
}

func (b *bench) open() {
	b.t.Helper()
	d, err := b.kernel.Open()
	must(b.t, err)
	b.driver = d
	b.host, err = hostops.New(hostops.Config{Driver: d})
	must(b.t, err)
}

func (b *bench) pass(full bool, vpcs ...hostops.VPC) hostops.Report {
	return b.host.Reconcile(b.t.Context(), hostops.Desired{VPCs: vpcs}, full)
}

// converge makes passes, one for each change, until all VPCs are ready, and
// returns the repairs.
func (b *bench) converge(vpcs ...hostops.VPC) (repairs int) {
	b.t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		r := b.pass(false, vpcs...)
		repairs += r.Repairs
		if !slices.ContainsFunc(vpcs, func(v hostops.VPC) bool { return !r.Ready[v.Name] }) && len(r.Problems) == 0 {
			break
		}
		select {
		case <-b.driver.Changed():
		case <-deadline:
			b.t.Fatalf("not converged: problems %v, applied %v", r.Problems, r.Applied)
		}
	}
	if r := b.pass(true, vpcs...); len(r.Applied) > 0 || len(r.Problems) > 0 {
		b.t.Fatalf("full pass after convergence applied %v, problems %v", r.Applied, r.Problems)
	}
	b.settle()
	return repairs
}

// settle takes a signal that is left over.
func (b *bench) settle() {
	select {
	case <-b.driver.Changed():
	default:
	}
}

// changed waits for the driver's signal.
func (b *bench) changed(what string) {
	b.t.Helper()
	select {
	case <-b.driver.Changed():
	case <-time.After(5 * time.Second):
		b.t.Fatalf("%s: not noticed", what)
	}
}

func (b *bench) state() hostops.State {
	b.t.Helper()
	s, err := b.driver.Observe(b.t.Context(), true)
	must(b.t, err)
	return s.Clone()
}

func diff(want, got hostops.State) string {
	// A namespace that is made anew gets another of the host's numbers while the kernel
	// has not ended the one before.
	return cmp.Diff(want, got, values(), cmpopts.IgnoreFields(hostops.Device{}, "Space"))
}

func values() cmp.Options {
	return cmp.Options{
		cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty(),
		cmpopts.SortSlices(netip.Prefix.Compare),
		cmpopts.SortSlices(func(a, b cluster.Route) int { return a.To.Compare(b.To) }),
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) silent(full bool, vpcs ...hostops.VPC) {
	b.t.Helper()
	if r := b.pass(full, vpcs...); len(r.Applied) > 0 || len(r.Problems) > 0 || r.Repairs > 0 {
		b.t.Errorf("pass (full: %v) applied %v, problems %v, repairs %d; want none", full, r.Applied, r.Problems, r.Repairs)
	}
}

// takenOverAndGone has another driver find nothing to do about v, and then leave
// nothing of it.
func (b *bench) takenOverAndGone(v hostops.VPC) {
	b.t.Helper()
	must(b.t, b.driver.Close())
	b.open()
	b.silent(false, v)
	b.converge()
	if s := b.state(); len(s.Devices) != 0 || b.kernel.HasFilter() {
		b.t.Errorf("left: devices %v, filter %v", b.kernel.Devices(), b.kernel.HasFilter())
	}
}
