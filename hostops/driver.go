package hostops

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Driver is the network stack of this host, for one goroutine at a time
// (Send excepted).
type Driver interface {
	// Check lists what this host lacks: privileges, kernel features. Empty
	// means that Apply can be expected to work.
	Check(ctx context.Context) []Problem
	// Observe returns all that carries our mark, and what stands in its way.
	// The caller only reads it, and not after its next call of the driver.
	// The driver keeps its last full observation current by kernel events and
	// by the operations that it applied; full, a lost event or the first call
	// reads everything again.
	Observe(ctx context.Context, full bool) (State, error)
	// Spaces tells what paths of workloads' network namespaces lead to now.
	Spaces(ctx context.Context, paths []string) map[string]Space
	// Apply performs one operation. It is idempotent and wraps ErrUnsupported
	// where the platform cannot.
	Apply(ctx context.Context, op Op) error
	// Changed receives when the host may have changed other than by Apply;
	// values coalesce.
	Changed() <-chan struct{}
	// Addresses lists the host's own addresses, for the choice of an underlay.
	Addresses(ctx context.Context) ([]Address, error)
	// Send sends an echo request, or fails, and never waits: neither for the
	// answer nor for room in a queue (ErrCongested). answer is called with the
	// round trip time, at most once and not later than MaxRTT after Send; it
	// must not block, and may run before Send returns. Safe for concurrent use.
	Send(e Echo, answer func(rtt time.Duration)) error
	// Greet sends a datagram to all of a multicast group, and returns whose
	// greetings of the same VNI have come in since the last call for it. It
	// never waits. The first call joins the group.
	Greet(g Greeting) (heard []netip.Addr, err error)
	// Close releases descriptors. The network stays as it is.
	Close() error
}

// Batcher is a Driver that performs operations together at less cost than one
// by one.
type Batcher interface {
	Driver
	// ApplyBatch performs ops, of which none needs what another one makes, in
	// order, and returns for each, in order, what Apply would: one that fails
	// keeps no other from being performed.
	ApplyBatch(ctx context.Context, ops []Op) []error
}

// Dropper is a Driver that counts what it keeps others' ports from sending.
type Dropper interface {
	// Drops counts dropped frames since the filter was made, by DropReasons.
	Drops(ctx context.Context) (map[string]uint64, error)
	// PortDrops counts them by device and reason, only what there is: since the
	// filter was made, or since a day in which a device had none for that reason.
	PortDrops(ctx context.Context) (map[string]map[string]uint64, error)
	// FloodDrops counts, by VPC, the frames that did not go into a tunnel because its
	// flood budget was used up, since that was put in force.
	FloodDrops(ctx context.Context) (map[cluster.VNI]uint64, error)
}

// DropReasons are what a binding drops frames for: a source MAC that is not the
// port's; in ARP another sender, in IPv4 and IPv6 another source (or a neighbour
// advertisement for another address); what only DHCP servers and routers send; and
// any other protocol, VLANs among them. A ward drops what speaks as its port, whoever
// sends it: "ward".
func DropReasons() []string {
	return []string{"mac", "arp", "ipv4", "ipv6", "dhcp", "ra", "other", DropWard}
}

// DropWard is why a frame is dropped that another port than the one of a Ward sends.
const DropWard = "ward"

// Finder is a Driver that can tell where a bridge has learned a MAC.
type Finder interface {
	// Find looks the MAC up in the tables of a VPC's bridge as they are now.
	Find(ctx context.Context, vpc string, mac cluster.MAC) (Sighting, error)
}

// Sighting is where a bridge has learned a MAC.
type Sighting struct {
	Device string     // the port, "": the bridge does not know the MAC
	Peer   netip.Addr // behind a tunnel: the underlay address that has it; not valid: a local port
}

// Listener is a Driver that follows what bridges learn of workloads that nobody
// attached.
type Listener interface {
	// Listen follows the bridges of these names, made or not, and no others, and
	// returns when it knows what they have learned.
	Listen(ctx context.Context, bridges []string) error
	// Heard is what one of them has learned at ports that are not ours. The caller
	// only reads it, and not after its next call of the driver.
	Heard(bridge string) *Table[cluster.MAC, Heard]
	// Hears receives when that may have changed for any of them; values coalesce.
	Hears() <-chan struct{}
}

// Heard is at which port a bridge has learned a MAC. Count tells one time that it came
// there from another: it is 0 if the bridge knew that before the driver listened, and
// else greater than all that the driver gave out before for this bridge.
type Heard struct {
	Port  string
	Count uint64
}

// Greeting shows the hosts of a VPC that a multicast group carries: the
// datagram goes the way of a tunnel's frames that flood to it, but to
// GreetPort.
type Greeting struct {
	Group  netip.Addr
	Device string     // underlay device
	Local  netip.Addr // of Device, of the group's family
	VNI    cluster.VNI
}

// GreetPort is the UDP port of greetings.
const GreetPort = 4788

// Echo is one ICMP echo request from a VPC's namespace.
type Echo struct {
	VPC  string
	To   netip.Addr
	Size int // bytes of the IP packet, which is never fragmented; 0 is the least
}

// MaxRTT is how late an answer to an echo request still counts.
const MaxRTT = 5 * time.Second

// Ping sends an echo request and waits for the answer. No answer until ctx
// ends is ErrNoAnswer.
func Ping(ctx context.Context, d Driver, e Echo) (time.Duration, error) {
	answer := make(chan time.Duration, 1)
	if err := d.Send(e, func(rtt time.Duration) { answer <- rtt }); err != nil {
		return 0, err
	}
	select {
	case rtt := <-answer:
		return rtt, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("ping %s in VPC %s: %w: %w", e.To, e.VPC, ErrNoAnswer, ctx.Err())
	}
}

// Errors that drivers return, compared by errors.Is.
var (
	// ErrUnsupported is returned when the platform cannot do an operation.
	ErrUnsupported = errors.New("not supported by this platform")
	// ErrForeign is returned when a device, VNI, port or namespace that an
	// operation needs is held by something that is not ours.
	ErrForeign = errors.New("held by something that is not meshvpc's")
	// ErrGone is returned when a workload's network namespace has ended, or its
	// path leads to another one now.
	ErrGone = errors.New("network namespace is gone")
	// ErrInUse is returned when a device that was to be lent is in use otherwise.
	ErrInUse = errors.New("device is in use")
	// ErrNoAnswer is returned when a ping was not answered in time.
	ErrNoAnswer = errors.New("no answer")
	// ErrCongested is returned when earlier echo requests still wait on this
	// host, and there is no room for more.
	ErrCongested = errors.New("earlier packets have not left this host")
	// ErrBusy is returned when another agent drives this host already.
	ErrBusy = errors.New("another agent drives this host")
)
