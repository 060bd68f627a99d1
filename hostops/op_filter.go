package hostops

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Source is who may send frames of a VNI.
type Source struct {
	VNI  cluster.VNI
	Addr netip.Addr
}

// The operations on the filter.
type (
	// CreateFilter makes the filter anew, with rules for Port and no entries:
	// without entries everything passes.
	CreateFilter struct {
		Target
		Port uint16
	}
	// DeleteFilter removes the filter.
	DeleteFilter struct{ Target }
	// Allow lets frames of VNI pass from these sources.
	Allow struct {
		Target
		VNI     cluster.VNI
		Sources []netip.Addr
	}
	// Deny takes Allow back.
	Deny struct {
		Target
		VNI     cluster.VNI
		Sources []netip.Addr
	}
	// Guard drops frames of VNI from all sources that are not allowed.
	Guard struct {
		Target
		VNI cluster.VNI
	}
	// Admit is Allow and Guard for many VNIs at once.
	Admit struct {
		Target
		Sources []Source
	}
	// Unguard takes Guard back.
	Unguard struct {
		Target
		VNI cluster.VNI
	}
	// Shield keeps local ports of the VPC from speaking as a VTEP of Network.
	Shield struct {
		Target
		VNI     cluster.VNI
		Network netip.Prefix
	}
	// Seal keeps all frames of a bridge, which is the Object, from its host.
	Seal struct{ Target }
	// Unseal takes Seal back.
	Unseal struct{ Target }
	// Unshield takes Shield back.
	Unshield struct {
		Target
		VNI cluster.VNI
	}
)

func (o CreateFilter) String() string { return fmt.Sprintf("create filter for UDP port %d", o.Port) }
func (o DeleteFilter) String() string { return "delete filter" }
func (o Allow) String() string {
	return fmt.Sprintf("allow VNI %d from %s", o.VNI, addrs(o.Sources))
}
func (o Deny) String() string {
	return fmt.Sprintf("stop allowing VNI %d from %s", o.VNI, addrs(o.Sources))
}
func (o Guard) String() string { return fmt.Sprintf("guard VNI %d: drop other sources", o.VNI) }
func (o Admit) String() string {
	const most = 4
	var b strings.Builder
	for i, s := range o.Sources[:min(len(o.Sources), most)] {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "VNI %d from %s", s.VNI, s.Addr)
	}
	if n := len(o.Sources) - most; n > 0 {
		fmt.Fprintf(&b, " and %d more", n)
	}
	return "allow " + b.String() + ", guard: drop other sources"
}
func (o Unguard) String() string { return fmt.Sprintf("stop guarding VNI %d", o.VNI) }
func (o Shield) String() string {
	return fmt.Sprintf("shield VTEP addresses %s of VNI %d from local ports", o.Network, o.VNI)
}
func (o Seal) String() string {
	return "seal bridge " + o.Object + ": nothing gets from it to the host"
}
func (o Unseal) String() string   { return "unseal bridge " + o.Object }
func (o Unshield) String() string { return fmt.Sprintf("stop shielding VNI %d", o.VNI) }

// addrs names up to eight addresses and counts the others.
func addrs(as []netip.Addr) string {
	const most = 8
	var b strings.Builder
	for i, a := range as {
		if i == most {
			fmt.Fprintf(&b, " and %d more", len(as)-most)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}
