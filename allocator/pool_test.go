package allocator

import (
	"fmt"
	"math"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

func TestNetwork(t *testing.T) {
	addr := netip.MustParseAddr
	for name, tt := range map[string]struct {
		prefix   string
		gateway  string
		exclude  []string
		capacity uint64
		first    []string // in order; fewer than three if that is all
	}{
		"IPv4 host":                {prefix: "10.0.0.7/32", capacity: 1, first: []string{"10.0.0.7"}},
		"IPv4 pair, RFC 3021":      {prefix: "10.0.0.0/31", capacity: 2, first: []string{"10.0.0.0", "10.0.0.1"}},
		"smallest with broadcast":  {prefix: "10.100.0.0/30", capacity: 2, first: []string{"10.100.0.1", "10.100.0.2"}},
		"/24":                      {prefix: "10.0.0.0/24", capacity: 254, first: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}},
		"/16":                      {prefix: "10.100.0.0/16", capacity: 65534, first: []string{"10.100.0.1", "10.100.0.2", "10.100.0.3"}},
		"/8":                       {prefix: "10.0.0.0/8", capacity: 1<<24 - 2, first: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}},
		"IPv6 host":                {prefix: "fd00::1/128", capacity: 1, first: []string{"fd00::1"}},
		"IPv6 pair, RFC 6164":      {prefix: "fd00::/127", capacity: 2, first: []string{"fd00::", "fd00::1"}},
		"IPv6 with anycast":        {prefix: "fd00::/126", capacity: 3, first: []string{"fd00::1", "fd00::2", "fd00::3"}},
		"/64":                      {prefix: "fd00:100::/64", capacity: math.MaxUint64 - 1, first: []string{"fd00:100::1", "fd00:100::2", "fd00:100::3"}},
		"wider than 64 bits":       {prefix: "fd00::/8", capacity: math.MaxUint64 - 1, first: []string{"fd00::1", "fd00::2", "fd00::3"}},
		"gateway":                  {prefix: "10.0.0.0/29", gateway: "10.0.0.1", capacity: 5, first: []string{"10.0.0.2", "10.0.0.3", "10.0.0.4"}},
		"excluded":                 {prefix: "10.0.0.0/30", exclude: []string{"10.0.0.1"}, capacity: 1, first: []string{"10.0.0.2"}},
		"excluded twice, reserved": {prefix: "10.0.0.0/30", exclude: []string{"10.0.0.1", "10.0.0.1", "10.0.0.0"}, capacity: 1, first: []string{"10.0.0.2"}},
		"excluded elsewhere":       {prefix: "10.0.0.0/30", exclude: []string{"10.9.0.1"}, capacity: 2, first: []string{"10.0.0.1", "10.0.0.2"}},
		"all excluded":             {prefix: "10.0.0.0/31", exclude: []string{"10.0.0.0", "10.0.0.1"}, capacity: 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := Network{Prefix: netip.MustParsePrefix(tt.prefix)}
			if tt.gateway != "" {
				n.Gateway = addr(tt.gateway)
			}
			for _, a := range tt.exclude {
				n.Exclude = append(n.Exclude, addr(a))
			}
			if got := n.Capacity(); got != tt.capacity {
				t.Errorf("capacity %d, want %d", got, tt.capacity)
			}
			p := n.pool()
			for _, want := range tt.first {
				i, ok := p.Lowest(nil)
				if got := n.addr(i); !ok || got != addr(want) {
					t.Fatalf("next is %s, %v; want %s", got, ok, want)
				}
				if back, ok := n.index(n.addr(i)); !ok || back != i || !n.Allocates(addr(want)) {
					t.Errorf("%s is number %d, %v; want %d", want, back, ok, i)
				}
				p.Take(i)
			}
			if len(tt.first) < 3 {
				if i, ok := p.Lowest(nil); ok {
					t.Errorf("after all of it comes %s", n.addr(i))
				}
			}
		})
	}
}

func TestNetworkDoesNotAllocate(t *testing.T) {
	n := Network{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Exclude: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}
	for _, a := range []string{"10.0.0.0", "10.0.0.255", "10.0.0.9", "10.0.1.1", "fd00::1"} {
		if n.Allocates(netip.MustParseAddr(a)) {
			t.Errorf("%s is allocated from %v", a, n)
		}
	}
	if n.Allocates(netip.Addr{}) {
		t.Error("the zero address is allocated")
	}
}

// TestPoolAgainstScan holds the pool against a plain search.
func TestPoolAgainstScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(1, 24).Draw(t, "size")
		reserved := rapid.SliceOfN(rapid.Uint64Range(0, 24), 0, 4).Draw(t, "reserved")
		p := newPool(size, reserved...)
		taken, kept := map[uint64]bool{}, map[uint64]bool{}
		for _, r := range reserved {
			if r < size {
				kept[r] = true
			}
		}
		if got := p.Capacity(); got != size-uint64(len(kept)) {
			t.Fatalf("capacity %d of %d with %d reserved", got, size, len(kept))
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			avoid := rapid.Uint64Range(0, 30).Draw(t, "avoid")
			want, found := uint64(0), false
			for n := range size {
				if !taken[n] && !kept[n] && n != avoid {
					want, found = n, true
					break
				}
			}
			got, ok := p.Lowest(func(n uint64) bool { return n == avoid })
			if got != want || ok != found {
				t.Fatalf("lowest is %d, %v; want %d, %v", got, ok, want, found)
			}
			n := rapid.Uint64Range(0, 26).Draw(t, "n")
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				if ok {
					p.Take(got)
					taken[got] = true
				}
			case 1:
				if p.Take(n) != (n < size && !taken[n]) {
					t.Fatalf("take %d of %d: wrong answer", n, size)
				}
				if n < size {
					taken[n] = true
				}
			case 2:
				p.Free(n)
				delete(taken, n)
			}
			if p.Taken() != len(taken) {
				t.Fatalf("%d taken, want %d", p.Taken(), len(taken))
			}
		}
	})
}

// BenchmarkClaim measures one claim and its release with so many taken, of a
// /64, with a hole far below the newest.
func BenchmarkClaim(b *testing.B) {
	for _, used := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprint(used), func(b *testing.B) {
			n := Network{Prefix: netip.MustParsePrefix("fd00:100::/64")}
			a := New()
			for i := range used {
				c, err := a.ClaimVTEP("blue", n, fmt.Sprintf("node-%d", i), nil)
				if err != nil {
					b.Fatal(err)
				}
				c.Settle(int64(i+1), nil)
			}
			for b.Loop() {
				c, err := a.ClaimVTEP("blue", n, "another", nil)
				if err != nil {
					b.Fatal(err)
				}
				c.Settle(0, errNever)
			}
		})
	}
}
