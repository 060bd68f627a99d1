package controller

import (
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
)

// moving is meshed with db1, which moves by itself between these places.
func moving(t *testing.T, places ...cluster.Selector) *rig {
	r := meshed(t)
	r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive,
		Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: places}})
	return r
}

// TestAskForWhatMoves: the first of its places that asks gets it, nobody else does.
func TestAskForWhatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h2", "h3")
		r.wantHas("db1", "[] unplaced  1.1 ")
		r.request("h1", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] unplaced  1.1 ")
		r.put(cluster.KeyFence("h2"), &cluster.Fence{NodeID: "id-h2", Why: "test"})
		r.request("h2", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] unplaced  1.1 ")
		r.request("h3", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] assigned h3 1.2 ")
		r.wantNoRequests()
	})
}

// TestMoveWhatMoves: an operator's word counts in the epoch that it was said in, once,
// and not while the old owner may serve it.
func TestMoveWhatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h2", "h3")
		r.request("h2", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] assigned h2 1.1 ")
		r.port("h2", "db1", cluster.PortReady)
		move := func(to string, epoch int64) {
			r.editEndpoint("db1", func(s *cluster.EndpointSpec) {
				s.Failover.MoveTo = cluster.InEpoch{Node: to, Epoch: epoch}
			})
		}
		move("h3", 0) // long ago
		r.wantHas("db1", "[] assigned h2 1.1 ")
		move("h3", 1)
		r.wantHas("db1", "[] assigned h3 1.2 ")
		r.port("h3", "db1", cluster.PortReady)
		move("h2", 2)
		r.wantHas("db1", "[] assigned h2 1.3 ")
		r.port("h2", "db1", cluster.PortReady)
		r.delete(cluster.KeyLive("h2"))
		move("h3", 3)
		r.wantHas("db1", "[] assigned h2 1.3 it is to move to h3, and stays at h2, which had it and does not answer")
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.ForcedFrom = cluster.InEpoch{Node: "h2", Epoch: 3} })
		r.wantHas("db1", "[] assigned h3 1.4 ")
	})
}

// TestHoldGoesWithItsEndpoint, and one without an endpoint goes, too.
func TestHoldGoesWithItsEndpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h2")
		settle()
		r.put(cluster.KeyEndpointHold("blue", "db1"), &cluster.Hold{})
		r.put(cluster.KeyEndpointHold("blue", "nobody"), &cluster.Hold{})
		settle()
		if get[*cluster.Hold](r, cluster.KeyEndpointHold("blue", "db1")) == nil || get[*cluster.Hold](r, cluster.KeyEndpointHold("blue", "nobody")) != nil {
			t.Error("want the hold of what there is, and no other")
		}
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting })
		settle()
		if left := r.dump(cluster.PrefixEndpoints("blue")); left != "" {
			t.Errorf("left: %s", left)
		}
	})
}
