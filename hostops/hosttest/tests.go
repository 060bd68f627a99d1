package hosttest

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
)

func idempotent(t *testing.T, b *bench) {
	v := MakeVPC(0)
	r := b.pass(false, v)
	if !r.Ready[v.Name] || len(r.Problems) > 0 || len(r.Applied) == 0 || r.Repairs != 0 {
		t.Fatalf("first pass: %+v", r)
	}
	select {
	case <-b.driver.Changed():
		t.Error("the driver signals its own writes")
	default:
	}
	b.silent(false, v)
	b.silent(true, v)
	s := b.state()
	for name, want := range map[string]hostops.Device{
		"neta":      {Kind: hostops.KindBridge, Alias: "vpc-neta"},
		"mv4-10000": {Kind: hostops.KindTunnel, Alias: "tunnels-of-neta", Master: "neta", Isolated: true},
		"mv6-10000": {Kind: hostops.KindTunnel, Alias: "tunnels-of-neta", Master: "neta", Isolated: true},
		"mn-10000":  {Kind: hostops.KindPort, Alias: "port-of-neta", Master: "neta"},
	} {
		d := s.Devices[name]
		got := hostops.Device{Kind: d.Kind, Alias: d.Alias, Master: d.Master, Isolated: d.Isolated}
		if diff := cmp.Diff(want, got, values()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !d.Up || d.MTU != v.MTU || d.Owner != v.VNI || !d.Quiet {
			t.Errorf("%s = %+v, want it up and quiet with MTU %d", name, d, v.MTU)
		}
	}
}

func adopted(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	want := b.state()
	must(t, b.driver.Close())
	b.open()
	b.silent(false, v)
	if d := diff(want, b.state()); d != "" {
		t.Errorf("adoption changed the host (-before +after):\n%s", d)
	}
}

func busy(t *testing.T, b *bench) {
	if d, err := b.kernel.Open(); !errors.Is(err, hostops.ErrBusy) {
		if err == nil {
			must(t, d.Close())
		}
		t.Errorf("second driver on a host: %v, want ErrBusy", err)
	}
}

func peersChange(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	before := texts(b.pass(false, v).Applied)
	if len(before) != 0 {
		t.Fatalf("no change applied %v", before)
	}
	w := MakeVPC(0)
	for i := range w.Tunnels {
		v6 := w.Tunnels[i].Local.Is6()
		w.Tunnels[i].Peers = []hostops.Peer{MakePeer(1, v6), MakePeer(2, v6)}
	}
	r := b.pass(false, w)
	want := []string{
		"set neighbour 10.100.4.12 to 0e:6d:0a:64:04:0c in namespace vpc-neta",
		"set neighbour 10.100.6.12 to 0e:6d:0a:64:06:0c in namespace vpc-neta",
		"allow VNI 10000 from 203.0.113.12, 2001:db8:2::12",
		"add peer 203.0.113.12 to mv4-10000",
		"set FDB entry 0e:6d:0a:64:04:0c on mv4-10000 to peer 203.0.113.12",
		"add peer 2001:db8:2::12 to mv6-10000",
		"set FDB entry 0e:6d:0a:64:06:0c on mv6-10000 to peer 2001:db8:2::12",
		"remove neighbour 10.100.4.10 in namespace vpc-neta",
		"remove neighbour 10.100.6.10 in namespace vpc-neta",
		"remove peer 203.0.113.10 from mv4-10000",
		"remove FDB entry 0e:6d:0a:64:04:0a from mv4-10000",
		"remove peer 2001:db8:2::10 from mv6-10000",
		"remove FDB entry 0e:6d:0a:64:06:0a from mv6-10000",
		"stop allowing VNI 10000 from 203.0.113.10, 2001:db8:2::10",
	}
	if diff := cmp.Diff(want, texts(r.Applied)); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	if r.Repairs != 0 || !r.Ready[v.Name] {
		t.Errorf("repairs %d, ready %v; want 0, true", r.Repairs, r.Ready)
	}
	b.silent(true, w)
}

func texts(ops []hostops.Op) []string {
	var out []string
	for _, op := range ops {
		out = append(out, op.String())
	}
	return out
}

func underlayMoves(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	flood := b.state().Devices["mv6-10000"].Flood
	w := MakeVPC(0)
	for i, local := range []string{"198.51.100.1", "2001:db8:1::1"} {
		w.Tunnels[i].Local, w.Tunnels[i].Device = netip.MustParseAddr(local), "u1"
	}
	if n := b.converge(w); n != 0 {
		t.Errorf("a moved underlay counts as %d repairs", n)
	}
	d := b.state().Devices["mv6-10000"]
	if d.Underlay != "u1" || d.Local != w.Tunnels[1].Local {
		t.Errorf("tunnel is on %s %s, want u1 %s", d.Underlay, d.Local, w.Tunnels[1].Local)
	}
	if diff := cmp.Diff(flood.Len(), d.Flood.Len()); diff != "" {
		t.Errorf("flood list has changed (-want +got):\n%s", diff)
	}
}

func clashes(t *testing.T, b *bench) {
	k := b.kernel
	must(t, k.AddDevice("neta", hostops.Other{Kind: hostops.KindBridge, MTU: 1500}))
	must(t, k.AddDevice("vx", hostops.Other{Kind: hostops.KindTunnel, MTU: 1500, VNI: 10001, Port: Port}))
	must(t, k.AddNamespace("vpc-netc"))
	foreign := append(k.Devices(), k.Namespaces()...)
	vpcs := []hostops.VPC{MakeVPC(0), MakeVPC(1), MakeVPC(2), MakeVPC(3)}
	r := b.pass(false, vpcs...)
	for i, want := range []string{"device neta", "held by device vx", "namespace vpc-netc", ""} {
		v := vpcs[i]
		if r.Ready[v.Name] != (want == "") {
			t.Errorf("%s ready: %v", v.Name, r.Ready[v.Name])
		}
		got := slices.DeleteFunc(slices.Clone(r.Problems), func(p hostops.Problem) bool { return p.VPC != v.Name })
		if want != "" && (len(got) != 1 || !strings.Contains(got[0].Reason, want)) {
			t.Errorf("problems of %s: %v, want one about %q", v.Name, got, want)
		}
		if want == "" && len(got) > 0 {
			t.Errorf("problems of %s: %v", v.Name, got)
		}
	}
	again := b.pass(true, vpcs...)
	if len(again.Applied) > 0 {
		t.Errorf("second pass applied %v", again.Applied)
	}
	b.converge()
	if got := append(k.Devices(), k.Namespaces()...); !slices.Equal(foreign, got) {
		t.Errorf("after teardown %v, want what was foreign: %v", got, foreign)
	}
}

func overlapping(t *testing.T, b *bench) {
	vpcs := []hostops.VPC{MakeVPC(0), MakeVPC(1), MakeVPC(2)} // all with the same VTEP address and peers
	b.converge(vpcs...)
	before := b.state()
	b.converge(vpcs[0], vpcs[2])
	s := b.state()
	for name := range before.Devices {
		_, there := s.Devices[name]
		if gone := strings.HasSuffix(name, "-10001") || name == "netb"; there == gone {
			t.Errorf("device %s is there: %v, want %v", name, there, !gone)
		}
	}
	for v := range before.Filter.Sources {
		if _, there := s.Filter.Sources[v]; there == (v == 10001) {
			t.Errorf("filter entries of VNI %d are there: %v", v, there)
		}
	}
	b.converge(vpcs...)
	if d := diff(before, b.state()); d != "" {
		t.Errorf("VPC was not made again as it was (-before +after):\n%s", d)
	}
}

func teardown(t *testing.T, b *bench) {
	devices, namespaces := b.kernel.Devices(), b.kernel.Namespaces()
	b.converge(MakeVPC(0), MakeVPC(1))
	if len(b.kernel.Namespaces()) != len(namespaces)+2 || !b.kernel.HasFilter() {
		t.Fatalf("namespaces %v, filter %v", b.kernel.Namespaces(), b.kernel.HasFilter())
	}
	b.converge()
	if got := b.kernel.Devices(); !slices.Equal(got, devices) {
		t.Errorf("devices left: %v, want %v", got, devices)
	}
	if got := b.kernel.Namespaces(); !slices.Equal(got, namespaces) {
		t.Errorf("namespaces left: %v, want %v", got, namespaces)
	}
	if b.kernel.HasFilter() {
		t.Error("filter is left")
	}
}

func renumbered(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	must(t, b.kernel.AddDevice("tenant0", hostops.Other{MTU: 1430}))
	must(t, b.kernel.SetMaster("tenant0", v.Name))
	w := MakeVPC(0)
	w.VNI = 10777
	b.converge(w)
	s := b.state()
	if got := s.Devices[v.Name].Ports; !slices.Equal(got, []string{"tenant0"}) {
		t.Errorf("foreign ports are %v, want tenant0 kept", got)
	}
	for name := range s.Devices {
		if strings.HasSuffix(name, "-10000") {
			t.Errorf("device %s of the old VNI is left", name)
		}
	}
	// Another VPC takes the VNI over.
	x := MakeVPC(1)
	x.VNI = 10777
	b.converge(x)
	if s := b.state(); s.Devices["netb"].Kind != hostops.KindBridge || len(s.Devices) != 4 {
		t.Errorf("devices after the VNI went to another VPC: %v", b.kernel.Devices())
	}
}

func missingUnderlay(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v.Tunnels[0].Local = netip.MustParseAddr("192.0.2.99")
	v.Tunnels[1].Device = "nosuch"
	big := MakeVPC(1)
	big.MTU = 1431
	r := b.pass(false, v, big, MakeVPC(2))
	if r.Ready[v.Name] || r.Ready[big.Name] || !r.Ready[MakeVPC(2).Name] {
		t.Errorf("ready: %v, want only the last", r.Ready)
	}
	var got []string
	for _, p := range r.Problems {
		got = append(got, p.VPC+": "+p.Reason)
	}
	want := []string{
		"neta: underlay address 192.0.2.99 is not on device u0: add it, or name another underlay",
		"neta: underlay device nosuch is not there",
		"netb: MTU 1431 does not fit: device u0 has 1500, less 70 for VXLAN leaves 1430",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// bridgeFollows: a bridge has the least MTU of its ports, as they are now, until
// it is given one of its own.
func bridgeFollows(t *testing.T, b *bench) {
	k, v := b.kernel, MakeVPC(0)
	apply := func(op hostops.Op) func() error {
		return func() error { return b.driver.Apply(t.Context(), op) }
	}
	bridge := hostops.Target{VPC: v.Name, Object: v.Name}
	tunnel := hostops.Target{VPC: v.Name, Object: "mv4-10000"}
	must(t, k.AddDevice("tenant0", hostops.Other{MTU: 1400}))
	for _, step := range []struct {
		name string
		do   func() error
		want int
	}{
		{"new", apply(hostops.CreateBridge{Target: bridge, Owner: v.VNI}), 1500},
		{"first port", func() error { return k.SetMaster("tenant0", v.Name) }, 1400},
		{"lower port", func() error { return k.SetMTU("tenant0", 1380) }, 1380},
		{"tunnel", apply(hostops.CreateTunnel{Target: tunnel, Owner: v.VNI, VNI: v.VNI, Local: v.Tunnels[0].Local, Underlay: "u0", Port: Port, MTU: 1290}), 1380},
		{"tunnel as port", apply(hostops.SetMaster{Target: tunnel, Bridge: v.Name}), 1290},
		{"lower tunnel", apply(hostops.SetMTU{Target: tunnel, MTU: 1280}), 1280},
		{"tunnel taken out", func() error { return k.SetMaster(tunnel.Object, "") }, 1380},
		{"tunnel put back", apply(hostops.SetMaster{Target: tunnel, Bridge: v.Name}), 1280},
		{"tunnel deleted", apply(hostops.DeleteDevice{Target: tunnel}), 1380},
		{"set to what it is", apply(hostops.SetMTU{Target: bridge, MTU: 1380}), 1380},
		{"last port taken out", func() error { return k.SetMaster("tenant0", "") }, 1500},
		{"set", apply(hostops.SetMTU{Target: bridge, MTU: 1430}), 1430},
		{"port of a bridge that was set", func() error { return k.SetMaster("tenant0", v.Name) }, 1430},
		{"it is deleted", func() error { return k.DeleteDevice("tenant0") }, 1430},
	} {
		must(t, step.do())
		if got := b.state().Devices[v.Name].MTU; got != step.want {
			t.Errorf("%s: MTU of the bridge is %d, want %d", step.name, got, step.want)
		}
	}
}

// addressReplaced: an address that somebody put in the VTEP's place goes without
// taking along what was put beside it.
func addressReplaced(t *testing.T, b *bench) {
	v := MakeVPC(0)
	b.converge(v)
	on := hostops.Target{VPC: v.Name, Object: hostops.NamespaceOf(v.Name)}
	must(t, b.driver.Apply(t.Context(), hostops.RemoveAddress{Target: on, Address: v.VTEP}))
	must(t, b.driver.Apply(t.Context(), hostops.AddAddress{Target: on, Address: netip.MustParsePrefix("10.100.0.9/16")}))
	want := []string{
		"add address 10.100.0.1/16 in namespace vpc-neta",
		"set neighbour 10.100.4.10 to 0e:6d:0a:64:04:0a in namespace vpc-neta",
		"set neighbour 10.100.4.11 to 0e:6d:0a:64:04:0b in namespace vpc-neta",
		"set neighbour 10.100.6.10 to 0e:6d:0a:64:06:0a in namespace vpc-neta",
		"set neighbour 10.100.6.11 to 0e:6d:0a:64:06:0b in namespace vpc-neta",
		"remove address 10.100.0.9/16 in namespace vpc-neta",
	}
	if diff := cmp.Diff(want, texts(b.pass(false, v).Applied)); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
	b.silent(true, v)
}
