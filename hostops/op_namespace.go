package hostops

import (
	"fmt"
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// The operations on namespaces.
type (
	// CreateNamespace makes a namespace with the mark of Owner.
	CreateNamespace struct {
		Target
		Owner cluster.VNI
	}
	// SetNamespace makes a namespace quiet and filtered (see Namespace), but for what
	// Routing says.
	SetNamespace struct {
		Target
		Routing Routing
	}
	// DeleteNamespace removes a namespace and what is in it.
	DeleteNamespace struct{ Target }
	// CreatePort makes a namespace's port, the inner end with MAC; both ends
	// are down. Inner, here and below, is the inner end's name; empty: InnerVTEP.
	// Use is what the host's end is marked to be.
	CreatePort struct {
		Target
		Namespace string
		Owner     cluster.VNI
		MAC       cluster.MAC
		Inner     string
		Use       Use
	}
	// SetPort sets the inner end's MTU, and whether it forwards, and brings it up.
	SetPort struct {
		Target
		MTU      int
		Inner    string
		Forwards bool
	}
	// AddAddress adds an address to a namespace's port.
	AddAddress struct {
		Target
		Address netip.Prefix
		Inner   string
	}
	// RemoveAddress removes an address from a namespace's port.
	RemoveAddress struct {
		Target
		Address netip.Prefix
		Inner   string
	}
	// SetNeighbour tells a namespace the MAC of an address for good: it asks
	// nobody, and believes nobody else.
	SetNeighbour struct {
		Target
		Address netip.Addr
		MAC     cluster.MAC
	}
	// RemoveNeighbour takes SetNeighbour back.
	RemoveNeighbour struct {
		Target
		Address netip.Addr
	}
)

func (o CreateNamespace) String() string { return "create namespace " + o.Object }
func (o SetNamespace) String() string {
	return fmt.Sprintf("set namespace %s: loopback up, accepts no router, forwards %s, answers ICMP echo only", o.Object, o.Routing)
}
func (o DeleteNamespace) String() string { return "delete namespace " + o.Object }
func (o CreatePort) String() string {
	return fmt.Sprintf("create port %s of namespace %s", o.Object, o.Namespace)
}
func (o SetPort) String() string {
	forwards := ""
	if o.Forwards {
		forwards = ", forwards"
	}
	return fmt.Sprintf("set port%s in namespace %s: MTU %d%s, up", further(o.Inner), o.Object, o.MTU, forwards)
}
func (o AddAddress) String() string {
	return fmt.Sprintf("add address %s%s in namespace %s", o.Address, on(o.Inner), o.Object)
}
func (o RemoveAddress) String() string {
	return fmt.Sprintf("remove address %s%s in namespace %s", o.Address, on(o.Inner), o.Object)
}
func (o SetNeighbour) String() string {
	return fmt.Sprintf("set neighbour %s to %s in namespace %s", o.Address, o.MAC, o.Object)
}
func (o RemoveNeighbour) String() string {
	return fmt.Sprintf("remove neighbour %s in namespace %s", o.Address, o.Object)
}

// further names an inner end that is not the VTEP's.
func further(inner string) string {
	if inner == "" || inner == InnerVTEP {
		return ""
	}
	return " " + inner
}

func on(inner string) string {
	if name := further(inner); name != "" {
		return " on" + name
	}
	return ""
}
