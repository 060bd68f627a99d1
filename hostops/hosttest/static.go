package hosttest

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Workload is number i of a VPC, with two addresses, at the peer with that underlay
// address, or here.
func Workload(i int, at netip.Addr) hostops.Place {
	return hostops.Place{MAC: cluster.MAC{2, 0, 0, 0, 1, byte(i)}, At: at, // as MakePort's
		Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(10 + i)}), netip.MustParseAddr(fmt.Sprintf("fd00::1%x", i))}}
}

// MakeStatic is VPC number n, static, over IPv6: workload 0 is here, 1 and 2 are at
// peers.
func MakeStatic(n int) hostops.VPC {
	v := MakeVPC(n)
	v.Tunnels = v.Tunnels[1:]
	v.Static = true
	v.Places = []hostops.Place{Workload(0, netip.Addr{}), Workload(1, Peer(1, true)), Workload(2, Peer(0, true))}
	return v
}

// Move is v with workload i elsewhere.
func Move(v hostops.VPC, i int, to netip.Addr) hostops.VPC {
	v.Places = slices.Clone(v.Places)
	v.Places[i].At = to
	return v
}

// placesOf is what a host should have been told of v's workloads.
func placesOf(v hostops.VPC) (fdb map[cluster.MAC]netip.Addr, answers map[netip.Addr]cluster.MAC, passes []hostops.Placed) {
	fdb, answers = map[cluster.MAC]netip.Addr{}, map[netip.Addr]cluster.MAC{}
	for _, p := range v.Tunnels[0].Peers {
		fdb[hostops.VTEPMAC(p.VTEP)] = p.Underlay
	}
	for _, w := range v.Places {
		for _, a := range w.Addresses {
			answers[a] = w.MAC
		}
		if w.At.IsValid() {
			fdb[w.MAC] = w.At
		}
	}
	for mac, at := range fdb {
		passes = append(passes, hostops.Placed{MAC: mac, From: at})
	}
	return fdb, answers, passes
}

// holds compares what the host has with what v says.
func (b *bench) holds(step string, v hostops.VPC) {
	b.t.Helper()
	fdb, answers, passes := placesOf(v)
	s := b.state()
	d := s.Devices[hostops.TunnelOf(v.VNI, v.Tunnels[0].Local)]
	if !d.Static || d.Sends || d.Silent || d.Odd || d.Learning || !d.Up || !d.Isolated {
		b.t.Errorf("%s: tunnel %+v, want it static, not learning, isolated, up", step, d)
	}
	if diff := cmp.Diff(fdb, maps.Collect(d.FDB.All()), values()); diff != "" {
		b.t.Errorf("%s: FDB (-want +got):\n%s", step, diff)
	}
	if diff := cmp.Diff(answers, maps.Collect(s.Devices[v.Name].Answers.All()), values()); diff != "" {
		b.t.Errorf("%s: answers (-want +got):\n%s", step, diff)
	}
	want := hostops.NewTable[hostops.Placed, struct{}]()
	for _, p := range passes {
		want.Set(p, struct{}{})
	}
	if _, judged := s.Filter.Placed[v.VNI]; !judged || !want.Equal(s.Filter.Places[v.VNI]) {
		b.t.Errorf("%s: judged %v, places %v, want %v", step, judged, maps.Collect(s.Filter.Places[v.VNI].All()), passes)
	}
}

// static tells a host where workloads are, moves them, and goes back to learning.
func static(t *testing.T, b *bench) {
	v := MakeStatic(0)
	gone := v
	gone.Places = v.Places[:2]
	for _, step := range []struct {
		name string
		v    hostops.VPC
	}{
		{"told", v},
		{"moved to another peer", Move(v, 1, Peer(0, true))},
		{"moved here", Move(v, 1, netip.Addr{})},
		{"moved away", Move(v, 0, Peer(1, true))},
		{"gone", gone},
	} {
		if n := b.converge(step.v); n != 0 {
			t.Errorf("%s: %d repairs", step.name, n)
		}
		b.holds(step.name, step.v)
	}
	plain := MakeVPC(0)
	plain.Tunnels = plain.Tunnels[1:]
	b.converge(plain)
	s := b.state()
	d := s.Devices["mv6-10000"]
	if !d.Sends || d.Static || d.Odd || !d.Learning || d.FDB.Len() != 2 || s.Devices["neta"].Answers.Len() != 0 || len(s.Filter.Placed) != 0 || len(s.Filter.Places) != 0 {
		t.Errorf("after learning is back: tunnel %+v, answers %v, filter %+v", d, s.Devices["neta"].Answers, s.Filter)
	}
	b.converge(v)
	b.holds("static again", v)
	b.takenOverAndGone(v)
}

func tamperingStatic(t *testing.T, b *bench) {
	v := MakeStatic(0)
	for _, tt := range []struct {
		name   string
		tamper func() error
	}{
		{"an entry for a workload is set elsewhere", func() error { return b.kernel.SetFDB("mv6-10000", v.Places[1].MAC, Peer(0, true)) }},
		{"an entry for a workload is removed", func() error { return b.kernel.RemoveFDB("mv6-10000", v.Places[1].MAC, false) }},
		{"an answer is removed", func() error { return b.kernel.RemoveAnswer("neta", v.Places[1].Addresses[0]) }},
		{"an answer is another's", func() error { return b.kernel.SetAnswer("neta", v.Places[1].Addresses[1], v.Places[2].MAC) }},
		{"somebody has it answer for another", func() error { return b.kernel.SetAnswer("neta", netip.MustParseAddr("10.0.0.77"), v.Places[2].MAC) }},
		{"the tunnel floods what it does not know", func() error { return b.kernel.SetFlag("mv6-10000", "flood", true) }},
		{"the tunnel learns", func() error { return b.kernel.SetFlag("mv6-10000", "learning", true) }},
		{"the filter is wiped", b.kernel.WipeFilter},
	} {
		b.converge(v)
		must(t, tt.tamper())
		b.changed(tt.name)
		if n := b.converge(v); n == 0 {
			t.Errorf("%s: no repairs", tt.name)
		}
		b.holds(tt.name, v)
	}
}

// staticPorts hands a workload that is attached here over to another host, and takes
// it back.
func staticPorts(t *testing.T, b *bench) {
	v := MakeStatic(0)
	active := MakePort(v, 0, b.room("room0"))
	standby := active
	standby.Standby = true
	for _, step := range []struct {
		name string
		v    hostops.VPC
		port hostops.Port
		here bool
	}{
		{"here", v, active, true},
		{"handed over", Move(v, 0, Peer(1, true)), standby, false},
		{"taken back", v, active, true},
		{"handed over again", Move(v, 0, Peer(0, true)), standby, false},
	} {
		step.v = with(step.v, step.port)
		if n := b.converge(step.v); n != 0 {
			t.Errorf("%s: %d repairs", step.name, n)
		}
		b.holds(step.name, step.v)
		d := b.state().Devices[step.port.Device]
		if d.Up != step.here || (d.Pinned == step.port.MAC) != step.here {
			t.Errorf("%s: port %+v", step.name, d)
		}
	}
	here, away := with(v, active), with(Move(v, 0, Peer(1, true)), standby)
	for range 3 { // by what the driver knows from events alone
		for _, w := range []hostops.VPC{here, away} {
			if r := b.pass(false, w); len(r.Problems) > 0 {
				t.Errorf("problems %v", r.Problems)
			}
			b.silent(false, w)
		}
	}
	b.silent(true, away)
	b.converge()
}
