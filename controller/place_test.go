package controller

import (
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestMove changes the node that a spec names, with an owner that is or was in one
// state or another.
func TestMove(t *testing.T) {
	const stays = "[] assigned h1 1.1 it is to be at h2, and stays at h1, which had it and does not answer"
	for name, tt := range map[string]struct {
		state cluster.PortState // of h1; "": none
		dead  bool
		want  string
	}{
		"never attached":     {"", false, "[] assigned h2 1.2 "},
		"never, dead":        {"", true, "[] assigned h2 1.2 "},
		"ready":              {cluster.PortReady, false, "[] assigned h2 1.2 "},
		"standby":            {cluster.PortStandby, false, "[] assigned h2 1.2 "},
		"released":           {cluster.PortReleased, false, "[] assigned h2 1.2 "},
		"released, dead":     {cluster.PortReleased, true, "[] assigned h2 1.2 "},
		"ready, then dead":   {cluster.PortReady, true, stays},
		"standby, then dead": {cluster.PortStandby, true, stays},
		"failed, then dead":  {cluster.PortFailed, true, stays},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := meshed(t)
				r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Node: "h1"})
				settle()
				if tt.state != "" {
					r.port("h1", "db1", tt.state)
				}
				if tt.dead {
					r.delete(cluster.KeyLive("h1"))
				}
				r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.Node = "h2" })
				r.wantHas("db1", tt.want)
			})
		})
	}
}

// TestMoveFromDead waits until the old owner is back, or is overridden in the epoch
// that it has.
func TestMoveFromDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.endpoint("web1", "auto")
		settle()
		r.request("h1", "web1", cluster.WantAttach, false)
		settle()
		r.port("h1", "web1", cluster.PortReady)
		live := get[*cluster.Live](r, cluster.KeyLive("h1"))
		r.delete(cluster.KeyLive("h1"))
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		r.request("h2", "web1", cluster.WantAttach, false)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		const stays = "[10.10.11.2 fd00:11::1] assigned h1 1.2 it is to be at h2, and stays at h1, which had it and does not answer"
		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.Node = "h2" })
		r.wantHas("web1", stays)
		for _, other := range []cluster.InEpoch{{Node: "h1", Epoch: 1}, {Node: "h3", Epoch: 2}} {
			r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.ForcedFrom = other })
			r.wantHas("web1", stays)
		}
		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.ForcedFrom = cluster.InEpoch{Node: "h1", Epoch: 2} })
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h2 1.3 ")

		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.Node = "h1" }) // h2 never had it
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.4 ")
		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.Node = "h2" }) // once is not for ever
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.4 it is to be at h2, and stays at h1, which had it and does not answer")
		r.put(cluster.KeyLive("h1"), live)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h2 1.5 ")
	})
}

// TestUnbound keeps its node while that is a member.
func TestUnbound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Node: "h1"})
		r.wantHas("db1", "[] assigned h1 1.1 ")
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.Node = "" })
		r.wantHas("db1", "[] assigned h1 1.1 ")
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h2,h3" })
		r.wantHas("db1", "[] unplaced  1.2 ")
	})
}

// TestNewEra: what was restored is newer than all that hosts have seen.
func TestNewEra(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Node: "h1"})
		r.put(cluster.KeyEndpointSpec("blue", "db2"), &cluster.EndpointSpec{State: cluster.EndpointActive})
		settle()
		r.port("h1", "db1", cluster.PortReady)
		c := *get[*cluster.Config](r, cluster.KeyConfig)
		c.Era, c.ConfirmedEra = 5, 5
		r.put(cluster.KeyConfig, &c)
		r.wantHas("db1", "[] assigned h1 5.2 ")
		r.wantHas("db2", "[] unplaced  5.2 ")
	})
}

// TestOwnRecordIsLost: it is made as nodes report it, above all that they know. What
// is made anew under the name of something that was deleted has no owner.
func TestOwnRecordIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.endpoint("web1", "auto")
		settle()
		r.request("h1", "web1", cluster.WantAttach, false)
		settle()
		r.port("h1", "web1", cluster.PortReady)
		r.port("h3", "web1", cluster.PortStandby)
		r.delete(cluster.KeyEndpointOwn("blue", "web1"))
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.3 ")
		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting })
		settle()
		r.delete(cluster.KeyEndpointStatus("h3", "blue", "web1"))
		released := &cluster.EndpointStatus{NodeID: "id-h1", State: cluster.PortReleased, Era: 1, Epoch: 2}
		r.put(cluster.KeyEndpointStatus("h1", "blue", "web1"), released)
		settle()
		r.txn(r.written(cluster.KeyEndpointStatus("h1", "blue", "web1"), released), // late, and not yet collected
			r.written(cluster.KeyEndpointSpec("blue", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true}))
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] unplaced  1.3 ") // as h1 reports the second epoch
	})
}

// TestPortsOfTheGone: reports go with their endpoint and with their node.
func TestPortsOfTheGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		for _, name := range []string{"web1", "web2"} {
			r.endpoint(name, "auto")
			r.port("h1", name, cluster.PortReady)
			r.port("h2", name, cluster.PortReady)
		}
		r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting })
		r.put(cluster.KeyEndpointStatus("h1", "blue", "web1"), &cluster.EndpointStatus{NodeID: "id-h1", State: cluster.PortReleased})
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h1,h3" })
		r.editNode("h3", func(n *cluster.Node) { n.State = cluster.NodeLeft })
		settle()
		for key, want := range map[string]bool{
			cluster.KeyEndpointStatus("h1", "blue", "web1"): false,
			cluster.KeyEndpointStatus("h2", "blue", "web1"): false,
			cluster.KeyEndpointStatus("h1", "blue", "web2"): true,
			cluster.KeyEndpointStatus("h2", "blue", "web2"): false,
		} {
			if got := get[*cluster.EndpointStatus](r, key) != nil; got != want {
				t.Errorf("%s is there: %v, want %v", key, got, want)
			}
		}
	})
}

// TestDeletionAwaitsPorts: what a workload uses is nobody else's before its host has
// let go of it, or cannot.
func TestDeletionAwaitsPorts(t *testing.T) {
	for name, tt := range map[string]func(r *rig){
		"released":      func(r *rig) { r.port("h1", "web1", cluster.PortReleased) },
		"no member":     func(r *rig) { r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h2,h3" }) },
		"dead":          func(r *rig) { r.delete(cluster.KeyLive("h1")) },
		"no report any": func(r *rig) { r.delete(cluster.KeyEndpointStatus("h1", "blue", "web1")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := meshed(t)
				r.endpoint("web1", "auto")
				settle()
				r.request("h1", "web1", cluster.WantAttach, false)
				settle()
				r.port("h1", "web1", cluster.PortReady)
				r.editEndpoint("web1", func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting })
				r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
				tt(r)
				settle()
				if r.own("web1") != nil {
					t.Error("it is there still")
				}
			})
		})
	}
}
