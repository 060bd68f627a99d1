package hosttest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// budgets follows what a VPC may flood, and takes nothing of another's away.
func budgets(t *testing.T, b *bench) {
	v, other := MakeVPC(0), MakeVPC(1)
	v.FloodLimit, other.FloodLimit = 1000, 1000
	b.converge(v, other)
	for _, step := range []struct {
		name   string
		limit  int
		static bool
	}{{"as made", 1000, false}, {"less", 10, false}, {"static", 10, true}, {"none", 0, true}, {"dynamic", 0, false}, {"again", 7, false}} {
		v.FloodLimit, v.Static = step.limit, step.static
		b.converge(v, other)
		want := map[cluster.VNI]hostops.Budget{v.VNI: {Rate: step.limit, Told: step.static}, other.VNI: {Rate: 1000}}
		if step.limit == 0 {
			delete(want, v.VNI)
		}
		for _, full := range []bool{false, true} {
			b.silent(full, v, other)
			if diff := cmp.Diff(want, b.state().Filter.Budgets); diff != "" {
				t.Errorf("%s, full %v (-want +got):\n%s", step.name, full, diff)
			}
		}
	}
	b.settle()
	must(t, b.kernel.WipeFilter())
	b.changed("filter wiped")
	b.converge(v, other)
	b.converge(other)
	if diff := cmp.Diff(map[cluster.VNI]hostops.Budget{other.VNI: {Rate: 1000}}, b.state().Filter.Budgets); diff != "" {
		t.Errorf("%s is gone (-want +got):\n%s", v.Name, diff)
	}
	must(t, b.driver.Close())
	b.open()
	b.silent(false, other)
}
