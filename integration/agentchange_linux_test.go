package integration

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestChangeCost measures, if MESHVPC_MEASURE=1, the processor time that an
// agent among 100 and 1,000 peers takes for one peer that comes or goes: in a
// row, when all is warm, and once in a while. As TestAgentCost it has the built
// program on a kernel of its own; it reports, and judges nothing.
func TestChangeCost(t *testing.T) {
	measured(t, func() {
		for _, n := range []int{100, 1000} {
			t.Run(fmt.Sprint(n), func(t *testing.T) { measureChange(t, n) })
		}
	})
}

func measureChange(t *testing.T, n int) {
	host := costWire(t)
	records := costStore(t, n)
	costAnswers(t)
	agent, _ := costAgent(t, host)
	costSettled(t, records, n, cluster.LinkUp)
	pause(8 * time.Second) // what the start has mapped is given back
	change := func(i int) {
		name := fmt.Sprintf("ghost%d", i/2)
		key := cluster.KeyMember("vpc1", name)
		var c store.Change
		if i%2 == 1 {
			c.Remove(key, 0)
		} else {
			store.Set(&c, key, &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1", Transport: cluster.Multipoint,
				VTEP: netip.AddrFrom4([4]byte{10, 100, 200, byte(i / 2)}), UnderlayIPv4: netip.AddrFrom4([4]byte{10, 9, 200, byte(i / 2)})}, nil, 0)
		}
		_, err := records.Commit(t.Context(), c)
		must(t, err)
	}
	for _, m := range []struct {
		name    string
		changes int
		every   time.Duration
	}{{"rare", 30, 1300 * time.Millisecond}, {"row", 400, 40 * time.Millisecond}} {
		t.Run(m.name, func(t *testing.T) {
			idle := costRun(t, agent)
			pause(4 * time.Second)
			idle = (costRun(t, agent) - idle) / 4 // a second
			before, at := costRun(t, agent), time.Now()
			for i := range m.changes {
				change(i)
				pause(m.every)
			}
			used := costRun(t, agent) - before - time.Duration(float64(idle)*time.Since(at).Seconds())
			t.Logf("%v of processor time a change (n=%d, one each %v), beside %v a second without",
				(used / time.Duration(m.changes)).Round(time.Microsecond), m.changes, m.every, idle.Round(time.Microsecond))
		})
	}
}
