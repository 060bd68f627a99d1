package hostops

import (
	"context"
	"errors"
	"net/netip"
	"time"
)

// Driver is the network stack of this host, for one goroutine at a time
// (Ping excepted).
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
	// Apply performs one operation. It is idempotent and wraps ErrUnsupported
	// where the platform cannot.
	Apply(ctx context.Context, op Op) error
	// Changed receives when the host may have changed other than by Apply;
	// values coalesce.
	Changed() <-chan struct{}
	// Addresses lists the host's own addresses, for the choice of an underlay.
	Addresses(ctx context.Context) ([]Address, error)
	// Ping sends one ICMP echo request of size bytes (IP packet length, 0 is
	// the least; it is never fragmented) from the VPC's namespace and returns
	// the round trip time. No answer until ctx ends is ErrNoAnswer. Safe for
	// concurrent use.
	Ping(ctx context.Context, vpc string, to netip.Addr, size int) (time.Duration, error)
	// Close releases descriptors. The network stays as it is.
	Close() error
}

// Errors that drivers return, compared by errors.Is.
var (
	// ErrUnsupported is returned when the platform cannot do an operation.
	ErrUnsupported = errors.New("not supported by this platform")
	// ErrForeign is returned when a device, VNI, port or namespace that an
	// operation needs is held by something that is not ours.
	ErrForeign = errors.New("held by something that is not meshvpc's")
	// ErrNoAnswer is returned when a ping was not answered in time.
	ErrNoAnswer = errors.New("no answer")
	// ErrBusy is returned when another agent drives this host already.
	ErrBusy = errors.New("another agent drives this host")
)
