package controller

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// meshed is networked with three members, h1 to h3.
func meshed(t *testing.T) *rig {
	r := networked(t)
	r.join("h2", "192.0.2.2")
	r.join("h3", "192.0.2.3")
	settle()
	return r
}

// request writes a request as the agent of node does.
func (r *rig) request(node, endpoint string, want cluster.Want, create bool) {
	r.t.Helper()
	r.put(cluster.KeyRequest(node, "blue", endpoint), &cluster.Request{NodeID: "id-" + node, Want: want, Create: create})
}

// port reports how an endpoint is on a node, in the epoch of its own record.
func (r *rig) port(node, endpoint string, state cluster.PortState) {
	r.t.Helper()
	s := &cluster.EndpointStatus{NodeID: "id-" + node, State: state}
	if own := r.own(endpoint); own != nil {
		s.Era, s.Epoch = own.Era, own.Epoch
	}
	r.put(cluster.KeyEndpointStatus(node, "blue", endpoint), s)
	settle()
}

// editEndpoint changes a spec as the operator does.
func (r *rig) editEndpoint(name string, f func(*cluster.EndpointSpec)) {
	r.t.Helper()
	it, err := store.Get[*cluster.EndpointSpec](r.t.Context(), r.op, cluster.KeyEndpointSpec("blue", name))
	if err != nil {
		r.t.Fatal(err)
	}
	f(it.Value)
	r.put(it.Key, it.Value)
	settle()
}

func (r *rig) wantNoRequests() {
	r.t.Helper()
	settle()
	if got := r.dump(cluster.PrefixReqs); got != "" {
		r.t.Errorf("requests that stay:\n%s", got)
	}
}

// TestAttach hands an endpoint from node to node as they ask and release.
func TestAttach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.endpoint("web1", "auto")
		settle()
		before := r.mem.Revision()
		r.request("h1", "web1", cluster.WantAttach, false)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		if n := r.mem.Revision() - before; n != 2 {
			t.Errorf("a request and its answer took %d revisions, want 2", n)
		}
		r.wantNoRequests()
		r.request("h1", "web1", cluster.WantAttach, true) // it is its own
		r.request("h2", "web1", cluster.WantAttach, false)
		r.wantNoRequests()
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		r.port("h1", "web1", cluster.PortReady)
		r.request("h2", "web1", cluster.WantAttach, false)
		r.wantNoRequests()
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		r.port("h2", "web1", cluster.PortReleased) // not the owner
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.2 ")
		r.port("h1", "web1", cluster.PortReleased)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] unplaced  1.3 ")
		r.request("h1", "web1", cluster.WantAttach, false)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h1 1.4 ")
		r.editNode("h1", func(n *cluster.Node) { n.State = cluster.NodeLeft })
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] unplaced  1.5 ")
		r.request("h2", "web1", cluster.WantAttach, false)
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] assigned h2 1.6 ")
	})
}

// TestAttachAgain: who ended an epoch and asks again has a greater one, where the
// endpoint is bound, too.
func TestAttachAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.put(cluster.KeyEndpointSpec("blue", "db1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Node: "h1"})
		r.wantHas("db1", "[] assigned h1 1.1 ")
		r.port("h1", "db1", cluster.PortReleased)
		r.wantHas("db1", "[] assigned h1 1.1 ")
		r.request("h2", "db1", cluster.WantAttach, false)
		r.request("h1", "db1", cluster.WantAttach, false)
		r.wantHas("db1", "[] assigned h1 1.2 ")
		r.wantNoRequests()
	})
}

// TestAttachAtOnce: one of many that ask at the same time has it.
func TestAttachAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		for _, create := range []bool{false, true} {
			name := fmt.Sprintf("web-%v", create)
			if !create {
				r.endpoint(name, "auto")
			}
			r.request("h3", name, cluster.WantAttach, create)
			r.request("h1", name, cluster.WantAttach, create)
			r.request("h2", name, cluster.WantAttach, create)
			r.wantNoRequests()
			if o := r.own(name); o.Node != "h3" || o.Epoch > 2 {
				t.Errorf("%s: %+v, want h3 to have it, who asked first", name, o)
			}
		}
	})
}

func TestCreateByRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		before := r.mem.Revision()
		r.request("h1", "pod1", cluster.WantAttach, true)
		r.wantHas("pod1", "[10.10.11.2 fd00:11::1] assigned h1 1.1 ")
		if n := r.mem.Revision() - before; n != 2 {
			t.Errorf("making it took %d revisions, want 2", n)
		}
		if s := get[*cluster.EndpointSpec](r, cluster.KeyEndpointSpec("blue", "pod1")); s.Requester != "h1" || !s.Auto || s.Node != "" {
			t.Errorf("its spec is %+v", s)
		}
		r.request("h2", "pod1", cluster.WantDelete, false) // not its
		r.wantNoRequests()
		r.wantHas("pod1", "[10.10.11.2 fd00:11::1] assigned h1 1.1 ")
		r.port("h1", "pod1", cluster.PortReleased)
		r.request("h2", "pod1", cluster.WantAttach, true) // as anybody, by then
		r.wantHas("pod1", "[10.10.11.2 fd00:11::1] assigned h2 1.3 ")
		r.request("h1", "pod1", cluster.WantDelete, false) // another serves it
		r.wantNoRequests()
		r.wantHas("pod1", "[10.10.11.2 fd00:11::1] assigned h2 1.3 ")
		r.port("h2", "pod1", cluster.PortReleased)
		r.request("h1", "pod1", cluster.WantDelete, false)
		r.wantNoRequests()
		if got := r.dump(cluster.PrefixEndpoints("blue"), cluster.PrefixStatus("h1")+"endpoints/", cluster.PrefixStatus("h2")+"endpoints/"); got != "" {
			t.Errorf("left of it:\n%s", got)
		}
		if got := r.dump(cluster.PrefixAllocIP("blue")); strings.Count(got, `"released":true`) != 2 {
			t.Errorf("its addresses are not given back:\n%s", got)
		}
		r.endpoint("web1", "auto") // an operator's
		settle()
		r.request("h1", "web1", cluster.WantDelete, false)
		r.request("h1", "web1", cluster.WantAttach, true)
		r.wantNoRequests()
		if s := get[*cluster.EndpointSpec](r, cluster.KeyEndpointSpec("blue", "web1")); s.State != cluster.EndpointActive || s.Requester != "" {
			t.Errorf("the operator's is %+v", s)
		}
	})
}

// TestRequestIsRefused deletes what cannot be answered, and makes nothing of it.
func TestRequestIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.node("h9") // no member: it does not report
		r.endpoint("bound", "auto")
		r.editEndpoint("bound", func(s *cluster.EndpointSpec) { s.Node = "h1" })
		before := r.dump(cluster.PrefixVPCs, cluster.PrefixAlloc)
		r.request("h1", "none", cluster.WantAttach, false)
		r.request("h1", "none", cluster.WantDelete, false)
		r.request("h2", "bound", cluster.WantAttach, true)
		r.request("h9", "pod1", cluster.WantAttach, true)
		r.request("h8", "pod1", cluster.WantAttach, true)
		r.put(cluster.KeyRequest("h3", "blue", "pod1"), &cluster.Request{NodeID: "another", Want: cluster.WantAttach, Create: true})
		r.put(cluster.KeyRequest("h3", "red", "pod1"), &cluster.Request{NodeID: "id-h3", Want: cluster.WantAttach, Create: true})
		r.raw(cluster.KeyRequest("h3", "blue", "pod2"), "junk")
		r.wantNoRequests()
		if got := r.dump(cluster.PrefixVPCs, cluster.PrefixAlloc); got != before {
			t.Errorf("it became\n%s\nwas\n%s", got, before)
		}
	})
}

// TestRequestWaits for a name that is being deleted, and for a VPC that is coming up,
// a minute at most.
func TestRequestWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		r.request("h1", "pod1", cluster.WantAttach, true)
		settle()
		r.editEndpoint("pod1", func(s *cluster.EndpointSpec) { s.State = cluster.EndpointDeleting })
		r.request("h1", "pod1", cluster.WantAttach, true)
		r.wantNoRequests()
		if r.own("pod1") == nil {
			t.Error("pod1 is not made again")
		}

		late := spec("h1,h5", "10.100.0.0/16")
		late.MTU = 9000
		r.vpc("late", late)
		settle()
		r.put(cluster.KeyRequest("h1", "late", "pod1"), &cluster.Request{NodeID: "id-h1", Want: cluster.WantAttach, Create: true})
		r.put(cluster.KeyRequest("h2", "late", "pod1"), &cluster.Request{NodeID: "id-h2", Want: cluster.WantAttach, Create: true})
		pass(59 * time.Second)
		if got := r.dump(cluster.PrefixReqs); strings.Count(got, "\n") != 1 || !strings.Contains(got, "h1/late") {
			t.Errorf("requests of a VPC that waits, for less than a minute:\n%s", got)
		}
		pass(2 * time.Second)
		r.wantNoRequests()
		r.put(cluster.KeyRequest("h1", "late", "pod1"), &cluster.Request{NodeID: "id-h1", Want: cluster.WantAttach, Create: true})
		pass(30 * time.Second)
		r.edit("late", func(s *cluster.VPCSpec) { s.MTU = 0 })
		r.wantNoRequests()
		if own := get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("late", "pod1")); own == nil || own.Node != "h1" {
			t.Errorf("pod1 has %+v after the VPC came up", own)
		}
	})
}

// TestRequestMeetsFullPool says why in the record that it made.
func TestRequestMeetsFullPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := meshed(t)
		for i := range 5 {
			r.request(fmt.Sprintf("h%d", 1+i%2), fmt.Sprintf("pod%d", i), cluster.WantAttach, true)
			settle()
		}
		r.request("h3", "pod5", cluster.WantAttach, true)
		full := "[] pending  0.0 10.10.11.0/29 is full: 5 addresses, most at h1 (3), and released ones are free again only after 1m0s"
		r.wantHas("pod5", full)
		r.request("h2", "pod1", cluster.WantDelete, false)
		r.wantHas("pod5", full)
		r.wantNoRequests()
		pass(61 * time.Second)
		r.wantHas("pod5", "[10.10.11.3 fd00:11::2] unplaced  1.1 ")
	})
}
