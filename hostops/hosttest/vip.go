package hosttest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// MakeVIP is port number n of a VPC for a VIP.
func MakeVIP(v hostops.VPC, n int) hostops.Port {
	e := fmt.Sprint("vip", n)
	return hostops.Port{
		Endpoint: e, Kind: hostops.PortVIP, Device: hostops.EndpointPortOf(v.Name, e), MAC: cluster.MAC{2, 0, 0, 0, 2, byte(n)},
		Addresses: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + n)}), 24),
			netip.MustParsePrefix(fmt.Sprintf("fd00::%x/64", 50+n)),
		},
	}
}

// standby is a port that another host serves.
func standby(p hostops.Port) hostops.Port {
	p.Standby = true
	return p
}

// vips come to a VPC that is there, two at once, one of them served elsewhere; they
// change places, are adopted, and go without a trace.
func vips(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	before := b.state()
	w := with(v, MakeVIP(v, 1), standby(MakeVIP(v, 2)))
	for range 2 {
		r := b.pass(false, w)
		if !r.Ready[v.Name] || len(r.Problems) > 0 || r.Repairs != 0 || len(r.Ports[v.Name]) > 0 {
			t.Fatalf("pass with VIPs: %+v", r)
		}
		b.converge(w) // a kernel tells of an IPv6 address when it has time
		b.served(w)
		w = with(v, standby(w.Ports[0]), MakeVIP(v, 2))
	}
	w = with(v, MakeVIP(v, 1), MakeVIP(v, 2))
	w.Ports[1].MAC = cluster.MAC{2, 0, 0, 0, 3, 1}
	w.Ports[1].Addresses = w.Ports[1].Addresses[:1]
	if r := b.pass(false, w); r.Repairs != 0 || len(r.Problems) > 0 {
		t.Errorf("a VIP changes: %d repairs, problems %v", r.Repairs, r.Problems)
	}
	b.converge(w)
	b.served(w)
	must(t, b.driver.Close())
	b.open()
	b.silent(false, w)
	if r := b.pass(false, v); r.Repairs != 0 || len(r.Problems) > 0 {
		t.Errorf("without VIPs: %d repairs, problems %v", r.Repairs, r.Problems)
	}
	b.silent(true, v)
	if d := diff(ours(before), ours(b.state())); d != "" {
		t.Errorf("of the VIPs is left (-before +after):\n%s", d)
	}
	b.converge(w)
	b.takenOverAndGone(w)
}

// served holds the ports of VIPs to what they should be.
func (b *bench) served(v hostops.VPC) {
	b.t.Helper()
	s := b.state()
	for _, p := range v.Ports {
		inner := hostops.VIPOf(v.Name, p.Endpoint)
		want := &hostops.NamespacePort{Peer: p.Device, MAC: p.MAC, MTU: v.MTU, Up: true, Sourced: true, Addresses: p.Addresses}
		if p.Standby {
			want.Addresses = nil
		}
		if diff := cmp.Diff(want, s.Namespaces[hostops.NamespaceOf(v.Name)].Further[inner], values()); diff != "" {
			b.t.Errorf("%s in the namespace (-want +got):\n%s", p.Endpoint, diff)
		}
		d := s.Devices[p.Device]
		if d.Use != hostops.UseMade || d.Master != v.Name || d.Up == p.Standby || d.MTU != v.MTU || !d.Quiet || (d.Pinned == p.MAC) == p.Standby {
			b.t.Errorf("%s is %+v", p.Endpoint, d)
		}
		if s.Serves(v.Name, p.Device) == p.Standby {
			b.t.Errorf("%s is served: %v, standby %v", p.Endpoint, s.Serves(v.Name, p.Device), p.Standby)
		}
		if bound := s.Filter.Bindings[p.Device]; bound.MAC != p.MAC || len(bound.Addresses) != len(p.Addresses) {
			b.t.Errorf("%s is bound to %s", p.Endpoint, bound)
		}
	}
}

func tamperingVIPs(t *testing.T, b *bench) {
	v, k := MakeVPC(0), b.kernel
	v = with(v, MakeVIP(v, 1), standby(MakeVIP(v, 2)))
	one, two := v.Ports[0].Device, v.Ports[1].Device
	b.repairs(t, v, []tamper{
		{"deleted", func() error { return k.DeleteDevice(one) }},
		{"standby deleted", func() error { return k.DeleteDevice(two) }},
		{"down", func() error { return k.SetUp(one, false) }},
		{"standby up", func() error { return k.SetUp(two, true) }},
		{"out of its bridge", func() error { return k.SetMaster(one, "") }},
		{"isolated", func() error { return k.SetFlag(one, "isolated", true) }},
		{"MTU", func() error { return k.SetMTU(one, 1280) }},
		{"address of the host's end", func() error { return k.AddAddress(one, netip.MustParsePrefix("10.0.0.9/24")) }},
		{"IPv4 address removed", func() error { return k.RemoveAddress("vpc-neta", v.Ports[0].Addresses[0]) }},
		{"IPv6 address removed", func() error { return k.RemoveAddress("vpc-neta", v.Ports[0].Addresses[1]) }},
		{"namespace deleted", func() error { return k.DeleteNamespace("vpc-neta") }},
		{"filter wiped", k.WipeFilter},
	})
}

// vipsHeld: an agent without memory leaves VIPs as they are, and closed.
func vipsHeld(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v = with(v, MakeVIP(v, 1))
	b.converge(v)
	before := b.state()
	must(t, b.driver.Close())
	b.open()
	must(t, b.kernel.WipeFilter())
	if r := b.host.Reconcile(t.Context(), hostops.Desired{Hold: true}, true); len(r.Problems) > 0 {
		t.Errorf("problems %v, applied %q", r.Problems, texts(r.Applied))
	}
	after := b.state()
	if diff := cmp.Diff(before.Filter.Bindings, after.Filter.Bindings, values()); diff != "" {
		t.Errorf("bindings (-before +after):\n%s", diff)
	}
	b.served(v)
}

// furtherPortAlone: a port of the namespace that is gone is made anew, and neither the
// namespace nor any other port with it.
func furtherPortAlone(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v.Gateway = MakeGateway(v)
	v.Gateway.NAT = true
	v = with(v, MakeVIP(v, 1), standby(MakeVIP(v, 2)))
	b.converge(v)
	before := b.state()
	for _, device := range []string{"mn-10000", "mg-10000", "mu-10000", v.Ports[0].Device, v.Ports[1].Device} {
		t.Run(device, func(t *testing.T) {
			b.settle()
			must(t, b.kernel.DeleteDevice(device))
			r := b.pass(false, v) // at once: what the kernel tells of is on its way
			made := slices.DeleteFunc(texts(r.Applied), func(s string) bool { return !strings.HasPrefix(s, "create") && !strings.HasPrefix(s, "delete") })
			if want := []string{"create port " + device + " of namespace vpc-neta"}; !slices.Equal(made, want) {
				t.Errorf("made anew: %q, want %q; applied %q, problems %v", made, want, texts(r.Applied), r.Problems)
			}
			b.converge(v)
			if d := diff(before, b.state()); d != "" {
				t.Errorf("host is not as it was (-before +after):\n%s", d)
			}
		})
	}
}
