package watcher

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

func TestParseUnderlay(t *testing.T) {
	ip := netip.MustParseAddr
	for in, want := range map[string]UnderlaySpec{
		"eth0":                           {Device: "eth0"},
		"wg-mesh":                        {Device: "wg-mesh"},
		"192.0.2.1":                      {Bind: ip("192.0.2.1")},
		"10.0.0.5=192.0.2.1":             {Bind: ip("10.0.0.5"), Advertise: ip("192.0.2.1")},
		"2001:db8::1":                    {Bind: ip("2001:db8::1")},
		"fd00::1=2001:db8::1":            {Bind: ip("fd00::1"), Advertise: ip("2001:db8::1")},
		"":                               {},
		"eth0=192.0.2.1":                 {},
		"192.0.2.1=2001:db8::1":          {},
		"192.0.2.1=":                     {},
		"192.0.2.0/24":                   {},
		"fe80::1%eth0":                   {},
		"fe80::1":                        {},
		"127.0.0.1":                      {},
		"0.0.0.0":                        {},
		"::ffff:192.0.2.1":               {},
		"224.0.0.1":                      {},
		"10.0.0.5=127.0.0.1":             {},
		"a-name-too-long-for-any-device": {},
		"et h0":                          {},
	} {
		got, err := ParseUnderlay(in)
		if got != want || errors.Is(err, cluster.ErrInvalid) != (want == UnderlaySpec{}) {
			t.Errorf("ParseUnderlay(%q) = %+v, %v; want %+v", in, got, err, want)
		}
	}
}

func TestChooseUnderlay(t *testing.T) {
	on := func(device, prefix string, up bool) hostops.Address {
		return hostops.Address{Device: device, Prefix: netip.MustParsePrefix(prefix), MTU: 1500, Up: up}
	}
	host := []hostops.Address{
		on("lo", "127.0.0.1/8", true), on("eth0", "fe80::1/64", true), on("eth0", "192.0.2.1/24", true), on("eth0", "2001:db8::1/64", true),
		on("eth0", "192.0.2.9/24", true), on("eth1", "198.51.100.1/24", true), on("down0", "203.0.113.1/24", false),
	}
	at := func(device, bind, advertise string) *cluster.UnderlayAddress {
		return &cluster.UnderlayAddress{Bind: netip.MustParseAddr(bind), Advertise: netip.MustParseAddr(advertise), Device: device, MTU: 1500}
	}
	device := func(names ...string) (s []UnderlaySpec) {
		for _, n := range names {
			s = append(s, UnderlaySpec{Device: n})
		}
		return s
	}
	address := func(words ...string) (s []UnderlaySpec) {
		for _, w := range words {
			spec, err := ParseUnderlay(w)
			if err != nil {
				t.Fatal(err)
			}
			s = append(s, spec)
		}
		return s
	}
	const has = "192.0.2.1 on eth0, 192.0.2.9 on eth0, 198.51.100.1 on eth1, 2001:db8::1 on eth0, 203.0.113.1 on down0"
	for name, tt := range map[string]struct {
		specs    []UnderlaySpec
		hint     string
		host     []hostops.Address
		prior    cluster.Underlay
		v4, v6   *cluster.UnderlayAddress
		problems []string
	}{
		"a device":          {specs: device("eth0"), host: host, v4: at("eth0", "192.0.2.1", "192.0.2.1"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"an address":        {specs: address("198.51.100.1"), host: host, v4: at("eth1", "198.51.100.1", "198.51.100.1")},
		"behind NAT":        {specs: address("192.0.2.1=203.0.113.77"), host: host, v4: at("eth0", "192.0.2.1", "203.0.113.77")},
		"two addresses":     {specs: address("198.51.100.1", "2001:db8::1"), host: host, v4: at("eth1", "198.51.100.1", "198.51.100.1"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"as before":         {specs: device("eth0"), host: host, prior: cluster.Underlay{IPv4: at("eth0", "192.0.2.9", "192.0.2.9")}, v4: at("eth0", "192.0.2.9", "192.0.2.9"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"prior is gone":     {specs: device("eth0"), host: host, prior: cluster.Underlay{IPv4: at("eth0", "192.0.2.7", "192.0.2.7")}, v4: at("eth0", "192.0.2.1", "192.0.2.1"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"prior of another":  {specs: device("eth0"), host: host, prior: cluster.Underlay{IPv4: at("eth1", "198.51.100.1", "198.51.100.1")}, v4: at("eth0", "192.0.2.1", "192.0.2.1"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"towards the store": {hint: "198.51.100.1", host: host, v4: at("eth1", "198.51.100.1", "198.51.100.1")},
		"no hint":           {host: host, v4: at("eth0", "192.0.2.1", "192.0.2.1"), v6: at("eth0", "2001:db8::1", "2001:db8::1")},
		"not on this host":  {specs: address("192.0.2.77"), host: host, problems: []string{"underlay address 192.0.2.77 is not on this host, which has " + has}},
		"one of two is not": {specs: address("192.0.2.1", "2001:db8::77"), host: host, v4: at("eth0", "192.0.2.1", "192.0.2.1"), problems: []string{"underlay address 2001:db8::77 is not on this host, which has " + has}},
		"device is down":    {specs: address("203.0.113.1"), host: host, problems: []string{"underlay address 203.0.113.1 is not on this host, which has " + has}},
		"no such device":    {specs: device("eth7"), host: host, problems: []string{"underlay device eth7 has no address that peers could reach"}},
		"device has none":   {specs: device("lo"), host: host, problems: []string{"underlay device lo has no address that peers could reach"}},
		"host has nothing":  {specs: address("192.0.2.1"), host: host[:2], problems: []string{"underlay address 192.0.2.1 is not on this host, which has none"}},
		"nothing to choose": {host: host[:2], problems: []string{"no address that peers could reach is on this host"}},
	} {
		t.Run(name, func(t *testing.T) {
			hint := netip.Addr{}
			if tt.hint != "" {
				hint = netip.MustParseAddr(tt.hint)
			}
			u, problems := chooseUnderlay(tt.specs, hint, tt.host, tt.prior)
			if diff := cmp.Diff(cluster.Underlay{IPv4: tt.v4, IPv6: tt.v6}, u, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("underlay (-want +got):\n%s", diff)
			}
			if !slices.Equal(problems, tt.problems) {
				t.Errorf("problems %q; want %q", problems, tt.problems)
			}
		})
	}
}

// TestUnderlayIsFollowed: what is lost is kept and said until there is
// something better; what is found is reported, and that connections from the
// old address lead nowhere.
func TestUnderlayIsFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.settle(time.Second)
		told := w.moved["n1"].Load() // of the first address
		change := func(as ...netip.Prefix) {
			t.Helper()
			if err := w.hosts["n1"].SetAddresses("u0", as...); err != nil {
				t.Fatal(err)
			}
			w.settle(time.Second)
		}
		change()
		if got, want := w.problems("n1"), "underlay device u0 has no address that peers could reach"; got != want {
			t.Errorf("problems without an address = %q; want %q", got, want)
		}
		if w.moved["n1"].Load() != told {
			t.Error("a host without an address said that it moved")
		}
		w.wantWhole("n1")
		after := underlayOf(77)
		change(netip.PrefixFrom(after, 64))
		if got := w.problems("n1"); got != "" {
			t.Errorf("problems afterwards = %q; want none", got)
		}
		if got := w.moved["n1"].Load() - told; got != 1 {
			t.Errorf("the agent said %d times that it moved; want once", got)
		}
		if got := fmt.Sprint(w.hosts["n1"].State().Devices["mv6-10000"].Local); got != after.String() {
			t.Errorf("the tunnel ends at %s; want %s", got, after)
		}
		change(netip.PrefixFrom(after, 64), netip.PrefixFrom(underlayOf(1), 64))
		if got := w.moved["n1"].Load() - told; got != 1 {
			t.Errorf("a second address moved the host: %d", got)
		}
	})
}
