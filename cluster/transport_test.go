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
