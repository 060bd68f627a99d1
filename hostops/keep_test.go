package hostops

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
)

// TestKeep plans a VPC that is older than what the host carries: what is there
// stays, what is new is added.
func TestKeep(t *testing.T) {
	a := netip.MustParseAddr
	set := func(as ...string) AddrSet {
		s := Addrs()
		for _, x := range as {
			s.Set(a(x), struct{}{})
		}
		return s
	}
	local := a("2001:db8::1")
	peer := func(node, underlay string) Peer { return Peer{Node: node, Underlay: a(underlay)} }
	tunnel := func(vni cluster.VNI, silent bool, flood AddrSet) Device {
		return Device{Kind: KindTunnel, Owner: 10, VNI: vni, Local: local, Underlay: "u0", Port: 4789, Flood: flood, Sends: !silent, Silent: silent}
	}
	shared := func(ps ...Peer) Tunnel { return Tunnel{Local: local, Device: "u0", Port: 4789, Peers: ps} }
	own := func(vni cluster.VNI, receiveOnly bool, p Peer) Tunnel {
		return Tunnel{Pair: vni, Local: local, Device: "u0", Port: 4789, ReceiveOnly: receiveOnly, Peers: []Peer{p}}
	}
	b, c, d := peer("b", "2001:db8::b"), peer("c", "2001:db8::c"), peer("d", "2001:db8::d")
	stranger := peer("", "2001:db8::e")
	receiveOnly := func(p Peer) Peer { p.ReceiveOnly = true; return p }
	state := func(flood, sources AddrSet, pairs map[cluster.VNI]Device) State {
		s := State{Devices: map[string]Device{
			"blue": {Kind: KindBridge, Owner: 10}, "mv6-10": tunnel(10, false, flood),
		}, Filter: Filter{Sources: map[cluster.VNI]AddrSet{10: sources}}}
		for vni, d := range pairs {
			s.Devices[PairTunnelOf(vni)] = d
			s.Filter.Sources[vni] = d.Flood
		}
		return s
	}
	for name, tt := range map[string]struct {
		on   State
		want []Tunnel // before
		keep []Tunnel
	}{
		"an empty host": {State{}, []Tunnel{shared(b)}, []Tunnel{shared(b)}},
		"a peer that is not known": {state(set("2001:db8::b", "2001:db8::e"), set("2001:db8::b", "2001:db8::e"), nil),
			[]Tunnel{shared(b)}, []Tunnel{shared(b, stranger)}},
		"a peer that is not there": {state(set("2001:db8::b"), set("2001:db8::b"), nil),
			[]Tunnel{shared(b, c)}, []Tunnel{shared(b, c)}},
		"a peer that somebody took out of the flood list": {state(set(), set("2001:db8::b"), nil),
			[]Tunnel{shared(b)}, []Tunnel{shared(b)}},
		"a peer that has a tunnel of its own": {
			state(set("2001:db8::b"), set("2001:db8::b"), map[cluster.VNI]Device{20: tunnel(20, false, set("2001:db8::c"))}),
			[]Tunnel{shared(b, c)}, []Tunnel{own(20, false, c), shared(b)}},
		"a peer whose tunnel is not in use": {
			state(set("2001:db8::b", "2001:db8::c"), set("2001:db8::b", "2001:db8::c"), map[cluster.VNI]Device{20: tunnel(20, true, set("2001:db8::c"))}),
			[]Tunnel{shared(b), own(20, false, receiveOnly(c))}, []Tunnel{own(20, true, c), shared(b, c)}},
		"a peer that may still send by the shared tunnel": {
			state(set("2001:db8::b"), set("2001:db8::b", "2001:db8::c"), map[cluster.VNI]Device{20: tunnel(20, false, set("2001:db8::c"))}),
			[]Tunnel{shared(b, c)}, []Tunnel{own(20, false, c), shared(b, receiveOnly(c))}},
		"a peer that shares the tunnel, and is to have its own": {state(set("2001:db8::b", "2001:db8::d"), set("2001:db8::b", "2001:db8::d"), nil),
			[]Tunnel{shared(b), own(30, false, d)}, []Tunnel{shared(b, d)}},
		"a peer that is new, with its own tunnel": {state(set("2001:db8::b"), set("2001:db8::b"), nil),
			[]Tunnel{shared(b), own(30, false, d)}, []Tunnel{shared(b), own(30, false, d)}},
	} {
		t.Run(name, func(t *testing.T) {
			got := tt.on.Keep(VPC{Name: "blue", VNI: 10, Tunnels: tt.want}).Tunnels
			if !slices.EqualFunc(got, tt.keep, func(x, y Tunnel) bool {
				return x.Pair == y.Pair && x.ReceiveOnly == y.ReceiveOnly && x.Local == y.Local && slices.Equal(x.Peers, y.Peers)
			}) {
				t.Errorf("kept %+v\nwant %+v", got, tt.keep)
			}
		})
	}
}
