package hosttest

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// tamper is one thing that somebody does to a host behind the driver's back.
type tamper struct {
	name string
	do   func() error
}

// repairs sees that each of what is done to a converged host is signalled,
// counted and undone.
func (b *bench) repairs(t *testing.T, v hostops.VPC, all []tamper) {
	b.converge(v)
	before := b.state()
	for _, tt := range all {
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

func tampering(t *testing.T, b *bench) {
	v := MakeVPC(0)
	v.FloodLimit = 1000
	k := b.kernel
	b.repairs(t, v, []tamper{
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
	})
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

func tamperingPairs(t *testing.T, b *bench) {
	k := b.kernel
	b.repairs(t, MakeMixed(0), []tamper{
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
	})
}
