package hostops

import (
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
)

// Budget bounds what a VPC floods into each of its tunnels: frames for all and for
// groups, and those for a MAC that was not heard from behind a tunnel for as long as a
// bridge remembers one. What is more is dropped before it is sent to any peer. Nothing
// on a host says what the budget was of a VPC that is held: if it is wiped, there is none.
type Budget struct {
	Rate int // frames a second; as many again in a burst, beside those
	// Told: the VPC is static, and floods nothing for a MAC that it does not know: all
	// that is for one passes.
	Told bool
}

// Burst is how many frames pass at once after a silence.
func (b Budget) Burst() int { return 2 * b.Rate }

// The operations on flood budgets.
type (
	// LimitFlood puts the budget of a VPC in force, or another one.
	LimitFlood struct {
		Target
		VNI    cluster.VNI
		Budget Budget
	}
	// UnlimitFlood takes LimitFlood back.
	UnlimitFlood struct {
		Target
		VNI cluster.VNI
	}
)

func (o LimitFlood) String() string {
	return fmt.Sprintf("limit what VNI %d floods to %d frames a second and tunnel", o.VNI, o.Budget.Rate)
}
func (o UnlimitFlood) String() string { return fmt.Sprintf("stop limiting what VNI %d floods", o.VNI) }

// budget plans what the VPC may flood.
func (p *planner) budget(v VPC) {
	f := p.actual.Filter
	if f.Foreign || f.NoShields || f.NoBudgets {
		return
	}
	has, limited := f.Budgets[v.VNI]
	want := Budget{v.FloodLimit, v.Static}
	switch {
	case v.FloodLimit > 0 && has != want:
		p.add(LimitFlood{Target{v.Name, "filter"}, v.VNI, want})
	case v.FloodLimit <= 0 && limited:
		p.remove(UnlimitFlood{Target{v.Name, "filter"}, v.VNI})
	}
}
