package controller

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// moving is meshed with db1, which moves by itself between these places.
func moving(t *testing.T, places ...cluster.Selector) *rig {
	r := meshed(t)
	r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive,
		Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: places}})
	settle()
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

// TestAskBesideAnother: who asks does not get what its node may not have beside what it
// has, also if both are asked for at once.
func TestAskBesideAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h2", "h3")
		db2 := &cluster.EndpointSpec{State: cluster.EndpointActive, Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"h2", "h3"}, Apart: "db"}}
		r.put(cluster.KeyEndpointSpec("blue", "db2"), db2)
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.Failover.Apart = "db" })
		settle()
		ask := func(node, endpoint string) mvcc.Op {
			return r.written(cluster.KeyRequest(node, "blue", endpoint), &cluster.Request{NodeID: "id-" + node, Want: cluster.WantAttach, At: cluster.At(time.Now())})
		}
		r.txn(ask("h2", "db1"), ask("h2", "db2"))
		r.wantHas("db1", "[] assigned h2 1.2 ")
		r.wantHas("db2", "[] unplaced  1.1 ")
		r.txn(ask("h3", "db2"))
		r.wantHas("db2", "[] assigned h3 1.2 ")
		r.wantNoRequests()
	})
}

// TestMoveWhatMoves: an operator's word counts in the epoch that it was said in, once,
// and not while the old owner may serve it.
func TestMoveWhatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h2", "h3")
		r.request("h2", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] assigned h2 1.2 ")
		r.port("h2", "db1", cluster.PortReady)
		move := func(to string, epoch int64) {
			r.editEndpoint("db1", func(s *cluster.EndpointSpec) {
				s.Failover.MoveTo = cluster.InEpoch{Node: to, Epoch: epoch}
			})
		}
		move("h3", 1) // long ago
		r.wantHas("db1", "[] assigned h2 1.2 ")
		move("h3", 2)
		r.wantHas("db1", "[] assigned h3 1.3 ")
		r.port("h3", "db1", cluster.PortReady)
		move("h2", 3)
		r.wantHas("db1", "[] assigned h2 1.4 ")
		r.port("h2", "db1", cluster.PortReady)
		r.delete(cluster.KeyLive("h2"))
		move("h3", 4)
		r.wantHas("db1", "[] assigned h2 1.4 it is to move to h3, and stays at h2, which had it and does not answer")
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.ForcedFrom = cluster.InEpoch{Node: "h2", Epoch: 4} })
		r.wantHas("db1", "[] assigned h3 1.5 ")
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

// served is moving, with db1 at h2 and in standby at h3, and observers that say what
// tells: a profile's whole time has gone by since the leader began.
func served(t *testing.T) *rig {
	r := moving(t, "h2", "h3")
	r.request("h2", "db1", cluster.WantAttach, false)
	settle()
	r.port("h2", "db1", cluster.PortReady)
	r.port("h3", "db1", cluster.PortStandby)
	r.put(cluster.KeyNode("w"), &cluster.Node{ID: "id-w", Datacenter: "third", State: cluster.NodeActive})
	pass(10 * time.Second)
	return r
}

// suspect has observers miss nodes for a time, as they do: anew each period.
func (r *rig) suspect(nodes string, d time.Duration, observers ...string) {
	period := cluster.ProfileDefault.Timings().Probe
	var suspects []cluster.Suspect
	for node := range strings.FieldsSeq(nodes) {
		suspects = append(suspects, cluster.Suspect{Node: node})
	}
	for ; d > 0; d -= period {
		for _, o := range observers {
			r.put(cluster.KeyVerdicts(o), &cluster.Verdicts{NodeID: "id-" + o, Counter: r.mem.Revision(), Suspects: suspects})
		}
		pass(period)
	}
}

// TestNodeIsLost: it is fenced, and when the others have said so its endpoint is
// another's; the history and the judgement tell of it, and a hold keeps it off.
func TestNodeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := served(t)
		r.put(cluster.KeyEndpointHold("blue", "db1"), &cluster.Hold{})
		r.suspect("h2", 6*time.Second, "h1", "h3", "w")
		r.wantHas("db1", "[] assigned h2 1.2 h2 is down: an operator holds it")
		r.delete(cluster.KeyEndpointHold("blue", "db1"))
		r.suspect("h2", time.Second, "h1", "h3", "w")
		f := get[*cluster.Fence](r, cluster.KeyFence("h2"))
		if f == nil || len(f.Underlay) != 1 || f.Underlay[0].String() != "192.0.2.2" || !strings.Contains(f.Why, "have not heard it") {
			t.Fatalf("fence: %+v", f)
		}
		r.suspect("h2", 3*time.Second, "h1", "h3", "w")
		own := r.own("db1")
		if own.Node != "h3" || own.Epoch != 3 || own.Moved == nil || own.Moved.From != "h2" || !slices.Equal(own.Moved.Unfenced, []string{"h1", "h3"}) {
			t.Errorf("own: %+v, moved %+v", own, own.Moved)
		}
		if j := get[*cluster.Judgement](r, cluster.KeyJudgement); j == nil || len(j.Nodes) != 1 || j.Nodes[0].Node != "h2" || j.Nodes[0].Class != cluster.ClassDown {
			t.Errorf("judgement: %+v", j)
		}
		if text := r.rung(); !strings.Contains(text, "found node h2: down: ") || !strings.Contains(text, "fenced node h2: ") || !strings.Contains(text, "moved endpoint db1") || strings.Contains(text, "admitted") {
			t.Errorf("alarms:\n%s", text)
		}
		pass(30 * time.Second)
		told, _ := r.events()
		if text := strings.Join(told, "\n"); !strings.Contains(text, "fenced node h2: ") || !strings.Contains(text, "moved endpoint db1 of VPC blue: from h2 to h3, epoch 3: ") {
			t.Errorf("told:\n%s", text)
		}
	})
}

// TestNodeIsGivenUp: in safe mode an operator's word has that node fenced, and what it
// has moved; what is lost with it stays.
func TestNodeIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := served(t)
		lost := "h1 h2" // of three nodes, which are no whole datacenter
		r.suspect(lost, 20*time.Second, "h3", "w")
		if j := get[*cluster.Judgement](r, cluster.KeyJudgement); j == nil || !strings.Contains(j.SafeMode, "2 of 3 nodes are lost") {
			t.Fatalf("judgement: %+v", j)
		}
		live := get[*cluster.Live](r, cluster.KeyLive("h2"))
		r.editNode("h2", func(n *cluster.Node) {
			n.GivenUp = &cluster.GivenUp{Incarnation: live.Incarnation, Counter: live.Counter, At: cluster.At(time.Now())}
		})
		r.suspect(lost, 3*time.Second, "h3", "w")
		if own := r.own("db1"); own.Node != "h3" || own.Moved == nil || !strings.HasPrefix(own.Moved.Why, "an operator gave it up: ") {
			t.Errorf("own: %+v, moved %+v", own, own.Moved)
		}
		if get[*cluster.Fence](r, cluster.KeyFence("h2")) == nil || get[*cluster.Fence](r, cluster.KeyFence("h1")) != nil {
			t.Error("want a fence of h2, and of it alone")
		}
	})
}

// TestLeaderFollowsTheProfile: its lease is as long as the failover profile says, also
// when that changes while it leads.
func TestLeaderFollowsTheProfile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		for _, profile := range []cluster.Profile{cluster.ProfileDefault, cluster.ProfileFast, cluster.ProfileDefault} {
			config := get[*cluster.Config](r, cluster.KeyConfig)
			config.Failover = profile
			r.put(cluster.KeyConfig, config)
			pass(time.Second)
			held, err := r.mem.Range(t.Context(), mvcc.RangeRequest{Key: cluster.KeyLeader})
			if err != nil || len(held.Keys) != 1 {
				t.Fatalf("nobody leads: %v", err)
			}
			ttl, err := r.mem.KeepAlive(t.Context(), held.Keys[0].Lease)
			if err != nil || ttl != profile.LeaderLease() {
				t.Errorf("%q: a lease of %s, %v; want %s", profile, ttl, err, profile.LeaderLease())
			}
		}
	})
}

// TestLeaderYields: who leads from where something is that can move has another lead
// that has nothing of the kind, once; where both have, or none, it stays.
func TestLeaderYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := moving(t, "h1", "h2", "h3")
		stop := r.start("h1", r.mem)
		for _, name := range []string{"a", "h1", "w"} {
			r.put(cluster.KeyServer(name), &cluster.Server{Datacenter: map[string]string{"h1": "hetzner", "a": "skynet"}[name],
				Address: "192.0.2.9:2379", Joined: cluster.At(time.Now()), Witness: name == "w"})
		}
		for name, dc := range map[string]string{"h1": "hetzner", "h2": "skynet", "h3": "skynet"} {
			r.editNode(name, func(n *cluster.Node) { n.Datacenter = dc })
		}
		leads := func(what, want string) {
			t.Helper()
			pass(15 * time.Second)
			if got := get[*cluster.Leader](r, cluster.KeyLeader); got == nil || got.Name != want {
				t.Errorf("%s: %+v leads, want %s", what, got, want)
			}
		}
		leads("nobody has it", "a")
		r.request("h2", "db1", cluster.WantAttach, false)
		leads("it is in the leader's datacenter, and nothing in the other", "h1")
		r.port("h2", "db1", cluster.PortReady)
		r.editEndpoint("db1", func(s *cluster.EndpointSpec) { s.Failover.MoveTo = cluster.InEpoch{Node: "h1", Epoch: 2} })
		r.wantHas("db1", "[] assigned h1 1.3 ")
		r.port("h1", "db1", cluster.PortReady)
		r.put(cluster.KeyEndpointSpec("blue", "db2"), &cluster.EndpointSpec{State: cluster.EndpointActive,
			Failover: cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}}})
		r.request("h2", "db2", cluster.WantAttach, false)
		leads("both have one", "h1")
		stop()
		leads("its own server has ended", "a")
	})
}
