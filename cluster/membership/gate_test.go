package membership

import (
	"net/netip"
	"testing"
	"time"
)

// TestGate: no source takes more than its share, and all together not more than
// there is; what is closed gives its place back.
func TestGate(t *testing.T) {
	now := time.Unix(1800000000, 0)
	g := newGate(nil, func() time.Time { return now })
	one := netip.MustParsePrefix("192.0.2.1/32")
	var open []*source
	for range 2 * openPerSource {
		if s := g.enter(one); s != nil {
			open = append(open, s)
		}
	}
	if len(open) != openPerSource {
		t.Errorf("%d connections of one source are open, want %d", len(open), openPerSource)
	}
	for _, s := range open {
		g.leave(s)
	}
	now = now.Add(time.Second)
	passed := 0
	for range burst {
		if s := g.enter(one); s != nil {
			g.leave(s)
			passed++
		}
	}
	if passed != int(perSource) {
		t.Errorf("%d of one source in a second, want %d", passed, int(perSource))
	}
	for i := range 2 * maxSources {
		g.enter(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))
	}
	if g.open != maxOpen || len(g.sources) > maxSources+maxOpen {
		t.Errorf("%d open of %d sources, want %d and about %d", g.open, len(g.sources), maxOpen, maxSources)
	}
}

func TestSourceOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7:99": "192.0.2.7/32", "[::ffff:192.0.2.7]:99": "192.0.2.7/32", "[2001:db8:1:2:3::4]:99": "2001:db8:1:2::/64", "[fe80::1%eth0]:99": "fe80::/64",
	} {
		if got := sourceOf(addr(in)).String(); got != want {
			t.Errorf("%s is of %s, want %s", in, got, want)
		}
	}
}

type addr string

func (a addr) Network() string { return "tcp" }
func (a addr) String() string  { return string(a) }
