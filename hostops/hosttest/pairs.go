package hosttest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

func pairs(t *testing.T, b *bench) {
	v := MakeMixed(0)
	b.converge(v)
	s := b.state()
	for name, want := range map[string]hostops.Device{
		"mv4-10000": {Alias: "tunnels-of-neta", VNI: 10000, Learning: true, Sends: true, Flood: hostops.Addrs(Peer(0, false))},
		"mp-20001":  {Alias: "tunnel-to-m1", VNI: 20001, Sends: true, Flood: hostops.Addrs(Peer(1, true))},
		"mp-20002":  {Alias: "tunnel-to-m2", VNI: 20002, Silent: true, Flood: hostops.Addrs(Peer(2, true))},
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
		if diff := cmp.Diff(hostops.Addrs(want), s.Filter.Sources[vni], values()); diff != "" {
			t.Errorf("sources of VNI %d (-want +got):\n%s", vni, diff)
		}
	}
	b.takenOverAndGone(v)
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
			"forget MACs at 2001:db8:2::10 on mv6-10000",
			"send by port mp-20000",
			"remove peer 2001:db8:2::10 from mv6-10000",
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

// sharedFallsSilent: a shared tunnel sends as long as it sends to anybody. It stops
// after the last peer has parted, and begins before the first comes back.
func sharedFallsSilent(t *testing.T, b *bench) {
	with := func(byOwn ...bool) hostops.VPC {
		v := MakeVPC(0)
		v.Tunnels = v.Tunnels[1:]
		for i, own := range byOwn {
			pair := PairOf(v, i)
			v.Tunnels[0].Peers[i].ReceiveOnly, pair.ReceiveOnly = own, !own
			v.Tunnels = append(v.Tunnels, pair)
		}
		v.Tunnels[0].ReceiveOnly = byOwn[0] && byOwn[1]
		return v
	}
	const shared = "mv6-10000"
	b.converge(with(false, false))
	for _, step := range []struct {
		v    hostops.VPC
		want []string // of what changes who sends
	}{
		{with(true, false), []string{"send by port mp-20000", "remove peer 2001:db8:2::10 from mv6-10000"}},
		{with(true, true), []string{"send by port mp-20001", "remove peer 2001:db8:2::11 from mv6-10000", "only receive by port mv6-10000"}},
		{with(true, false), []string{"send by port mv6-10000", "add peer 2001:db8:2::11 to mv6-10000", "only receive by port mp-20001"}},
		{with(false, false), []string{"add peer 2001:db8:2::10 to mv6-10000", "only receive by port mp-20000"}},
		{with(true, true), []string{"send by port mp-20000", "remove peer 2001:db8:2::10 from mv6-10000",
			"send by port mp-20001", "remove peer 2001:db8:2::11 from mv6-10000", "only receive by port mv6-10000"}},
	} {
		r := b.pass(false, step.v)
		var got []string
		for _, op := range r.Applied {
			switch op.(type) {
			case hostops.SetSending, hostops.AddPeer, hostops.RemovePeer:
				got = append(got, op.String())
			}
		}
		if diff := cmp.Diff(step.want, got); diff != "" || len(r.Problems) > 0 || r.Repairs != 0 {
			t.Errorf("problems %v, %d repairs, operations (-want +got):\n%s", r.Problems, r.Repairs, diff)
		}
		if d := b.state().Devices[shared]; d.Silent != step.v.Tunnels[0].ReceiveOnly || d.Sends == d.Silent {
			t.Errorf("%s is silent: %v, sends: %v", shared, d.Silent, d.Sends)
		}
		if own := r.Own["neta"]; !own["m0"] || !own["m1"] {
			t.Errorf("not all is reported in place: %v", own)
		}
		b.converge(step.v)
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
