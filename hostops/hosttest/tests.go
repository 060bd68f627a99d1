package hosttest

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
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
	if diff := cmp.Diff(len(flood), len(d.Flood)); diff != "" {
		t.Errorf("flood list has changed (-want +got):\n%s", diff)
	}
}

func tampering(t *testing.T, b *bench) {
	v := MakeVPC(0)
	k := b.kernel
	b.converge(v)
	before := b.state()
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"tunnel deleted", func() error { return k.DeleteDevice("mv6-10000") }},
		{"bridge deleted", func() error { return k.DeleteDevice("neta") }},
		{"port deleted", func() error { return k.DeleteDevice("mn-10000") }},
		{"port not isolated", func() error { return k.SetIsolated("mv4-10000", false) }},
		{"tunnel out of its bridge", func() error { return k.SetMaster("mv4-10000", "") }},
		{"port out of its bridge", func() error { return k.SetMaster("mn-10000", "") }},
		{"port does not flood", func() error { return k.SetFlag("mn-10000", "flood", false) }},
		{"port does not flood multicast", func() error { return k.SetFlag("mn-10000", "mcast_flood", false) }},
		{"port does not flood broadcast", func() error { return k.SetFlag("mn-10000", "bcast_flood", false) }},
		{"port does not learn", func() error { return k.SetFlag("mn-10000", "learning", false) }},
		{"port isolated", func() error { return k.SetFlag("mn-10000", "isolated", true) }},
		{"port locked", func() error { return k.SetFlag("mn-10000", "locked", true) }},
		{"hairpin of port", func() error { return k.SetFlag("mn-10000", "hairpin", true) }},
		{"hairpin of tunnel", func() error { return k.SetFlag("mv4-10000", "hairpin", true) }},
		{"tunnel locked", func() error { return k.SetFlag("mv6-10000", "locked", true) }},
		{"tunnel answers ARP", func() error { return k.SetFlag("mv6-10000", "proxy_arp", true) }},
		{"STP", func() error { return k.SetSTP("neta", true) }},
		{"address of bridge", func() error { return k.AddAddress("neta", netip.MustParsePrefix("10.10.11.9/24")) }},
		{"IPv6 address of bridge", func() error { return k.AddAddress("neta", netip.MustParsePrefix("fd00::9/64")) }},
		{"address of port", func() error { return k.AddAddress("mn-10000", netip.MustParsePrefix("10.10.11.9/24")) }},
		{"MTU of bridge", func() error { return k.SetMTU("neta", 1280) }},
		{"MTU of tunnel", func() error { return k.SetMTU("mv6-10000", 1280) }},
		{"MTU of port", func() error { return k.SetMTU("mn-10000", 1280) }},
		{"peer removed", func() error { return k.RemovePeer("mv6-10000", Peer(0, true)) }},
		{"peer added", func() error { return k.AddPeer("mv4-10000", Peer(9, false)) }},
		{"FDB entry removed", func() error { return k.RemoveFDB("mv6-10000", vtepMAC(0, true), false) }},
		{"FDB entry of the bridge removed", func() error { return k.RemoveFDB("mv4-10000", vtepMAC(0, false), true) }},
		{"FDB entry to another peer", func() error { return k.SetFDB("mv6-10000", vtepMAC(0, true), Peer(1, true)) }},
		{"FDB entry on another tunnel", func() error { return k.SetFDB("mv6-10000", vtepMAC(1, false), Peer(1, true)) }},
		{"FDB entry added", func() error { return k.SetFDB("mv4-10000", vtepMAC(9, false), Peer(9, false)) }},
		{"neighbour removed", func() error { return k.RemoveNeighbour("vpc-neta", MakePeer(0, false).VTEP) }},
		{"neighbour at another MAC", func() error { return k.SetNeighbour("vpc-neta", MakePeer(1, true).VTEP, vtepMAC(0, true)) }},
		{"neighbour added", func() error { return k.SetNeighbour("vpc-neta", MakePeer(9, true).VTEP, vtepMAC(9, true)) }},
		{"VTEP address removed", func() error { return k.RemoveAddress("vpc-neta", v.VTEP) }},
		{"namespace deleted", func() error { return k.DeleteNamespace("vpc-neta") }},
		{"filter wiped", k.WipeFilter},
		{"bridge down", func() error { return k.SetUp("neta", false) }},
		{"tunnel down", func() error { return k.SetUp("mv6-10000", false) }},
		{"port down", func() error { return k.SetUp("mn-10000", false) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.settle()
			must(t, tt.do())
			b.changed(tt.name)
			if n := b.converge(v); n == 0 {
				t.Error("no repair was counted")
			}
			if d := diff(before, b.state()); d != "" {
				t.Errorf("host is not as it was (-before +after):\n%s", d)
			}
		})
	}
	t.Run("foreign port on the bridge", func(t *testing.T) {
		must(t, k.AddDevice("tenant0", hostops.Other{MTU: 1500}))
		must(t, k.SetMaster("tenant0", "neta"))
		b.converge(v)
		s := b.state()
		if got := s.Devices["neta"].Ports; !slices.Equal(got, []string{"tenant0"}) {
			t.Errorf("foreign ports are %v, want tenant0 left alone", got)
		}
		must(t, k.SetMTU("tenant0", 1280))
		b.converge(v)
		if s := b.state(); s.Others["tenant0"].MTU != 1280 || s.Devices["neta"].MTU != v.MTU {
			t.Errorf("MTU of tenant %d, of bridge %d; want 1280 left alone, %d", s.Others["tenant0"].MTU, s.Devices["neta"].MTU, v.MTU)
		}
	})
}

func vtepMAC(i int, v6 bool) cluster.MAC { return hostops.VTEPMAC(MakePeer(i, v6).VTEP) }

func sealed(t *testing.T, b *bench) {
	v := MakeVPC(0)
	k := b.kernel
	hears := func(when string, want bool) {
		t.Helper()
		if got := k.Hears(v.Name); got != want {
			t.Errorf("%s the host hears tenants: %v, want %v", when, got, want)
		}
	}
	b.converge(v)
	hears("at first", false)
	b.converge(v)
	must(t, k.WipeFilter())
	hears("wiped,", true)
	b.changed("wiped filter")
	b.converge(v)
	hears("repaired,", false)
	b.converge(v)
	must(t, k.DeleteDevice(v.Name))
	b.changed("deleted bridge")
	b.converge(v)
	hears("made anew,", false)
	if s := b.state(); len(s.Filter.Seals) != 1 {
		t.Errorf("seals are %v, want that of %s", s.Filter.Seals, v.Name)
	}
	b.converge()
	if s := b.state(); s.Filter.Exists || len(s.Filter.Seals) > 0 {
		t.Errorf("filter after teardown: %+v", s.Filter)
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

func pairs(t *testing.T, b *bench) {
	v := MakeMixed(0)
	b.converge(v)
	s := b.state()
	for name, want := range map[string]hostops.Device{
		"mv4-10000": {Alias: "tunnels-of-neta", VNI: 10000, Learning: true, Sends: true, Flood: hostops.AddrSet{Peer(0, false): {}}},
		"mp-20001":  {Alias: "tunnel-to-m1", VNI: 20001, Sends: true, Flood: hostops.AddrSet{Peer(1, true): {}}},
		"mp-20002":  {Alias: "tunnel-to-m2", VNI: 20002, Silent: true, Flood: hostops.AddrSet{Peer(2, true): {}}},
	} {
		d := s.Devices[name]
		got := hostops.Device{Alias: d.Alias, VNI: d.VNI, Learning: d.Learning, Sends: d.Sends, Silent: d.Silent, Flood: d.Flood}
		if diff := cmp.Diff(want, got, values()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if !d.Up || !d.Isolated || d.Master != "neta" || d.MTU != v.MTU || d.Owner != v.VNI || !d.Quiet {
			t.Errorf("%s = %+v, want it an isolated port of neta, up, quiet, with MTU %d", name, d, v.MTU)
		}
	}
	for vni, want := range map[cluster.VNI]netip.Addr{10000: Peer(0, false), 20001: Peer(1, true), 20002: Peer(2, true)} {
		if _, guarded := s.Filter.VNIs[vni]; !guarded {
			t.Errorf("VNI %d is not guarded", vni)
		}
		if diff := cmp.Diff(hostops.AddrSet{want: {}}, s.Filter.Sources[vni], values()); diff != "" {
			t.Errorf("sources of VNI %d (-want +got):\n%s", vni, diff)
		}
	}
	must(t, b.driver.Close())
	b.open()
	b.silent(false, v)
	b.converge()
	if s := b.state(); len(s.Devices) != 0 || b.kernel.HasFilter() {
		t.Errorf("left: devices %v, filter %v", b.kernel.Devices(), b.kernel.HasFilter())
	}
}

// pairComesAndGoes moves a peer from the shared tunnel to one of its own and
// back, the way of cluster.LinkUse.
func pairComesAndGoes(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v.Tunnels = v.Tunnels[1:]
	b.converge(v)
	before := b.state()
	with := func(sharedSends, ownSends bool) hostops.VPC {
		w := MakeVPC(0)
		w.Tunnels = append(w.Tunnels[1:], PairOf(w, 0))
		w.Tunnels[0].Peers[0].ReceiveOnly, w.Tunnels[1].ReceiveOnly = !sharedSends, !ownSends
		return w
	}
	var silent hostops.State
	for _, step := range []struct {
		name string
		v    hostops.VPC
		want []string
	}{
		{"preparing", with(true, false), []string{
			"allow VNI 20000 from 2001:db8:2::10, guard: drop other sources",
			"create tunnel mp-20000: VNI 20000, local 2001:db8::1 on u0, port 4789, MTU 1430, not learning",
			"add port mp-20000 to bridge neta",
			"isolate port mp-20000",
			"only receive by port mp-20000",
			"bring up mp-20000",
			"add peer 2001:db8:2::10 to mp-20000",
		}},
		{"active", with(false, true), []string{
			"set FDB entry 0e:6d:0a:64:06:0a on mp-20000 to peer 2001:db8:2::10",
			"send by port mp-20000",
			"remove peer 2001:db8:2::10 from mv6-10000",
			"forget MACs at 2001:db8:2::10 on mv6-10000",
			"remove FDB entry 0e:6d:0a:64:06:0a from mv6-10000",
		}},
		{"retiring", with(true, false), []string{
			"set FDB entry 0e:6d:0a:64:06:0a on mv6-10000 to peer 2001:db8:2::10",
			"add peer 2001:db8:2::10 to mv6-10000",
			"only receive by port mp-20000",
			"remove FDB entry 0e:6d:0a:64:06:0a from mp-20000",
		}},
		{"gone", v, []string{
			"delete device mp-20000",
			"stop guarding VNI 20000",
			"stop allowing VNI 20000 from 2001:db8:2::10",
		}},
	} {
		r := b.pass(false, step.v)
		if diff := cmp.Diff(step.want, texts(r.Applied)); diff != "" || len(r.Problems) > 0 {
			t.Errorf("%s: problems %v, operations (-want +got):\n%s", step.name, r.Problems, diff)
		}
		if r.Repairs != 0 {
			t.Errorf("%s counts as %d repairs", step.name, r.Repairs)
		}
		if own := r.Own["neta"]; step.name != "gone" && !own["m0"] {
			t.Errorf("%s: the link is not reported in place: %v", step.name, own)
		}
		b.converge(step.v)
		switch step.name {
		case "preparing":
			silent = b.state()
		case "retiring":
			if d := diff(silent, b.state()); d != "" {
				t.Errorf("retiring is not as preparing (-want +got):\n%s", d)
			}
		}
	}
	if d := diff(before, b.state()); d != "" {
		t.Errorf("host is not as it was (-before +after):\n%s", d)
	}
}

func tamperingPairs(t *testing.T, b *bench) {
	v := MakeMixed(0)
	k := b.kernel
	b.converge(v)
	before := b.state()
	for _, tt := range []struct {
		name string
		do   func() error
	}{
		{"deleted", func() error { return k.DeleteDevice("mp-20001") }},
		{"not isolated", func() error { return k.SetIsolated("mp-20001", false) }},
		{"out of its bridge", func() error { return k.SetMaster("mp-20001", "") }},
		{"receiving one out of its bridge", func() error { return k.SetMaster("mp-20002", "") }},
		{"MTU", func() error { return k.SetMTU("mp-20001", 1280) }},
		{"peer removed", func() error { return k.RemovePeer("mp-20001", Peer(1, true)) }},
		{"peer added", func() error { return k.AddPeer("mp-20001", Peer(9, true)) }},
		{"down", func() error { return k.SetUp("mp-20002", false) }},
		{"flooding of the active one", func() error { return k.SetFlag("mp-20001", "bcast_flood", false) }},
		{"flooding of the receiving one", func() error { return k.SetFlag("mp-20002", "bcast_flood", true) }},
		{"flooding of the shared one", func() error { return k.SetFlag("mv4-10000", "bcast_flood", false) }},
		{"filter wiped", k.WipeFilter},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.settle()
			must(t, tt.do())
			b.changed(tt.name)
			if n := b.converge(v); n == 0 {
				t.Error("no repair was counted")
			}
			if d := diff(before, b.state()); d != "" {
				t.Errorf("host is not as it was (-before +after):\n%s", d)
			}
		})
	}
}

// pairsClash: what stands in the way of one pair stands in the way of no other.
func pairsClash(t *testing.T, b *bench) {
	k := b.kernel
	must(t, k.AddDevice("vx", hostops.Other{Kind: hostops.KindTunnel, MTU: 1500, VNI: 20001, Port: Port, V6: true}))
	must(t, k.AddDevice("mp-20003", hostops.Other{Kind: hostops.KindBridge, MTU: 1500}))
	foreign := k.Devices()
	v := MakeMixed(0)
	twice, taken := PairOf(v, 5), PairOf(v, 4)
	twice.Pair, taken.Pair = 20002, v.VNI
	v.Tunnels = append(v.Tunnels, PairOf(v, 3), twice, taken)
	r := b.pass(false, v)
	var got []string
	for _, p := range r.Problems {
		got = append(got, p.Reason)
	}
	want := []string{
		"VNI 20002 of the pair with m5 is used by VPC neta already",
		"VNI 10000 of the pair with m4 is used by VPC neta already",
		"VNI 20001 on UDP port 4789 is held by device vx, which is not meshvpc's: remove it",
		"device mp-20003 is there and is not meshvpc's: remove or rename it",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	s := b.state()
	if !s.Devices["mp-20002"].Up || !s.Devices["mv4-10000"].Up || r.Ready["neta"] {
		t.Errorf("devices %v, ready %v: want the other tunnels up, and the VPC not ready", k.Devices(), r.Ready)
	}
	if _, guarded := s.Filter.VNIs[20001]; guarded {
		t.Error("the VNI of a foreign tunnel is guarded")
	}
	if own := r.Own["neta"]; own["m1"] || !own["m2"] || own["m3"] {
		t.Errorf("in place: %v, want m2 only", own)
	}
	if again := b.pass(true, v); len(again.Applied) > 0 {
		t.Errorf("second pass applied %v", again.Applied)
	}
	b.converge()
	if got := k.Devices(); !slices.Equal(foreign, got) {
		t.Errorf("after teardown %v, want what was foreign: %v", got, foreign)
	}
}

// multicast joins a group, floods to it, floods to a list again, moves its
// underlay and leaves the group.
func multicast(t *testing.T, b *bench) {
	for i, group := range Groups() {
		name := []string{"mv4-10000", "mv6-10000"}[i]
		v := func(joined, toGroup bool) hostops.VPC {
			v := MakeVPC(0)
			if joined {
				v.Tunnels[i].Group = group
			}
			v.Tunnels[i].ToGroup = toGroup
			return v
		}
		list := hostops.AddrSet{Peer(0, i == 1): {}, Peer(1, i == 1): {}}
		moved := v(true, true)
		moved.Tunnels[i].Device, moved.Tunnels[i].Local = "u1", []netip.Addr{
			netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}[i]
		for _, step := range []struct {
			name  string
			v     hostops.VPC
			group netip.Addr
			flood hostops.AddrSet
		}{
			{"not joined", v(false, false), netip.Addr{}, list},
			{"joined", v(true, false), group, list},
			{"flooding to the group", v(true, true), group, hostops.AddrSet{group: {}}},
			{"moved", moved, group, hostops.AddrSet{group: {}}},
			{"fallen back", v(true, false), group, list},
			{"left", v(false, false), netip.Addr{}, list},
			{"flooding to the group at once", v(true, true), group, hostops.AddrSet{group: {}}},
			{"left at once", v(false, false), netip.Addr{}, list},
			{"gone", hostops.VPC{}, netip.Addr{}, nil},
			{"new", v(true, true), group, hostops.AddrSet{group: {}}},
			{"gone again", hostops.VPC{}, netip.Addr{}, nil},
			{"new with a list", v(true, false), group, list},
		} {
			vpcs := []hostops.VPC{step.v}
			if step.flood == nil {
				vpcs = nil
			}
			if n := b.converge(vpcs...); n != 0 {
				t.Errorf("%s: %d repairs", step.name, n)
			}
			d := b.state().Devices[name]
			if diff := cmp.Diff(step.flood, d.Flood, values()); diff != "" || d.Group != step.group || d.Up != (step.flood != nil) {
				t.Errorf("%s: group %s, up %v, flood list (-want +got):\n%s", step.name, d.Group, d.Up, diff)
			}
		}
		b.settle()
		must(t, b.kernel.AddPeer(name, Peer(7, i == 1)))
		b.changed("peer added")
		if n := b.converge(v(true, false)); n != 1 {
			t.Errorf("a peer that was added by hand counts as %d repairs", n)
		}
	}
}
