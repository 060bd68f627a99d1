package hosttest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// MakeActive is VPC v with a gateway that one host has at a time, and this one now.
func MakeActive(v hostops.VPC) hostops.VPC {
	v.Gateway = &hostops.Gateway{Active: true}
	return with(v, hostops.Port{
		Endpoint: cluster.GatewayEndpoint, Kind: hostops.PortVIP, Device: hostops.EndpointPortOf(v.Name, cluster.GatewayEndpoint),
		MAC: cluster.GatewayMAC(v.VNI, cluster.GatewayActive, netip.Addr{}), Addresses: MakeGateway(v).Addresses, Router: true, Trusted: true,
	})
}

// activeGateway comes to a VPC whose gateway was on every host, goes to another host
// and comes back, is adopted, and makes place for one on every host.
func activeGateway(t *testing.T, b *bench) {
	v := MakeVPC(0)
	everywhere := v
	everywhere.Gateway = MakeGateway(v)
	b.converge(everywhere)
	w := MakeActive(v)
	elsewhere := with(w, standby(w.Ports[0]))
	for _, step := range []struct {
		name string
		vpc  hostops.VPC
	}{{"was everywhere", w}, {"another host has it", elsewhere}, {"it is back", w}} {
		if r := b.pass(false, step.vpc); len(r.Problems) > 0 || r.Repairs != 0 || !r.Ready[v.Name] {
			t.Errorf("%s: %+v", step.name, r)
		}
		b.converge(step.vpc) // a kernel tells of an IPv6 address when it has time
		b.routes(step.vpc)
	}
	must(t, b.driver.Close())
	b.open()
	b.silent(false, w)
	for _, nat := range []bool{true, false} {
		w.Gateway = &hostops.Gateway{Active: true, NAT: nat}
		if r := b.pass(false, w); len(r.Problems) > 0 || r.Repairs != 0 {
			t.Errorf("NAT %v: %+v", nat, r)
		}
		b.converge(w)
		b.routes(w)
	}
	if r := b.pass(false, everywhere); len(r.Problems) > 0 || r.Repairs != 0 {
		t.Errorf("everywhere again: %+v", r)
	}
	b.converge(everywhere)
	if ns := b.state().Namespaces[hostops.NamespaceOf(v.Name)]; ns.Further[hostops.InnerActive] != nil || ns.Further[hostops.InnerGateway] == nil || !ns.Routing.Gateway {
		t.Errorf("everywhere again: namespace %+v", ns)
	}
	w.Gateway = &hostops.Gateway{Active: true, NAT: true}
	b.converge(w)
	b.takenOverAndGone(w)
}

// routes holds a VPC whose gateway one host has at a time to what it should be here.
func (b *bench) routes(v hostops.VPC) {
	b.t.Helper()
	s, p := b.state(), v.Ports[0]
	ns := s.Namespaces[hostops.NamespaceOf(v.Name)]
	want := &hostops.NamespacePort{Peer: p.Device, MAC: p.MAC, MTU: v.MTU, Up: true}
	if !p.Standby {
		want.Forwards, want.Addresses = true, append(slices.Clone(p.Addresses), netip.MustParsePrefix("fe80::c6a:ff:fe00:2710/64"))
	}
	if diff := cmp.Diff(want, ns.Further[hostops.InnerActive], values()); diff != "" {
		b.t.Errorf("standby %v: gateway in the namespace (-want +got):\n%s", p.Standby, diff)
	}
	if want := (hostops.Routing{Gateway: true, NAT: v.Gateway.NAT}); ns.Routing != want || ns.Further[hostops.InnerGateway] != nil || (ns.Further[hostops.InnerUplink] != nil) != want.NAT {
		b.t.Errorf("namespace %+v; want it to route %s", ns, want)
	}
	d := s.Devices[p.Device]
	if d.Use != hostops.UseMade || d.Master != v.Name || d.Up == p.Standby || d.MTU != v.MTU || !d.Quiet || (d.Pinned == p.MAC) == p.Standby {
		b.t.Errorf("standby %v: port is %+v", p.Standby, d)
	}
	if _, bound := s.Filter.Bindings[p.Device]; bound || len(s.Filter.Wards) > 0 {
		b.t.Errorf("standby %v: bound %v, wards %v; want none: it sends what others sent, and to other hosts", p.Standby, bound, s.Filter.Wards)
	}
}

func tamperingActive(t *testing.T, b *bench) {
	v, k := MakeActive(MakeVPC(0)), b.kernel
	v.Gateway.NAT = true
	device := v.Ports[0].Device
	b.repairs(t, v, []tamper{
		{"deleted", func() error { return k.DeleteDevice(device) }},
		{"down", func() error { return k.SetUp(device, false) }},
		{"out of its bridge", func() error { return k.SetMaster(device, "") }},
		{"MTU", func() error { return k.SetMTU(device, 1280) }},
		{"IPv4 address removed", func() error { return k.RemoveAddress("vpc-neta", v.Ports[0].Addresses[0]) }},
		{"uplink deleted", func() error { return k.DeleteDevice("mu-10000") }},
		{"namespace deleted", func() error { return k.DeleteNamespace("vpc-neta") }},
		{"filter wiped", k.WipeFilter},
	})
}
