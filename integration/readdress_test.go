package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestRepoint moves a host to another underlay address under pings at 10 ms:
// the pair whose hosts stay loses none, the other's loss is told.
func TestRepoint(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	ping := func(from, to int) *lab.PingRun {
		r, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.workloads[from].Host, Workload: m.workloads[from].Name,
			To: m.workloads[to].Prefixes[0].Addr(), Interval: 10 * time.Millisecond})
		m.must(err)
		return r
	}
	stays, moves := ping(1, 0), ping(1, 2)
	begun := time.Now()
	after, err := m.Lab.Readdress(ctx, m.hosts[2])
	m.must(err)
	told := time.Now()
	m.must(m.Until(ctx, func() error {
		peers, err := m.Lab.Flood(ctx, m.hosts[1], "mv6-10000")
		if err == nil && !strings.Contains(strings.Join(peers, " "), after.Underlay[0].Addr().String()) {
			err = fmt.Errorf("flood list %v lacks %s", peers, after.Underlay[0])
		}
		return err
	}))
	followed := time.Now()
	m.awaitPings(ctx)
	if got, err := stays.Stop(ctx); err != nil || got.Lost > 0 || got.Received == 0 {
		t.Errorf("pair that stays: %d of %d pings were lost, longest gap %v, %v; want none", got.Lost, got.Sent, got.Gap, err)
	}
	got, err := moves.Stop(ctx)
	if err != nil || got.Received == 0 {
		t.Errorf("pair that moves: %+v, %v; want answers", got, err)
	}
	t.Logf("the host moved within %v, its peer followed %v later; %d of %d pings at 10 ms were lost, longest gap %v",
		told.Sub(begun).Round(time.Millisecond), followed.Sub(told).Round(time.Millisecond), got.Lost, got.Sent, got.Gap)
}
