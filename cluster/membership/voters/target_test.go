package voters

import (
	"fmt"
	"math/bits"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anyServers are up to seven servers in up to four datacenters, in any state.
func anyServers(t *rapid.T) []Server {
	list := make([]Server, rapid.IntRange(1, 7).Draw(t, "servers"))
	for i := range list {
		dc := rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, "datacenter")
		list[i] = Server{Name: fmt.Sprintf("%s%d", dc, i), Datacenter: dc,
			Witness: rapid.Bool().Draw(t, "witness"), Role: rapid.SampledFrom([]Role{Voter, Voter, Voter, Learner, Learner, Absent}).Draw(t, "role"),
			Healthy: rapid.SampledFrom([]bool{true, true, true, false}).Draw(t, "healthy"), For: rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour}).Draw(t, "for"),
			CaughtUp: rapid.SampledFrom([]bool{true, true, false}).Draw(t, "caught up"), Addressed: true,
			Removed: rapid.SampledFrom([]bool{false, false, false, false, true}).Draw(t, "removed")}
	}
	return list
}

// largest is how many of in are in the datacenter that has most.
func (c *council) largest(in []bool) (most int) {
	share := map[string]int{}
	for i, s := range c.servers {
		if in[i] {
			share[s.Datacenter]++
			most = max(most, share[s.Datacenter])
		}
	}
	return most
}

// TestBest: none of all sets that could vote is better than the one chosen, and
// none as good is smaller, or as small and spread more evenly.
func TestBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCouncil(View{Servers: anyServers(t), Policy: Policy{MaxVoters: rapid.SampledFrom([]int{1, 3, 5, 7}).Draw(t, "max")}})
		got, any := c.best(ready), false
		for set := range 1 << len(c.servers) {
			size := bits.OnesCount(uint(set))
			if size%2 == 0 || size > c.MaxVoters {
				continue
			}
			in, may := make([]bool, len(c.servers)), true
			for i := range in {
				in[i] = set>>i&1 == 1
				may = may && (!in[i] || c.stands[i] <= ready || c.stands[i] == dead)
			}
			if !may {
				continue
			}
			other := c.weigh(in)
			if other.spare < 0 {
				continue
			}
			any = true
			if got == nil || other.better(got) || !got.better(other) && (size < got.size || size == got.size && c.largest(in) < c.largest(got.in)) {
				t.Fatalf("%+v\nis better than\n%+v\nof %+v", other, got, c.servers)
			}
		}
		if got != nil && !any {
			t.Fatalf("%+v of nothing", got)
		}
	})
}
