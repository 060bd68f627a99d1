package hosttest

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// MakeGateway is the gateway of VPC v, with an address of each family.
func MakeGateway(v hostops.VPC) *hostops.Gateway {
	return &hostops.Gateway{
		MAC:       cluster.GatewayMAC(v.VNI, cluster.GatewayAnycast, netip.Addr{}),
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/24"), netip.MustParsePrefix("fd00::1/64")},
		Anycast:   true,
	}
}

// ours is a state without what others have: a kernel adds to that when it likes.
func ours(s hostops.State) hostops.State {
	s.Others = nil
	return s
}

// gateway comes to a VPC that is there, is adopted, changes, and goes without a trace.
func gateway(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	before := b.state()
	w := v
	w.Gateway = MakeGateway(v)
	r := b.pass(false, w)
	if !r.Ready[v.Name] || len(r.Problems) > 0 || r.Repairs != 0 {
		t.Fatalf("pass with a gateway: %+v", r)
	}
	b.silent(false, w)
	b.silent(true, w)
	s := b.state()
	ns := s.Namespaces["vpc-neta"]
	linkLocal := netip.MustParsePrefix("fe80::c67:ff:fe00:2710/64")
	want := &hostops.NamespacePort{
		Peer: "mg-10000", MAC: w.Gateway.MAC, MTU: v.MTU, Up: true, Forwards: true,
		Addresses: append(slices.Clone(w.Gateway.Addresses), linkLocal),
	}
	if diff := cmp.Diff(want, ns.Further[hostops.InnerGateway], values()); diff != "" || !ns.Routing.Gateway || !ns.Quiet || !ns.Filtered {
		t.Errorf("namespace %+v, its port (-want +got):\n%s", ns, diff)
	}
	if d := s.Devices["mg-10000"]; d.Master != "neta" || !d.Up || d.Pinned != w.Gateway.MAC || d.Isolated || d.Alias != "gateway-of-neta" {
		t.Errorf("port is %+v", d)
	}
	kept := hostops.Ward{VNI: v.VNI, MAC: w.Gateway.MAC, Local: true, Addresses: []netip.Addr{w.Gateway.Addresses[0].Addr(), w.Gateway.Addresses[1].Addr(), linkLocal.Addr()}}
	if diff := cmp.Diff(map[string]hostops.Ward{"mg-10000": kept}, s.Filter.Wards, values()); diff != "" {
		t.Errorf("wards (-want +got):\n%s", diff)
	}
	must(t, b.driver.Close())
	b.open()
	b.silent(true, w)
	if d := diff(ours(s), ours(b.state())); d != "" {
		t.Errorf("adoption changed the host (-before +after):\n%s", d)
	}
	for _, change := range []func(*hostops.Gateway){
		func(g *hostops.Gateway) { g.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.254/24")} },
		func(g *hostops.Gateway) { g.MAC, g.Anycast = cluster.MAC{0x0e, 0x68, 10, 100, 0, 1}, false },
		func(g *hostops.Gateway) { g.NAT = true },
		func(g *hostops.Gateway) { *g = *MakeGateway(v) },
	} {
		g := *w.Gateway
		change(&g)
		w.Gateway = &g
		if r := b.pass(false, w); r.Repairs != 0 || len(r.Problems) > 0 {
			t.Errorf("gateway %+v: %d repairs, problems %v, applied %q", g, r.Repairs, r.Problems, texts(r.Applied))
		}
		b.converge(w) // a kernel tells of an IPv6 address when it has time
		if kept := b.state().Filter.Wards["mg-10000"]; kept.MAC != g.MAC || kept.Local != g.Anycast || len(kept.Addresses) == 0 || kept.Addresses[0] != g.Addresses[0].Addr() {
			t.Errorf("gateway %+v has the ward %v", g, kept)
		}
	}
	r = b.pass(false, v)
	if r.Repairs != 0 || len(r.Problems) > 0 {
		t.Errorf("without the gateway: %d repairs, problems %v", r.Repairs, r.Problems)
	}
	b.silent(true, v)
	if d := diff(ours(before), ours(b.state())); d != "" {
		t.Errorf("of the gateway is left (-before +after):\n%s", d)
	}
	nat := *w.Gateway
	nat.NAT, w.Gateway = true, &nat
	b.converge(w)
	b.takenOverAndGone(w)
}

func tamperingGateway(t *testing.T, b *bench) {
	v, k := MakeVPC(0), b.kernel
	v.Gateway = MakeGateway(v)
	v.Gateway.NAT = true
	b.repairs(t, v, []tamper{
		{"deleted", func() error { return k.DeleteDevice("mg-10000") }},
		{"down", func() error { return k.SetUp("mg-10000", false) }},
		{"out of its bridge", func() error { return k.SetMaster("mg-10000", "") }},
		{"isolated", func() error { return k.SetFlag("mg-10000", "isolated", true) }},
		{"MTU", func() error { return k.SetMTU("mg-10000", 1280) }},
		{"address of the host's end", func() error { return k.AddAddress("mg-10000", netip.MustParsePrefix("10.0.0.9/24")) }},
		{"uplink deleted", func() error { return k.DeleteDevice("mu-10000") }},
		{"uplink down", func() error { return k.SetUp("mu-10000", false) }},
		{"MTU of the uplink", func() error { return k.SetMTU("mu-10000", 1280) }},
		{"address of the uplink", func() error { return k.AddAddress("mu-10000", netip.MustParsePrefix("10.0.0.9/24")) }},
		{"namespace deleted", func() error { return k.DeleteNamespace("vpc-neta") }},
		{"filter wiped", k.WipeFilter},
	})
}

// gatewayHeld: an agent without memory keeps others from what the gateway has.
func gatewayHeld(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v.Gateway = MakeGateway(v)
	v.Gateway.NAT = true
	b.converge(v)
	before := b.state()
	must(t, b.driver.Close())
	b.open()
	must(t, b.kernel.WipeFilter())
	r := b.host.Reconcile(t.Context(), hostops.Desired{Hold: true}, true)
	if len(r.Problems) > 0 || !slices.ContainsFunc(texts(r.Applied), func(s string) bool { return strings.HasPrefix(s, "keep MAC") }) {
		t.Errorf("problems %v, applied %q", r.Problems, texts(r.Applied))
	}
	after := b.state().Filter
	if diff := cmp.Diff(before.Filter.Wards, after.Wards, values()); diff != "" || after.Uplinks != before.Filter.Uplinks || after.Uplinks == 0 {
		t.Errorf("uplinks guarded for port %d, wards (-before +after):\n%s", after.Uplinks, diff)
	}
	b.silent(true, v)
}

// gatewayClashes: what is not ours stays, and the rest of the VPC is made.
func gatewayClashes(t *testing.T, b *bench) {
	v := MakeVPC(0)
	must(t, b.kernel.AddDevice("mg-10000", hostops.Other{MTU: 1500}))
	v.Gateway = MakeGateway(v)
	r := b.pass(false, v)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Reason, "device mg-10000 is there and is not meshvpc's") || r.Ready[v.Name] {
		t.Errorf("ready %v, problems %v", r.Ready, r.Problems)
	}
	if _, made := b.state().Namespaces["vpc-neta"]; !made {
		t.Error("the VPC has no namespace")
	}
	v.Gateway = nil
	b.converge(v)
	if s := b.state(); len(s.Filter.Wards) > 0 {
		t.Errorf("wards are left: %v", s.Filter.Wards)
	}
}
