package linux

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/hostops"
)

// TestFindLearned: a MAC that no record tells of is found where it was learned, on the
// host that has it and, behind a tunnel, on another.
func TestFindLearned(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	var vpcs []hostops.VPC
	for i, h := range hosts {
		vpcs = append(vpcs, mesh(hosts, i, "blue", 10000, false))
		h.reconcile(false, vpcs[i])
	}
	from, to := hosts[0].tenant("blue", "t0"), hosts[1].tenant("blue", "t1")
	to.until("where am i", func() { from.send(message(from.mac, "where am i")) })
	tunnel := vpcs[1].Tunnels[0]
	for i, want := range []hostops.Sighting{
		{Device: "t0"},
		{Device: hostops.TunnelOf(vpcs[1].VNI, tunnel.Local), Peer: vpcs[0].Tunnels[0].Local},
	} {
		got, err := hosts[i].driver.Find(t.Context(), "blue", from.mac)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(want.Peer)); diff != "" || err != nil {
			t.Errorf("host %d: %v (-want +got):\n%s", i, err, diff)
		}
	}
}
