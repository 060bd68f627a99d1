package controller

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestVPCComesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.join("h2", "192.0.2.2")
		settle()
		before := r.mem.Revision()
		r.vpc("blue", spec("all", "10.100.0.0/16"))
		settle()
		const want = `vpcs/blue/members/h1 {"node_id":"id-h1","datacenter":"dc1","vtep":"10.100.0.1","underlay_ipv4":"192.0.2.1","transport":"multipoint"}
vpcs/blue/members/h2 {"node_id":"id-h2","datacenter":"dc1","vtep":"10.100.0.2","underlay_ipv4":"192.0.2.2","transport":"multipoint"}
vpcs/blue/net {"phase":"active","vni":10000,"mtu":1450,"peer_network":"10.100.0.0/16"}
hosts/h1/vpcs/blue {"state":"member"}
hosts/h2/vpcs/blue {"state":"member"}
alloc/vni/00010000 {"holder":"blue"}
alloc/vtep/blue/10.100.0.1 {"holder":"h1"}
alloc/vtep/blue/10.100.0.2 {"holder":"h2"}
`
		if diff := cmp.Diff(want, r.controlled()); diff != "" {
			t.Errorf("records (-want +got):\n%s", diff)
		}
		if n := r.mem.Revision() - before; n != 4 { // spec, one of the controller, two reports
			t.Errorf("%d revisions, want 4", n)
		}
		rev := r.mem.Revision()
		r.put(cluster.KeyServer("s1"), &cluster.Server{Address: "192.0.2.9:2379"})
		settle()
		if n := r.mem.Revision() - rev; n != 1 {
			t.Errorf("a pass that changes nothing wrote %d times", n-1)
		}
	})
}

func TestNodeJoinsAndIsRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.vpc("blue", spec("all", "10.100.0.0/16"))
		settle()
		before := r.mem.Revision()
		r.join("h2", "192.0.2.2")
		settle()
		if n := r.mem.Revision() - before; n != 5 { // node, live, report, one of the controller, report
			t.Errorf("a join took %d revisions, want 5", n)
		}
		if m := get[*cluster.Member](r, cluster.KeyMember("blue", "h2")); m == nil {
			t.Fatal("h2 is no member")
		}
		r.editNode("h2", func(n *cluster.Node) { n.State = cluster.NodeLeft })
		settle()
		if got := r.dump(cluster.PrefixMembers("blue"), cluster.PrefixHosts, cluster.PrefixStatus("h2")); got != `vpcs/blue/members/h1 {"node_id":"id-h1","datacenter":"dc1","vtep":"10.100.0.1","underlay_ipv4":"192.0.2.1","transport":"multipoint"}
hosts/h1/vpcs/blue {"state":"member"}
` {
			t.Errorf("after the removal:\n%s", got)
		}
		if a := get[*cluster.Allocation](r, cluster.PrefixAllocVTEP("blue")+"10.100.0.2"); a == nil || !a.Released {
			t.Errorf("the address is not in quarantine: %v", a)
		}
		pass(61e9)
		if a := get[*cluster.Allocation](r, cluster.PrefixAllocVTEP("blue")+"10.100.0.2"); a != nil {
			t.Errorf("the address is not free after quarantine: %v", a)
		}
	})
}

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		r.start("a", r.mem)
		r.join("h1", "192.0.2.1")
		r.join("h2", "192.0.2.2")
		r.vpc("blue", spec("all", "10.100.0.0/16"))
		settle()
		r.edit("blue", func(s *cluster.VPCSpec) { s.State = cluster.VPCDeleting })
		settle()
		if got := r.dump(cluster.PrefixVPCs, cluster.PrefixHosts); got != "" {
			t.Errorf("after the deletion:\n%s", got)
		}
		pass(61e9)
		if got := r.dump(cluster.PrefixAlloc); got != "" {
			t.Errorf("leaked:\n%s", got)
		}
	})
}
