package cluster

import (
	"errors"
	"net/netip"
	"testing"
)

func TestTransportOfASpec(t *testing.T) {
	for name, tt := range map[string]struct {
		transport Transport
		group     string
		ok        bool
	}{
		"none":                       {"", "", true},
		"auto":                       {Auto, "", true},
		"p2p":                        {P2P, "", true},
		"multipoint is no wish":      {Multipoint, "", false},
		"unknown":                    {"carrier-pigeon", "", false},
		"multicast":                  {Multicast, "239.1.1.1", true},
		"multicast over IPv6":        {Multicast, "ff05::1:1", true},
		"multicast without a group":  {Multicast, "", false},
		"a group of one host":        {Multicast, "192.0.2.1", false},
		"a group of one link":        {Multicast, "224.0.0.7", false},
		"a group of one link, IPv6":  {Multicast, "ff02::1", false},
		"a group of one interface":   {Multicast, "ff01::1", false},
		"a group of a reserved kind": {Multicast, "ff00::1", false},
		"a group in disguise":        {Multicast, "::ffff:239.1.1.1", false},
		"a group with a zone":        {Multicast, "ff05::1%eth0", false},
		"a group without multicast":  {P2P, "239.1.1.1", false},
	} {
		t.Run(name, func(t *testing.T) {
			var group netip.Addr
			if tt.group != "" {
				group = netip.MustParseAddr(tt.group)
			}
			s := &VPCSpec{State: VPCActive, Members: SelectAll, PeerNetwork: DefaultPeerNetwork, Transport: tt.transport, MulticastGroup: group}
			if err := s.Validate(); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("Validate = %v; want ok %v", err, tt.ok)
			}
		})
	}
}

func TestPair(t *testing.T) {
	p := PairOf("vpc1", "b", "a")
	if got, err := ParsePair(p.String()); err != nil || got != p || p != PairOf("vpc1", "a", "b") {
		t.Errorf("ParsePair(%q) = %v, %v; want the same pair in either order", p, got, err)
	}
	for _, s := range []string{"", "vpc1", "vpc1/a", "vpc1/b/a", "vpc1/a/a", "vpc1/a/b/c", "VPC/a/b", "vpc1/A/b", "vpc1//b"} {
		if got, err := ParsePair(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("ParsePair(%q) = %v, %v; want ErrInvalid", s, got, err)
		}
	}
	for i, key := range p.Keys() {
		k, err := ParseKey(key)
		want := Key{Kind: KindHostLink, VPC: "vpc1", Node: []string{"a", "b"}[i], Name: []string{"b", "a"}[i]}
		if err != nil || k != want {
			t.Errorf("ParseKey(%q) = %+v, %v; want %+v", key, k, err, want)
		}
	}
}

func TestLinkInForce(t *testing.T) {
	for name, tt := range map[string]struct {
		link Link
		ok   bool
	}{
		"shared tunnel":      {Link{Peer: "b", State: LinkUp}, true},
		"tunnel of the pair": {Link{Peer: "b", State: LinkUp, VNI: 8, Use: LinkRestoring}, true},
		"use without a VNI":  {Link{Peer: "b", State: LinkUp, Use: LinkActive}, false},
		"VNI without a use":  {Link{Peer: "b", State: LinkUp, VNI: 8}, false},
		"unknown use":        {Link{Peer: "b", State: LinkUp, VNI: 8, Use: "idle"}, false},
	} {
		s := &VPCStatus{State: HostMember, Links: []Link{tt.link}}
		if err := s.Validate(); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Validate = %v; want ok %v", name, err, tt.ok)
		}
	}
}

func TestCan(t *testing.T) {
	for _, tt := range []struct {
		capabilities []string
		want         [3]bool // multipoint, p2p, multicast
	}{
		{nil, [3]bool{true, true, false}},
		{[]string{"static"}, [3]bool{true, true, false}},
		{[]string{CanP2P}, [3]bool{false, true, false}},
		{[]string{CanMultipoint, CanP2P, CanMulticast}, [3]bool{true, true, true}},
		{[]string{CanMulticast}, [3]bool{false, false, true}},
	} {
		s := &NodeStatus{Capabilities: tt.capabilities}
		if got := [3]bool{s.Can(CanMultipoint), s.Can(CanP2P), s.Can(CanMulticast)}; got != tt.want {
			t.Errorf("Can of %v = %v, want %v", tt.capabilities, got, tt.want)
		}
	}
}
