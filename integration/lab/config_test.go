package lab

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTopology(t *testing.T) {
	for name, tt := range map[string]struct {
		hosts, datacenters int
		witness            bool
		want               string
	}{
		"article":                  {3, 0, false, "jhoster1/skynet gold-hoster-01/hetzner gold-hoster-02/hetzner"},
		"article with witness":     {3, 0, true, "jhoster1/skynet gold-hoster-01/hetzner gold-hoster-02/hetzner witness/third"},
		"two of the article":       {2, 0, false, "jhoster1/skynet gold-hoster-01/hetzner"},
		"larger":                   {5, 0, false, "host-001/dc1 host-002/dc2 host-003/dc3 host-004/dc1 host-005/dc2"},
		"datacenters asked for":    {3, 2, false, "host-001/dc1 host-002/dc2 host-003/dc1"},
		"larger with witness":      {4, 2, true, "host-001/dc1 host-002/dc2 host-003/dc1 host-004/dc2 witness/dc3"},
		"no host":                  {0, 0, false, "make lab of 0 hosts: want 1 to 999"},
		"more datacenters than it": {2, 3, false, "make lab of 3 datacenters: want 1 to the number of hosts, 2"},
	} {
		t.Run(name, func(t *testing.T) {
			list, err := Topology(tt.hosts, tt.datacenters, tt.witness)
			got := fmt.Sprint(err)
			if err == nil {
				var words []string
				for _, h := range list {
					if h.Witness != (h.Name == "witness") {
						t.Errorf("%s is marked as witness: %v", h.Name, h.Witness)
					}
					words = append(words, h.Name+"/"+h.Datacenter)
				}
				got = strings.Join(words, " ")
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestUnderlayEnds(t *testing.T) {
	documentation := []netip.Prefix{
		netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("192.0.2.0/24"),
		netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24"),
	}
	inside := func(a netip.Addr) bool {
		for _, p := range documentation {
			if p.Contains(a) {
				return true
			}
		}
		return false
	}
	for _, u := range []Underlay{IPv6, IPv4, Dual} {
		seen := map[netip.Prefix]bool{}
		for i := 1; i <= u.room(); i++ {
			e := u.ends(i)
			if want := map[Underlay]int{IPv6: 1, IPv4: 1, Dual: 2}[u]; len(e.Host) != want || len(e.Router) != want || e.Subnet != i {
				t.Fatalf("%s %d: %+v", u, i, e)
			}
			for j, p := range e.Host {
				r := e.Router[j]
				if p.Masked() != r.Masked() || p == r || seen[p.Masked()] || !inside(p.Addr()) || !inside(r.Addr()) {
					t.Fatalf("%s %d: host %v, router %v", u, i, p, r)
				}
				seen[p.Masked()] = true
			}
		}
	}
	got := Dual.ends(66)
	want := ends{66,
		[]netip.Prefix{netip.MustParsePrefix("2001:db8:42::2/64"), netip.MustParsePrefix("198.51.100.6/30")},
		[]netip.Prefix{netip.MustParsePrefix("2001:db8:42::1/64"), netip.MustParsePrefix("198.51.100.5/30")},
	}
	if diff := cmp.Diff(fmt.Sprint(want), fmt.Sprint(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestSubnetsAreDealtAgainLast(t *testing.T) {
	var s subnets
	for want := 1; want <= 3; want++ {
		if got, err := s.take(3); err != nil || got != want {
			t.Fatalf("take: %d, %v; want %d", got, err, want)
		}
	}
	if _, err := s.take(3); err == nil {
		t.Error("a fourth of three was dealt")
	}
	s.giveBack(3)
	s.giveBack(2)
	if got, err := s.take(3); err != nil || got != 2 {
		t.Errorf("take: %d, %v; want 2, as 3 was used last", got, err)
	}
}

func TestSevered(t *testing.T) {
	places := []place{{"a", "x", 1}, {"b", "x", 2}, {"c", "y", 3}, {"stranger", "", 4}}
	for name, tt := range map[string]struct {
		cuts []Cut
		want []link
	}{
		"nothing":                      {nil, nil},
		"two hosts":                    {[]Cut{{A: "a", B: "c"}}, []link{{1, 3}, {3, 1}}},
		"two of a datacenter":          {[]Cut{{A: "a", B: "b"}}, []link{{1, 2}, {2, 1}}},
		"host from everybody":          {[]Cut{{A: "c"}}, []link{{1, 3}, {2, 3}, {3, 1}, {3, 2}, {3, 4}, {4, 3}}},
		"datacenter from everybody":    {[]Cut{{A: "x"}}, []link{{1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 1}, {3, 2}, {4, 1}, {4, 2}}},
		"datacenter within itself":     {[]Cut{{A: "x", B: "x"}}, []link{{1, 2}, {2, 1}}},
		"host from its own datacenter": {[]Cut{{A: "a", B: "x"}}, []link{{1, 2}, {2, 1}}},
		"two cuts":                     {[]Cut{{A: "a", B: "b"}, {A: "b", B: "a"}, {A: "b", B: "c"}}, []link{{1, 2}, {2, 1}, {2, 3}, {3, 2}}},
		"what is not there":            {[]Cut{{A: "gone"}, {A: "a", B: "gone"}}, nil},
		"one way to a host":            {[]Cut{{A: "c", B: "a", OneWay: true}}, []link{{3, 1}}},
		"one way to a datacenter":      {[]Cut{{A: "c", B: "x", OneWay: true}}, []link{{3, 1}, {3, 2}}},
		"one way to everybody":         {[]Cut{{A: "x", OneWay: true}}, []link{{1, 3}, {1, 4}, {2, 3}, {2, 4}}},
		"one way, and the other":       {[]Cut{{A: "a", B: "c", OneWay: true}, {A: "c", B: "a", OneWay: true}}, []link{{1, 3}, {3, 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, severed(places, tt.cuts), cmp.AllowUnexported(link{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
