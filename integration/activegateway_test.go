package integration

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// maxGatewayGap is how long a workload may be without its gateway when the host that has
// it is lost, with the fast profile and on a busy machine; the test logs how long it was.
const maxGatewayGap = 15 * time.Second

// TestActiveGateway: one host has the gateway, for the workloads of all, and leads them
// out. It is moved, and lost with its host: another has it, under the same MAC.
func TestActiveGateway(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	s := &mesh{t: t, Site: newTrio(ctx, t, "activegw").Site}
	for _, args := range [][]string{
		{"failover", "profile", "fast"},
		{"vpc", "create", "vpc1", "--network", tenants, "--gateway", gateways, "--gateway-mode", "active", "--nat", "--no-wait"},
	} {
		_, err := s.Meshvpc(ctx, s.Server, args...)
		s.must(err)
	}
	for _, h := range []string{first, second, third} {
		s.forwards(ctx, h)
		s.outside(ctx, h)
	}
	_, err := s.Meshvpc(ctx, s.Server, "vpc", "wait", "vpc1")
	s.must(err)
	s.gatewayTo(ctx, first)
	web := s.inside(ctx, third, "web1")
	s.routed(ctx, third, web.Endpoint, true)
	s.reached(ctx, third, web.Endpoint, append(gatewayAddresses(), internet()...)...)
	mac := s.gatewayMAC(ctx, web)
	s.ledOutBy(ctx, web, first, third)

	for _, to := range []string{second, first} {
		got := s.pingOutside(ctx, web, func() { s.gatewayTo(ctx, to) })
		t.Logf("moved to %s: %d of %d pings of what is outside lost, %s without an answer", to, got.Lost, got.Sent, got.Gap.Round(time.Millisecond))
		if got.Lost > maxLostByMove {
			t.Errorf("a planned move to %s lost %d pings, want %d at most", to, got.Lost, maxLostByMove)
		}
	}

	got := s.pingOutside(ctx, web, func() {
		s.must(s.Lab.PowerOff(ctx, first))
		s.must(s.Until(ctx, func() error {
			if node := s.gatewayNode(ctx); node != second && node != third {
				return fmt.Errorf("the gateway is at %q", node)
			}
			r, err := s.Lab.Ping(ctx, lab.Ping{Host: third, Workload: web.Endpoint, To: internet()[0].Addr(), Count: 3})
			if err == nil && r.Lost > 0 {
				err = fmt.Errorf("%d pings of what is outside are lost", r.Lost)
			}
			return err
		}))
	})
	t.Logf("host of the gateway powered off: outside again after %s without an answer, %d of %d pings lost", got.Gap.Round(time.Millisecond), got.Lost, got.Sent)
	if got.Gap > maxGatewayGap || got.Lost == 0 {
		t.Errorf("%s without what is outside, %d pings lost; want %s at most, and some", got.Gap, got.Lost, maxGatewayGap)
	}
	s.reached(ctx, third, web.Endpoint, append(gatewayAddresses(), internet()...)...)
	if now := s.gatewayMAC(ctx, web); now != mac {
		t.Errorf("the gateway has the MAC %s, and had %s", now, mac)
	}
}

// gatewayNode is who has vpc1's gateway, "" if nobody, or it cannot be known now.
func (m *mesh) gatewayNode(ctx context.Context) string {
	var v struct {
		GatewayNode string `json:"gateway_node"`
	}
	if err := m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"); err != nil {
		m.t.Logf("show the VPC: %v", err)
	}
	return v.GatewayNode
}

// gatewayTo has another host have the gateway.
func (m *mesh) gatewayTo(ctx context.Context, host string) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		_, err := m.Meshvpc(ctx, m.Server, "endpoint", "move", cluster.GatewayEndpoint, "--node", host)
		return err
	}))
	if at := m.gatewayNode(ctx); at != host {
		m.t.Errorf("the gateway is at %q, want %s", at, host)
	}
}

// gatewayMAC is what a workload believes the gateway's MAC to be.
func (m *mesh) gatewayMAC(ctx context.Context, of local.Attached) string {
	m.t.Helper()
	return m.output(ctx, third, fmt.Sprintf("ip -n %s neigh show %s | cut -d' ' -f5", of.Endpoint, gatewayAddresses()[0].Addr()))
}

// ledOutBy wants a workload's packets to leave by one host, and not by another.
func (m *mesh) ledOutBy(ctx context.Context, from local.Attached, by, not string) {
	m.t.Helper()
	source := internet()[0].Addr().Prev()
	var ears []*lab.SniffRun
	for _, h := range []string{by, not} {
		s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: h, Workload: "internet", Match: lab.Match{EtherType: 0x0800, Contains: source.AsSlice()}})
		m.must(err)
		ears = append(ears, s)
	}
	m.reached(ctx, third, from.Endpoint, netip.PrefixFrom(internet()[0].Addr(), 32))
	leaves, err := ears[0].Stop(ctx)
	m.must(err)
	other, err := ears[1].Stop(ctx)
	m.must(err)
	if leaves.Count < 3 || other.Count > 0 {
		m.t.Errorf("%d packets leave by %s, %d by %s; want 3 and more, and none", leaves.Count, by, other.Count, not)
	}
}

// pingOutside pings what is outside at 10 ms while do runs.
func (m *mesh) pingOutside(ctx context.Context, from local.Attached, do func()) lab.PingResult {
	m.t.Helper()
	run, err := m.Lab.StartPing(ctx, lab.Ping{Host: third, Workload: from.Endpoint, To: internet()[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	do()
	got, err := run.Stop(ctx)
	m.must(err)
	return got
}
