package allocator_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// BenchmarkNearlyFull claims an address of a /16 of which 1 % is free, all over it,
// and gives it back.
func BenchmarkNearlyFull(b *testing.B) {
	n := allocator.Network{Prefix: netip.MustParsePrefix("10.10.0.0/16")}
	a := allocator.New()
	var free []*allocator.Claim
	for i := range n.Capacity() {
		c, err := a.ClaimIP("blue", n, fmt.Sprintf("e%d", i))
		if err != nil {
			b.Fatal(err)
		}
		if i%100 == 50 {
			free = append(free, c)
		}
	}
	for _, c := range free {
		c.Settle(0, store.ErrConflict)
	}
	for b.Loop() {
		c, err := a.ClaimIP("blue", n, "new")
		if err != nil {
			b.Fatal(err)
		}
		c.Settle(0, store.ErrConflict)
	}
}
