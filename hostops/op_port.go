package hostops

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// The operations on workloads' ports.
type (
	// CreatePair makes a pair of devices, down, with the mark of Owner, whose other
	// end is Inner in a workload's namespace, with MAC. Inode, if not zero, is what
	// the path has to lead to.
	CreatePair struct {
		Target
		Owner     cluster.VNI
		MAC       cluster.MAC
		MTU       int // bytes, of both
		Namespace string
		Inode     uint64
		Inner     string
	}
	// SetInner makes the other end of a pair what it has to be: name, MAC, MTU,
	// addresses and routes, and it up, and the loopback. Addresses that it has beyond
	// these go, unless there are none, and so do default routes and those of ours.
	SetInner struct {
		Target
		MAC       cluster.MAC
		MTU       int // bytes
		Namespace string
		Inode     uint64
		Inner     string
		Addresses []netip.Prefix
		Routes    []cluster.Route
	}
	// CreateTap makes a tap that stays, down, with the mark of Owner, for a user.
	CreateTap struct {
		Target
		Owner cluster.VNI
		User  int
	}
	// SetTap gives a tap to another user.
	SetTap struct {
		Target
		User int
	}
	// Lend marks a device, which somebody else made, for Owner, and makes it quiet.
	// It refuses one that is in use.
	Lend struct {
		Target
		Owner cluster.VNI
	}
	// GiveBack takes a device that was lent out of its bridge, down, and removes
	// the mark.
	GiveBack struct{ Target }
	// Bind drops all that a port, the Object, sends as another than Binding says.
	Bind struct {
		Target
		Binding Binding
	}
	// Unbind takes Bind back.
	Unbind struct {
		Target
		Devices []string
	}
	// UnpinMAC takes PinMAC back.
	UnpinMAC struct {
		Target
		MAC cluster.MAC
	}
	// Announce tells all of a bridge, by frames from a workload's MAC that do not
	// pass its port, the Object, that it is here with these addresses.
	Announce struct {
		Target
		Bridge    string
		MAC       cluster.MAC
		Addresses []netip.Addr
	}
)

func (o CreatePair) String() string {
	return fmt.Sprintf("create port %s: %s with MAC %s in namespace %s, MTU %d", o.Object, o.Inner, o.MAC, o.Namespace, o.MTU)
}
func (o SetInner) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "set %s of port %s: MAC %s, MTU %d", o.Inner, o.Object, o.MAC, o.MTU)
	for _, a := range o.Addresses {
		fmt.Fprintf(&b, ", address %s", a)
	}
	for _, r := range o.Routes {
		if r.IsDefault() {
			fmt.Fprintf(&b, ", gateway %s", r.Via)
		} else {
			fmt.Fprintf(&b, ", route %s by %s", r.To, r.Via)
		}
	}
	return b.String() + ", up"
}
func (o CreateTap) String() string { return fmt.Sprintf("create tap %s for user %d", o.Object, o.User) }
func (o SetTap) String() string    { return fmt.Sprintf("give tap %s to user %d", o.Object, o.User) }
func (o Lend) String() string {
	return fmt.Sprintf("borrow device %s: mark of VNI %d, no own addresses", o.Object, o.Owner)
}
func (o GiveBack) String() string { return "give back device " + o.Object }
func (o Bind) String() string {
	return fmt.Sprintf("bind port %s to %s: drop what else it sends", o.Object, o.Binding)
}
func (o Unbind) String() string { return "stop binding ports " + strings.Join(o.Devices, ", ") }
func (o UnpinMAC) String() string {
	return fmt.Sprintf("unpin MAC %s from %s", o.MAC, o.Object)
}
func (o Announce) String() string {
	what := ""
	if len(o.Addresses) > 0 {
		what = " with " + addrs(o.Addresses)
	}
	return fmt.Sprintf("announce MAC %s%s on bridge %s", o.MAC, what, o.Bridge)
}
