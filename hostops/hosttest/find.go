package hosttest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// finds looks MACs up that a bridge was told: a workload's here, those at peers.
func finds(t *testing.T, b *bench) {
	finder, can := b.driver.(hostops.Finder)
	if !can {
		t.Fatal("the driver is no Finder")
	}
	v := with(MakeVPC(0), MakeTap(MakeVPC(0), 1))
	b.converge(v)
	peer := v.Tunnels[1].Peers[1]
	for name, tt := range map[string]struct {
		mac  cluster.MAC
		want hostops.Sighting
	}{
		"a workload's": {v.Ports[0].MAC, hostops.Sighting{Device: v.Ports[0].Device}},
		"a peer's":     {hostops.VTEPMAC(peer.VTEP), hostops.Sighting{Device: hostops.TunnelOf(v.VNI, peer.Underlay), Peer: peer.Underlay}},
		"its own":      {hostops.VTEPMAC(v.VTEP.Addr()), hostops.Sighting{Device: hostops.PortOf(v.VNI)}},
		"nobody's":     {cluster.MAC{2, 9, 9, 9, 9, 9}, hostops.Sighting{}},
	} {
		got, err := finder.Find(t.Context(), v.Name, tt.mac)
		if diff := cmp.Diff(tt.want, got, values()); diff != "" || err != nil {
			t.Errorf("%s MAC %s: %v (-want +got):\n%s", name, tt.mac, err, diff)
		}
	}
	if s, err := finder.Find(t.Context(), "nosuch", v.Ports[0].MAC); err == nil {
		t.Errorf("found in a VPC that there is not: %+v", s)
	}
}
