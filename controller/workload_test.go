package controller

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// working is meshed with db1, a workload of h1, h2 and h3 that must not run twice, and
// has its first node.
func working(t *testing.T) *rig {
	r := meshed(t)
	r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive,
		Failover: cluster.Failover{Mode: cluster.ModeStateful, Place: cluster.Place{"h2", "h3", "h1"}, Workload: "db"}})
	r.put(cluster.KeyNode("w"), &cluster.Node{ID: "id-w", Datacenter: "third", State: cluster.NodeActive})
	settle()
	r.request("h3", "db1", cluster.WantAttach, false)
	r.wantHas("db1", "[] unplaced  1.1 ") // who asks does not get it by that
	r.wantNoRequests()
	for _, h := range []string{"h2", "h3", "h1"} {
		r.works(h, cluster.PortStandby, cluster.WorkloadStopped)
	}
	pass(10 * time.Second)
	r.wantHas("db1", "[] assigned h2 1.2 ")
	if r.own("db1").Needs != 4 {
		t.Error("an older agent would let frames pass to what does not run")
	}
	for _, h := range []string{"h3", "h1"} {
		r.works(h, cluster.PortStandby, cluster.WorkloadStopped)
	}
	r.works("h2", cluster.PortReady, cluster.WorkloadRunning)
	return r
}

// works has a node report db1 as of now.
func (r *rig) works(node string, port cluster.PortState, state cluster.WorkloadState) {
	own := r.own("db1")
	r.put(cluster.KeyEndpointStatus(node, "blue", "db1"), &cluster.EndpointStatus{NodeID: "id-" + node, State: port, Era: own.Era, Epoch: own.Epoch, Gated: true,
		Workload: &cluster.WorkloadStatus{State: state, Era: own.Era, Epoch: own.Epoch, Reason: map[bool]string{true: "start: no disk"}[state == cluster.WorkloadFailed]}})
	settle()
}

func (r *rig) moveTo(node string, epoch int64) {
	r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.Failover.MoveTo = cluster.InEpoch{Node: node, Epoch: epoch} })
	settle()
}

// TestMoveStateful: the owner hands it over first, once that was said also if nobody
// wants it to any more.
func TestMoveStateful(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := working(t)
		r.moveTo("h3", 2)
		waits := "[] assigned h2 1.2 it is to move to h3, when h2 has said that it serves it no more"
		r.wantHas("db1", waits)
		if r.own("db1").To != "h3" {
			t.Fatalf("%+v", r.own("db1"))
		}
		r.moveTo("", 0)
		if r.own("db1").To != "h3" {
			t.Fatalf("%+v", r.own("db1"))
		}
		r.moveTo("h3", 2)
		r.works("h2", cluster.PortStandby, cluster.WorkloadStopping)
		r.works("h2", cluster.PortReleased, cluster.WorkloadStopping) // which no agent says
		r.wantHas("db1", waits)
		r.works("h2", cluster.PortReleased, cluster.WorkloadStopped)
		r.wantHas("db1", "[] assigned h3 1.3 ")
		if r.own("db1").To != "" {
			t.Errorf("%+v", r.own("db1"))
		}
		r.works("h1", cluster.PortFailed, cluster.WorkloadUnknown)
		r.moveTo("h1", 3)
		r.wantHas("db1", "[] assigned h3 1.3 it is to move to h1, where it is failed, and its workload unknown")
		r.works("h1", cluster.PortStandby, cluster.WorkloadStopped)
		r.delete(cluster.KeyLive("h3"))
		r.moveTo("h1", 3)
		r.wantHas("db1", "[] assigned h3 1.3 it is to move to h1, when h3 has said that it serves it no more")
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.ForcedFrom = cluster.InEpoch{Node: "h3", Epoch: 3} })
		r.wantHas("db1", "[] assigned h1 1.4 ")
	})
}

// TestStatefulOfRemovedNode: that its node is none any more does not end it there.
func TestStatefulOfRemovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := working(t)
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h1,h3" })
		pass(5 * time.Second)
		if own := r.own("db1"); own.Node != "h2" || own.Epoch != 2 {
			t.Fatalf("%+v", own)
		}
		r.works("h2", cluster.PortReleased, cluster.WorkloadStopped)
		pass(5 * time.Second)
		if own := r.own("db1"); own.Node != "h3" {
			t.Errorf("%+v", own)
		}
	})
}

// TestWorkloadFails: the next one gets it, after three nobody has it, and the history
// tells of each; an operator's word begins anew.
func TestWorkloadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := working(t)
		for _, next := range []string{"h3", "h1", ""} {
			own := r.own("db1")
			r.works(own.Node, cluster.PortFailed, cluster.WorkloadFailed)
			pass(time.Second)
			if got := r.own("db1").Node; got != next {
				t.Fatalf("it goes from %s to %q, want %q: %s", own.Node, got, next, r.has("db1"))
			}
			for _, h := range []string{"h1", "h2", "h3"} {
				if h != next {
					r.works(h, cluster.PortStandby, cluster.WorkloadStopped)
				}
			}
		}
		pass(time.Minute)
		if own := r.own("db1"); own.State != cluster.OwnUnplaced || !strings.Contains(own.Reason, "its workload failed at h2, h3, h1") {
			t.Errorf("%+v", own)
		}
		if text := r.rung(); !strings.Contains(text, "from h1 to no node, epoch 5: its workload failed at h1: start: no disk") {
			t.Errorf("alarms:\n%s", text)
		}
		r.moveTo("h3", r.own("db1").Epoch)
		r.wantHas("db1", "[] assigned h3 1.6 ")
	})
}

// TestRestoredStateful: where a store went back in time, nobody knows where it runs,
// until its node says that it does, or an operator.
func TestRestoredStateful(t *testing.T) {
	for name, tt := range map[string]struct {
		then func(r *rig)
		want string
	}{
		"it runs": {func(r *rig) { r.works("h2", cluster.PortReady, cluster.WorkloadRunning) }, "h2"},
		"an operator knows": {func(r *rig) {
			own := r.own("db1")
			r.editEndpoint("db1", func(s *cluster.EndpointSpec) {
				s.Failover.MoveTo = cluster.InEpoch{Node: "h2", Epoch: own.Epoch}
				s.ForcedFrom = s.Failover.MoveTo
			})
		}, "h2"},
		"that it is elsewhere": {func(r *rig) {
			own := r.own("db1")
			r.editEndpoint("db1", func(s *cluster.EndpointSpec) {
				s.Failover.MoveTo, s.ForcedFrom = cluster.InEpoch{Node: "h3", Epoch: own.Epoch}, cluster.InEpoch{Node: "h2", Epoch: own.Epoch}
			})
		}, "h3"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := working(t)
				c := get[*cluster.Config](r, cluster.KeyConfig)
				c.Era, c.ConfirmedEra = 2, 2
				r.put(cluster.KeyConfig, c)
				pass(time.Minute)
				if own := r.own("db1"); !own.Restored || own.Node != "h2" || own.Era != 2 {
					t.Fatalf("%+v", own)
				}
				r.works("h2", cluster.PortStandby, cluster.WorkloadStopped)
				r.moveTo("h3", r.own("db1").Epoch) // not by that
				pass(time.Minute)
				if own := r.own("db1"); !own.Restored || own.Node != "h2" || own.To != "" {
					t.Fatalf("%+v", own)
				}
				tt.then(r)
				pass(5 * time.Second)
				if own := r.own("db1"); own.Restored || own.Node != tt.want {
					t.Errorf("%+v", own)
				}
			})
		})
	}
}
