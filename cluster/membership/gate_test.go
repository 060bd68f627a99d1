package membership

import (
	"net"
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
	var open []*passed
	for range 2 * openPerSource {
		if p := g.enter(one, &conn{}); p != nil {
			open = append(open, p)
		}
	}
	if len(open) != openPerSource {
		t.Errorf("%d connections of one source are open, want %d", len(open), openPerSource)
	}
	for _, p := range open {
		p.Close()
		p.Close()
	}
	now = now.Add(time.Second)
	passed := 0
	for range burst {
		if p := g.enter(one, &conn{}); p != nil {
			p.Close()
			passed++
		}
	}
	if passed != int(perSource) {
		t.Errorf("%d of one source in a second, want %d", passed, int(perSource))
	}
	for i := range 2 * maxSources {
		g.enter(numbered(i), &conn{})
	}
	if g.open != maxOpen || len(g.sources) > maxSources+maxOpen {
		t.Errorf("%d open of %d sources, want %d and about %d", g.open, len(g.sources), maxOpen, maxSources)
	}
}

// TestGateIsFair: who takes all places makes room for others, by its oldest
// connection, and does not get one more by that itself.
func TestGateIsFair(t *testing.T) {
	now := time.Unix(1800000000, 0)
	g := newGate(nil, func() time.Time { return now })
	var held []*conn
	for i := range maxOpen {
		c := &conn{}
		if g.enter(numbered(i/openPerSource), c) == nil {
			t.Fatalf("connection %d found no place", i)
		}
		held = append(held, c)
	}
	good := &conn{}
	if g.enter(netip.MustParsePrefix("192.0.2.1/32"), good) == nil {
		t.Error("a newcomer found no place")
	}
	if !held[0].closed || g.open != maxOpen {
		t.Errorf("the oldest was closed: %v; %d are open, want %d", held[0].closed, g.open, maxOpen)
	}
	for i := range maxOpen {
		g.enter(numbered(i/openPerSource), &conn{})
	}
	if good.closed {
		t.Error("the newcomer lost its place to who has more")
	}
}

func numbered(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32)
}

// conn knows whether it was closed.
type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error { c.closed = true; return nil }

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
