package hostops

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// The operations of static VPCs.
type (
	// SetStatic lets a tunnel's port send what is for all and what is for MACs that
	// the bridge was told of, and learn nothing (see Device.Static).
	SetStatic struct{ Target }
	// SetAnswer has a bridge, which is the Object, answer for an address.
	SetAnswer struct {
		Target
		Address netip.Addr
		MAC     cluster.MAC
	}
	// RemoveAnswer takes SetAnswer back.
	RemoveAnswer struct {
		Target
		Address netip.Addr
	}
	// AllowPlaces lets frames of VNI pass from these.
	AllowPlaces struct {
		Target
		VNI    cluster.VNI
		Places []Placed
	}
	// DenyPlaces takes AllowPlaces back.
	DenyPlaces struct {
		Target
		VNI    cluster.VNI
		Places []Placed
	}
	// GuardPlaces drops frames of VNI from MACs that are not allowed where they are
	// from.
	GuardPlaces struct {
		Target
		VNI cluster.VNI
	}
	// UnguardPlaces takes GuardPlaces back.
	UnguardPlaces struct {
		Target
		VNI cluster.VNI
	}
)

func (o SetStatic) String() string {
	return "send by port " + o.Object + " what is for all and for known MACs, learn nothing"
}
func (o SetAnswer) String() string {
	return fmt.Sprintf("answer for %s with %s on bridge %s", o.Address, o.MAC, o.Object)
}
func (o RemoveAnswer) String() string {
	return fmt.Sprintf("stop answering for %s on bridge %s", o.Address, o.Object)
}
func (o AllowPlaces) String() string {
	return fmt.Sprintf("allow VNI %d from %s", o.VNI, places(o.Places))
}
func (o DenyPlaces) String() string {
	return fmt.Sprintf("stop allowing VNI %d from %s", o.VNI, places(o.Places))
}
func (o GuardPlaces) String() string {
	return fmt.Sprintf("guard places of VNI %d: drop other MACs", o.VNI)
}
func (o UnguardPlaces) String() string { return fmt.Sprintf("stop guarding places of VNI %d", o.VNI) }

// places names up to four places and counts the others.
func places(ps []Placed) string {
	const most = 4
	var words []string
	for _, p := range ps[:min(len(ps), most)] {
		words = append(words, fmt.Sprintf("%s at %s", p.MAC, p.From))
	}
	text := strings.Join(words, ", ")
	if n := len(ps) - most; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}
