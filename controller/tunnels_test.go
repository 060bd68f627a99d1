package controller

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestOwnTunnelsOf(t *testing.T) {
	status := func(mod int64, links ...cluster.Link) statusItem {
		return statusItem{Key: cluster.KeyVPCStatus("n1", "blue"), Mod: mod, Value: &cluster.VPCStatus{Links: links}}
	}
	shared := cluster.Link{Peer: "n2"}
	own := func(peer string, vni cluster.VNI) cluster.Link {
		return cluster.Link{Peer: peer, VNI: vni, Use: cluster.LinkActive}
	}
	before := status(7, own("n4", 104), shared, own("n3", 103))
	for name, tt := range map[string]struct {
		now  statusItem
		want []cluster.Link
	}{
		"the same":                          {before, []cluster.Link{own("n3", 103), own("n4", 104)}},
		"the next":                          {status(8, shared, own("n3", 103)), []cluster.Link{own("n3", 103)}},
		"that revision, of another history": {status(7, shared, own("n4", 105)), []cluster.Link{own("n4", 105)}},
		"shared tunnels only, of another":   {status(7, shared), nil},
		"no links, of another":              {status(7), nil},
		"gone":                              {statusItem{Key: before.Key}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var o ownTunnels
			o.of(before)
			o.sweep()
			if diff := cmp.Diff(tt.want, o.of(tt.now)); diff != "" {
				t.Errorf("own tunnels (-want +got):\n%s", diff)
			}
		})
	}
}
