package hostops_test

import (
	"testing"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// TestKernelCannotLimitFloods: the VPC is made all the same, and the kernel is asked
// once.
func TestKernelCannotLimitFloods(t *testing.T) {
	h := fake.NewNetwork().NewHost(hosttest.Underlays()...)
	h.CannotLimit()
	d, err := h.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	host, err := hostops.New(hostops.Config{Driver: d})
	if err != nil {
		t.Fatal(err)
	}
	v := hosttest.MakeVPC(0)
	v.FloodLimit = 1000
	desired := hostops.Desired{VPCs: []hostops.VPC{v}}
	if r := host.Reconcile(t.Context(), desired, false); !r.Ready[v.Name] || len(r.Problems) > 0 {
		t.Errorf("ready %v, problems %v", r.Ready, r.Problems)
	}
	for _, full := range []bool{false, true} {
		if r := host.Reconcile(t.Context(), desired, full); len(r.Applied) > 0 || len(r.Problems) > 0 || !r.Ready[v.Name] {
			t.Errorf("full %v: applied %v, problems %v", full, r.Applied, r.Problems)
		}
	}
}
