package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// networked is an active VPC with room for six endpoints of IPv4, and IPv6.
func networked(t *testing.T) *rig {
	r := newRig(t)
	r.startHosts()
	r.start("a", r.mem)
	r.join("h1", "192.0.2.1")
	s := spec("all", "10.100.0.0/16")
	s.Network = cluster.Networks{IPv4: netip.MustParsePrefix("10.10.11.0/29"), IPv6: netip.MustParsePrefix("fd00:11::/64")}
	s.Exclude = []netip.Addr{netip.MustParseAddr("10.10.11.1")}
	r.vpc("blue", s)
	settle()
	return r
}

func (r *rig) endpoint(name string, ips ...string) {
	s := &cluster.EndpointSpec{State: cluster.EndpointActive}
	for _, ip := range ips {
		if ip == "auto" {
			s.Auto = true
			continue
		}
		s.IPs = append(s.IPs, netip.MustParseAddr(ip))
	}
	r.put(cluster.KeyEndpointSpec("blue", name), s)
}

func (r *rig) own(name string) *cluster.EndpointOwn {
	return get[*cluster.EndpointOwn](r, cluster.KeyEndpointOwn("blue", name))
}

// has is what an endpoint has, for comparing: addresses, state, node, epoch, reason.
func (r *rig) has(name string) string {
	o := r.own(name)
	if o == nil {
		return "nothing"
	}
	return fmt.Sprintf("%v %s %s %d.%d %s", o.IPs, o.State, o.Node, o.Era, o.Epoch, o.Reason)
}

func (r *rig) wantHas(name, want string) {
	r.t.Helper()
	settle()
	if got := r.has(name); got != want {
		r.t.Errorf("%s has %q, want %q", name, got, want)
	}
}

func TestEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := networked(t)
		r.endpoint("web1", "auto")
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] unplaced  1.1 ")
		r.endpoint("web2", "10.10.11.5")
		r.wantHas("web2", "[10.10.11.5] unplaced  1.1 ")
		r.endpoint("web3", "auto", "fd00:11::7")
		r.wantHas("web3", "[10.10.11.3 fd00:11::7] unplaced  1.1 ")
		r.endpoint("dhcp")
		r.wantHas("dhcp", "[] unplaced  1.1 ")
		for name, want := range map[string]string{
			"10.10.11.5": "[] pending  0.0 10.10.11.5 is held by web2",
			"10.10.11.1": "[] pending  0.0 10.10.11.1 is reserved in 10.10.11.0/29",
			"10.10.11.7": "[] pending  0.0 10.10.11.7 is reserved in 10.10.11.0/29",
			"10.99.0.1":  "[] pending  0.0 10.99.0.1 is not of the VPC's network (10.10.11.0/29,fd00:11::/64)",
		} {
			r.endpoint("wrong", name)
			r.wantHas("wrong", want)
		}
		here := &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Node: "h1"}
		r.put(cluster.KeyEndpointSpec("blue", "wrong"), here)
		r.wantHas("wrong", "[10.10.11.4 fd00:11::2] assigned h1 1.1 ")
		here.Node = "h2"
		r.put(cluster.KeyEndpointSpec("blue", "wrong"), here)
		r.wantHas("wrong", "[10.10.11.4 fd00:11::2] unplaced  1.2 node h2 is no member of the VPC")
		macs := map[cluster.MAC]string{}
		for _, name := range []string{"web1", "web2", "web3", "dhcp", "wrong"} {
			m := r.own(name).MAC
			if other := macs[m]; other != "" || !m.Unicast() || m[0]&2 == 0 {
				t.Errorf("%s has MAC %s, as has %q", name, m, other)
			}
			macs[m] = name
		}
	})
}

func TestEndpointMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := networked(t)
		fixed := cluster.MAC{2, 0, 0, 0, 0, 9}
		for _, name := range []string{"a", "b"} {
			r.put(cluster.KeyEndpointSpec("blue", name), &cluster.EndpointSpec{State: cluster.EndpointActive, MAC: fixed})
			settle()
		}
		if got := r.own("a").MAC; got != fixed {
			t.Errorf("a has MAC %s, want %s", got, fixed)
		}
		r.wantHas("b", "[] pending  0.0 02:00:00:00:00:09 is held by a")
	})
}

// TestEndpointIsGone gives addresses back after their quarantine, and not before;
// who is made again meanwhile has its own again.
func TestEndpointIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := networked(t)
		r.endpoint("web1", "auto")
		r.endpoint("web2", "auto")
		r.wantHas("web2", "[10.10.11.3 fd00:11::2] unplaced  1.1 ")
		mac := r.own("web1").MAC
		gone := &cluster.EndpointSpec{State: cluster.EndpointDeleting}
		r.put(cluster.KeyEndpointSpec("blue", "web1"), gone)
		settle()
		if got := r.dump(cluster.PrefixEndpoints("blue") + "web1/"); got != "" {
			t.Errorf("left of web1:\n%s", got)
		}
		r.endpoint("web3", "auto")
		r.wantHas("web3", "[10.10.11.4 fd00:11::3] unplaced  1.1 ")
		r.endpoint("web1", "auto")
		r.wantHas("web1", "[10.10.11.2 fd00:11::1] unplaced  1.1 ")
		if again := r.own("web1").MAC; again != mac {
			t.Errorf("web1 has MAC %s, before %s", again, mac)
		}
		r.put(cluster.KeyEndpointSpec("blue", "web1"), gone)
		pass(61e9)
		r.endpoint("web4", "auto")
		r.wantHas("web4", "[10.10.11.2 fd00:11::1] unplaced  1.1 ")
	})
}

func TestEndpointPoolIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := networked(t)
		for i := range 6 {
			r.endpoint(fmt.Sprintf("e%d", i), "auto")
		}
		r.wantHas("e4", "[10.10.11.6 fd00:11::5] unplaced  1.1 ")
		r.wantHas("e5", "[] pending  0.0 10.10.11.0/29 is full: 5 addresses, and released ones are free again only after 1m0s")
		if got := r.dump(cluster.PrefixAllocIP("blue")); strings.Count(got, "\n") != 10 || strings.Contains(got, "e5") {
			t.Errorf("e5 holds something:\n%s", got)
		}
		r.put(cluster.KeyEndpointSpec("blue", "e0"), &cluster.EndpointSpec{State: cluster.EndpointDeleting})
		pass(61e9)
		r.wantHas("e5", "[10.10.11.2 fd00:11::1] unplaced  1.1 ")
	})
}

// TestEndpointRecordsVanish loses one record after another: what is in force stays,
// and comes before what is new.
func TestEndpointRecordsVanish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := networked(t)
		r.endpoint("b", "auto")
		settle()
		whole := r.dump(cluster.PrefixEndpoints("blue"), cluster.PrefixAlloc)
		o := r.own("b")
		for _, key := range []string{cluster.KeyEndpointOwn("blue", "b"), cluster.KeyAllocIP("blue", o.IPs[0]), cluster.KeyAllocMAC("blue", o.MAC)} {
			r.delete(key)
			settle()
			if got := r.dump(cluster.PrefixEndpoints("blue"), cluster.PrefixAlloc); got != whole {
				t.Errorf("without %s it became\n%s\nwas\n%s", key, got, whole)
			}
		}
		var c store.Change
		store.Create(&c, cluster.KeyEndpointSpec("blue", "a"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true})
		r.delete(cluster.KeyAllocIP("blue", o.IPs[0]), cluster.KeyEndpointSpec("blue", "b"))
		if _, err := r.op.Commit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		r.wantHas("a", "[10.10.11.3 fd00:11::2] unplaced  1.1 ")
		r.wantHas("b", "[10.10.11.2 fd00:11::1] unplaced  1.1 ")
		if got := get[*cluster.Allocation](r, cluster.KeyAllocIP("blue", o.IPs[0])); got == nil || got.Holder != "b" {
			t.Errorf("%s is held by %v", o.IPs[0], got)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.State = cluster.VPCDeleting })
		pass(61e9)
		if got := r.dump(cluster.PrefixVPCs, cluster.PrefixAlloc); got != "" {
			t.Errorf("left of the VPC:\n%s", got)
		}
	})
}

var endpointActions = []string{
	"endpoint", "endpoint", "endpoint", "endpoint", "endpoint gone", "endpoint gone", "lose record", "crash", "rival",
	"lose request", "lose answer", "wait", "wait long", "delete", "create", "remove", "join", "endpoint ask", "endpoint port",
}

// TestRandomEndpoints is TestRandom on endpoints of a small network.
func TestRandomEndpoints(t *testing.T) { random(t, endpointActions, "h0", "h1") }

var attachActions = []string{
	"endpoint", "endpoint ask", "endpoint ask", "endpoint ask", "endpoint port", "endpoint port", "endpoint port", "endpoint move",
	"endpoint gone", "lose record", "crash", "rival", "lose request", "lose answer", "wait", "select", "die", "join", "remove",
}

// TestRandomAttach is TestRandomEndpoints with nodes that ask for endpoints, and
// report them in all ways.
func TestRandomAttach(t *testing.T) { random(t, attachActions, "h0", "h1", "h2") }

// doEndpoint is the operator's part, and what nodes ask for and report.
func (c *chaos) doEndpoint(a action) {
	node, name := fmt.Sprintf("h%d", a.Y%3), fmt.Sprintf("e%d", a.X/3)
	switch a.Do {
	case "endpoint ask":
		r := &cluster.Request{NodeID: "id-" + node, Want: cluster.WantAttach, Create: a.Y/3%3 != 0}
		if a.Y/9 == 0 {
			r.Want, r.Create = cluster.WantDelete, false
		}
		c.put(cluster.KeyRequest(node, "v0", name), r)
		return
	case "endpoint port":
		s := &cluster.EndpointStatus{NodeID: "id-" + node}
		s.State = []cluster.PortState{cluster.PortReady, cluster.PortReleased, cluster.PortStandby, cluster.PortFailed}[a.Y/3%4]
		if own := get[*cluster.EndpointOwn](c.rig, cluster.KeyEndpointOwn("v0", name)); own != nil {
			s.Era, s.Epoch = own.Era, max(own.Epoch-int64(a.Y/12%2), 0)
		}
		c.put(cluster.KeyEndpointStatus(node, "v0", name), s)
		return
	}
	key := cluster.KeyEndpointSpec("v0", fmt.Sprintf("e%d", a.X))
	s := &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: a.Y%3 != 0}
	switch a.Y % 5 {
	case 1:
		s.IPs = []netip.Addr{netip.MustParseAddr("10.10.0.1").Next()}
	case 2:
		s.IPs = []netip.Addr{netip.MustParseAddr("fd00:10::7")}
	case 3:
		s.MAC, s.Node = cluster.MAC{2, 9}, "h1"
	}
	if a.Do != "endpoint" {
		it, err := store.Get[*cluster.EndpointSpec](context.Background(), c.op, key)
		if errors.Is(err, store.ErrNotFound) {
			return
		}
		s = it.Value
		switch s.Node = node; {
		case a.Do == "endpoint gone":
			s.State = cluster.EndpointDeleting
		case a.Y%2 == 0:
			s.Node = ""
		default:
			if own := get[*cluster.EndpointOwn](c.rig, cluster.KeyEndpointOwn("v0", name)); own != nil && a.Y/4%2 == 0 && own.Node != "" {
				s.ForcedFrom = cluster.InEpoch{Node: own.Node, Epoch: own.Epoch}
			}
		}
	}
	c.put(key, s)
}

// letGo is what hosts do when they read that an endpoint is being deleted.
func (c *chaos) letGo() {
	for it := range store.Below[*cluster.EndpointStatus](viewOf(c.t, c.mem), cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			c.t.Fatal(err)
		}
		spec := get[*cluster.EndpointSpec](c.rig, cluster.KeyEndpointSpec(k.VPC, k.Name))
		if spec != nil && spec.State == cluster.EndpointDeleting {
			c.delete(it.Key)
		}
	}
}

// ownsNow lists addresses that two endpoints have at once.
func ownsNow(records map[string]cluster.Record) (problems []string) {
	had := map[string]string{}
	for key, r := range records {
		own, ok := r.(*cluster.EndpointOwn)
		if !ok {
			continue
		}
		k, _ := cluster.ParseKey(key)
		for _, value := range append([]string{own.MAC.String()}, texts(own.IPs)...) {
			if other, double := had[k.VPC+" "+value]; double && own.MAC.Unicast() {
				problems = append(problems, fmt.Sprintf("%s is had by %s and %s", value, other, k.Name))
			}
			had[k.VPC+" "+value] = k.Name
		}
	}
	return problems
}

// fallen lists endpoints whose epoch fell, or has another owner than before.
func (c *chaos) fallen(records map[string]cluster.Record) (problems []string) {
	owns := map[string]cluster.EndpointOwn{}
	for key, r := range records {
		own, ok := r.(*cluster.EndpointOwn)
		if !ok {
			continue
		}
		owns[key] = *own
		switch was, ok := c.owns[key]; {
		case !ok:
		case own.Era < was.Era, own.Era == was.Era && own.Epoch < was.Epoch:
			problems = append(problems, fmt.Sprintf("%s: %d.%d after %d.%d", key, own.Era, own.Epoch, was.Era, was.Epoch))
		case own.Era == was.Era && own.Epoch == was.Epoch && own.Node != was.Node:
			problems = append(problems, fmt.Sprintf("%s: %d.%d is %q's, and was %q's", key, own.Era, own.Epoch, own.Node, was.Node))
		}
	}
	c.owns = owns
	return problems
}

func texts(list []netip.Addr) (out []string) {
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

// endpointsAtRest lists what is not in order with the endpoints of a VPC.
func endpointsAtRest(w *world, v *vpc) (problems []string) {
	for name, e := range v.endpoints {
		say := func(format string, args ...any) {
			problems = append(problems, name+" in "+v.name+": "+fmt.Sprintf(format, args...))
		}
		spec, own := e.spec.Value, e.own.Value
		switch {
		case spec == nil && own == nil && len(e.held) > 0:
			say("it is gone and holds %v", e.held)
			continue
		case spec == nil && own == nil: // a host says that it still has it
			continue
		case spec == nil || own == nil:
			say("spec %v, own %v", spec, own)
			continue
		case spec.State != cluster.EndpointActive:
			say("it is still being deleted")
		case own.State == cluster.OwnPending && own.Reason == "":
			say("pending for no reason")
		case own.State == cluster.OwnPending && len(e.held) > 0, own.State != cluster.OwnPending && len(e.held) != 1+len(own.IPs):
			say("%s with %v, it holds %d", own.State, own.IPs, len(e.held))
		case own.State != cluster.OwnPending && own.Reason == "" && !e.settled(v):
			say("it has %v, and not what was asked for: %v", own, spec)
		case own.Node != "" && !w.serves(v, own.Node):
			say("%s has it, which is no member", own.Node)
		case own.Node != "" && spec.Node == "" && e.released(own):
			say("%s has it, which released it", own.Node)
		case own.State != cluster.OwnPending && own.Reason == "" && spec.Node != "" && own.Node != spec.Node:
			say("%s has it for no reason, and not %s", own.Node, spec.Node)
		}
	}
	return problems
}

// withNetwork has room for six endpoints of IPv4.
func withNetwork(s *cluster.VPCSpec) *cluster.VPCSpec {
	s.Network = cluster.Networks{IPv4: netip.MustParsePrefix("10.10.0.0/29"), IPv6: netip.MustParsePrefix("fd00:10::/64")}
	return s
}
