package controller

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// twoVPCs is a cluster at rest: three hosts, two VPCs.
func twoVPCs(t *testing.T) *rig {
	r := newRig(t)
	r.startHosts()
	for i := range 3 {
		r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
	}
	r.vpc("red", spec("h1,h3", "10.100.0.0/16"))
	r.vpc("blue", spec("all", "fd00:100::/64"))
	return r
}

// TestVanishedRecords deletes every record that the controller writes, one by
// one, then all of them, with and without the specs. What comes back is what
// was.
func TestVanishedRecords(t *testing.T) {
	for _, transport := range []cluster.Transport{"", cluster.P2P} {
		t.Run(string(transport), func(t *testing.T) { vanishedRecords(t, transport) })
	}
}

func vanishedRecords(t *testing.T, transport cluster.Transport) {
	keysOf := func(r *rig, prefixes ...string) []string {
		var keys []string
		for line := range strings.Lines(r.dump(prefixes...)) {
			key, _, _ := strings.Cut(line, " ")
			keys = append(keys, cluster.Root+key)
		}
		return keys
	}
	all := []string{cluster.PrefixVPCs, cluster.PrefixHosts, cluster.PrefixAlloc}
	check := func(t *testing.T, pick func(r *rig) (gone, again []string)) {
		synctest.Test(t, func(t *testing.T) {
			r := twoVPCs(t)
			r.transport("blue", transport)
			r.start("a", r.mem)
			settle()
			want := r.dump(all...)
			gone, again := pick(r)
			specs := map[string]*cluster.VPCSpec{}
			for _, key := range again {
				specs[key] = get[*cluster.VPCSpec](r, key)
			}
			r.delete(gone...)
			settle()
			pass(2 * time.Minute) // nothing is reclaimed meanwhile
			for key, s := range specs {
				r.put(key, s)
			}
			settle()
			if diff := cmp.Diff(want, r.dump(all...)); diff != "" {
				t.Errorf("after %d keys vanished (-want +got):\n%s", len(gone), diff)
			}
		})
	}
	specs := []string{cluster.KeyVPCSpec("red"), cluster.KeyVPCSpec("blue")}
	one := 0
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		r.transport("blue", transport)
		r.start("a", r.mem)
		settle()
		one = len(keysOf(r, all...))
	})
	if one < 20 {
		t.Fatalf("only %d records", one)
	}
	for i := range one {
		check(t, func(r *rig) (gone, again []string) {
			key := keysOf(r, all...)[i]
			if strings.HasSuffix(key, "/spec") {
				again = []string{key}
			}
			return []string{key}, again
		})
	}
	t.Run("all but specs", func(t *testing.T) {
		check(t, func(r *rig) (gone, again []string) {
			for _, key := range keysOf(r, cluster.PrefixVPCs, cluster.PrefixHosts) {
				if !strings.HasSuffix(key, "/spec") {
					gone = append(gone, key)
				}
			}
			return gone, nil
		})
	})
	t.Run("all of vpcs and hosts", func(t *testing.T) {
		check(t, func(r *rig) (gone, again []string) { return keysOf(r, cluster.PrefixVPCs, cluster.PrefixHosts), specs })
	})
	t.Run("reverse keys too", func(t *testing.T) {
		check(t, func(r *rig) (gone, again []string) { return keysOf(r, all...), specs })
	})
}

func TestSelectorChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		r.start("a", r.mem)
		settle()
		before := get[*cluster.Member](r, cluster.KeyMember("red", "h3"))
		r.edit("red", func(s *cluster.VPCSpec) { s.Members = "h1,h2" })
		settle()
		if get[*cluster.Member](r, cluster.KeyMember("red", "h3")) != nil || get[*cluster.HostVPC](r, cluster.KeyHostVPC("h3", "red")) != nil {
			t.Error("h3 has not left")
		}
		if m := get[*cluster.Member](r, cluster.KeyMember("red", "h2")); m == nil || m.VTEP == before.VTEP {
			t.Errorf("h2 is %v, with the address of h3 in quarantine", m)
		}
		r.edit("red", func(s *cluster.VPCSpec) { s.Members = "all" })
		settle()
		if diff := cmp.Diff(before, get[*cluster.Member](r, cluster.KeyMember("red", "h3")), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
			t.Errorf("h3 came back as another (-want +got):\n%s", diff)
		}
		if s := get[*cluster.VPCStatus](r, cluster.KeyVPCStatus("h3", "red")); s == nil || s.State != cluster.HostMember {
			t.Errorf("h3 reports %v", s)
		}
	})
}

// TestLeavingEndsBeforeJoining selects a dead host again while it is leaving.
func TestLeavingEndsBeforeJoining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		r.start("a", r.mem)
		settle()
		r.hosts.set("h3", true)
		r.edit("red", func(s *cluster.VPCSpec) { s.Members = "h1" })
		settle()
		r.edit("red", func(s *cluster.VPCSpec) { s.Members = "h1,h3" })
		settle()
		if a := get[*cluster.HostVPC](r, cluster.KeyHostVPC("h3", "red")); a == nil || a.State != cluster.AssignedLeaving {
			t.Errorf("assignment %v, want leaving", a)
		}
		r.hosts.set("h3", false)
		settle()
		if a := get[*cluster.HostVPC](r, cluster.KeyHostVPC("h3", "red")); a == nil || a.State != cluster.AssignedMember {
			t.Errorf("assignment %v, want member", a)
		}
	})
}

func TestDeleteWithDeadHost(t *testing.T) {
	for name, force := range map[string]bool{"waits": false, "forced": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := twoVPCs(t)
				r.start("a", r.mem)
				settle()
				r.hosts.set("h3", true)
				r.delete(cluster.KeyLive("h3"))
				r.edit("red", func(s *cluster.VPCSpec) { s.State, s.Force = cluster.VPCDeleting, force })
				settle()
				if gone := get[*cluster.VPCSpec](r, cluster.KeyVPCSpec("red")) == nil; gone != force {
					t.Errorf("the VPC is gone: %v, want %v", gone, force)
				}
				pass(2 * time.Minute)
				if a := get[*cluster.HostVPC](r, cluster.KeyHostVPC("h3", "red")); a == nil || a.State != cluster.AssignedLeaving {
					t.Errorf("the word for h3 is %v", a)
				}
				red := get[*cluster.Allocation](r, cluster.KeyAllocVNI(10001))
				if red == nil || red.Holder != "red" {
					t.Errorf("the VNI that h3 still has is held by %v", red)
				}
				r.hosts.set("h3", false)
				settle()
				pass(2 * time.Minute)
				got := r.dump(cluster.PrefixVPC("red"), cluster.KeyHostVPC("h3", "red"), cluster.PrefixAllocVTEP("red"), cluster.KeyAllocVNI(10001), cluster.PrefixStatus("h3")+"vpcs/red")
				if got != "" {
					t.Errorf("left over:\n%s", got)
				}
			})
		})
	}
}

func TestAddressChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		r.start("a", r.mem)
		settle()
		before := r.mem.Revision()
		r.report("h3", "192.0.2.33", 1500)
		settle()
		for _, vpc := range []string{"red", "blue"} {
			if m := get[*cluster.Member](r, cluster.KeyMember(vpc, "h3")); m.Underlay().String() != "192.0.2.33" {
				t.Errorf("in %s, h3 is at %s", vpc, m.Underlay())
			}
		}
		if n := r.mem.Revision() - before; n != 3 { // the report, a transaction a VPC
			t.Errorf("%d revisions, want 3", n)
		}
		// The address of another node is not to be had.
		r.report("h3", "192.0.2.1", 1500)
		settle()
		if m := get[*cluster.Member](r, cluster.KeyMember("blue", "h3")); m.Underlay().String() != "192.0.2.33" {
			t.Errorf("h3 took the address of h1: %s", m.Underlay())
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); !strings.Contains(n.Refused["h3"], "is h1's") {
			t.Errorf("%q does not name the holder", n.Refused["h3"])
		}
		// It is, once the other has gone.
		r.editNode("h1", func(n *cluster.Node) { n.State = cluster.NodeLeft })
		settle()
		if m := get[*cluster.Member](r, cluster.KeyMember("blue", "h3")); m.Underlay().String() != "192.0.2.1" {
			t.Errorf("h3 is at %s", m.Underlay())
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); len(n.Refused) > 0 {
			t.Errorf("%q stays", n.Refused)
		}
	})
}

func TestFreedAddressIsGivenToWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		for i := range 3 {
			r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
		}
		r.vpc("tiny", spec("all", "10.9.0.0/30"))
		settle()
		const want = "10.9.0.0/30 fits 2 members, 3 nodes are selected"
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("tiny")); n.Refused["h3"] != want {
			t.Errorf("h3 is refused with %q", n.Refused["h3"])
		}
		r.editNode("h1", func(n *cluster.Node) { n.State = cluster.NodeLeft })
		settle()
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("tiny")); !strings.Contains(n.Refused["h3"], "free again only after 1m0s") {
			t.Errorf("h3 is refused with %q", n.Refused["h3"])
		}
		pass(61 * time.Second)
		if m := get[*cluster.Member](r, cluster.KeyMember("tiny", "h3")); m == nil || m.VTEP.String() != "10.9.0.1" {
			t.Errorf("h3 is %v", m)
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("tiny")); n.Refused != nil {
			t.Errorf("refused: %v", n.Refused)
		}
	})
}

// TestFrozenLeader freezes a leader that has decided, lets another take over
// and decide otherwise, and thaws the first.
func TestFrozenLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		first := &faulty{KV: r.mem}
		r.start("first", first)
		settle()
		r.start("second", r.mem)
		settle()
		first.freeze()
		r.join("h4", "192.0.2.4") // the first one decides, and gets stuck
		pass(time.Second)
		if get[*cluster.Member](r, cluster.KeyMember("blue", "h4")) != nil {
			t.Fatal("the frozen leader wrote")
		}
		r.delete(cluster.KeyNode("h4"), cluster.KeyNodeStatus("h4"))
		r.join("h5", "192.0.2.5")
		pass(30 * time.Second)
		if l := get[*cluster.Leader](r, cluster.KeyLeader); l == nil || l.Name != "second" {
			t.Fatalf("leader is %v", l)
		}
		want := r.controlled()
		if !strings.Contains(want, "members/h5") {
			t.Fatal("the second leader did nothing")
		}
		first.thaw()
		pass(30 * time.Second)
		if diff := cmp.Diff(want, r.controlled()); diff != "" {
			t.Errorf("the thawed leader wrote (-want +got):\n%s", diff)
		}
		if l := get[*cluster.Leader](r, cluster.KeyLeader); l.Name != "second" {
			t.Errorf("leader is %v", l)
		}
	})
}

// TestLeaderChangesMidBatch ends a leader of a VPC of many hosts.
func TestLeaderChangesMidBatch(t *testing.T) {
	const nodes = 60
	leaderChanges(t, nodes, 6, spec("all", "10.100.0.0/16"), func(*rig) {}, func(r *rig) {
		if n := strings.Count(r.controlled(), "vpcs/blue/members/"); n != nodes {
			r.t.Errorf("%d members, want %d", n, nodes)
		}
	})
}

// leaderChanges ends a leader after each number, below txns, of transactions for
// the VPC blue of that many nodes: its last one lost or done without an answer.
// The next one goes on, and ends where a leader without fault does. between looks
// at what the first has left, whole at what the second has made.
func leaderChanges(t *testing.T, nodes, txns int, s *cluster.VPCSpec, between, whole func(*rig)) {
	var want string
	for _, lose := range []lost{loseNothing, loseRequest, loseAnswer} {
		for after := range txns {
			t.Run(fmt.Sprintf("%d after %d", lose, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newRig(t)
					for i := range nodes {
						r.join(fmt.Sprintf("h%02d", i), fmt.Sprintf("192.0.2.%d", i+1))
					}
					first := &faulty{KV: r.mem}
					stop := r.start("first", first)
					settle()
					begun := first.txns
					first.onTxn = func(n int) lost {
						switch {
						case n < begun+after:
							return loseNothing
						case n == begun+after:
							return lose
						}
						return loseRequest
					}
					r.vpc("blue", s)
					settle()
					between(r)
					stop()
					first.onTxn = nil
					r.start("second", r.mem)
					pass(time.Minute)
					whole(r)
					got := r.controlled()
					if want == "" {
						want = got
					}
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("not what a leader without fault makes (-want +got):\n%s", diff)
					}
				})
			})
		}
	}
}

// TestStoreGoesBack restores an old snapshot under a running controller. What
// hosts were given since is not given to others.
func TestStoreGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.vpc("blue", spec("all", "10.100.0.0/16"))
		settle()
		old := r.mem.Snapshot()
		r.join("h2", "192.0.2.2")
		r.vpc("red", spec("h2", "10.100.0.0/16"))
		settle()
		reports := map[string]*cluster.VPCStatus{}
		for _, vpc := range []string{"blue", "red"} {
			key := cluster.KeyVPCStatus("h2", vpc)
			reports[key] = get[*cluster.VPCStatus](r, key)
		}
		r.mem.Restore(old)
		for key, s := range reports { // the host says all again
			s.State, s.Reason = cluster.HostHolding, "the store went back"
			r.put(key, s)
		}
		r.join("h3", "192.0.2.3")
		r.vpc("other", spec("h3", "10.100.0.0/16"))
		pass(5 * time.Minute)
		if m := get[*cluster.Member](r, cluster.KeyMember("blue", "h3")); m == nil || m.VTEP.String() != "10.100.0.3" {
			t.Errorf("h3 is %v; h2 has 10.100.0.2", m)
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("other")); n == nil || n.VNI != 10002 {
			t.Errorf("the new VPC is %v; red has VNI 10001 on h2", n)
		}
		r.join("h2", "192.0.2.2")
		r.vpc("red", spec("h2", "10.100.0.0/16"))
		settle()
		if m := get[*cluster.Member](r, cluster.KeyMember("blue", "h2")); m == nil || m.VTEP.String() != "10.100.0.2" {
			t.Errorf("h2 came back as %v", m)
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("red")); n == nil || n.VNI != 10001 {
			t.Errorf("red came back as %v", n)
		}
	})
}

func TestStoreOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := twoVPCs(t)
		r.start("a", r.mem)
		settle()
		want := r.controlled()
		r.mem.SetDown(true)
		pass(5 * time.Minute)
		r.mem.SetDown(false)
		pass(time.Minute)
		if diff := cmp.Diff(want, r.controlled()); diff != "" {
			t.Errorf("after an outage (-want +got):\n%s", diff)
		}
		r.join("h4", "192.0.2.4")
		pass(time.Minute)
		if get[*cluster.Member](r, cluster.KeyMember("blue", "h4")) == nil {
			t.Error("h4 is no member")
		}
	})
}

func TestNewChecksItsConfig(t *testing.T) {
	r := newRig(t)
	for name, cfg := range map[string]Config{
		"no store":       {Name: "a"},
		"no name":        {Store: r.op},
		"wrong identity": {Store: r.op, Name: "a"},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

var _ mvcc.KV = (*faulty)(nil)
