package integration

import (
	"fmt"
	"os"
	"path/filepath"
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

// TestServerMoves gives the only server's host another address. The server
// follows, and all on its host. Others cannot know the new one: traffic goes on,
// and they are told by hand.
func TestServerMoves(t *testing.T) {
	once(t)
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	before, err := m.Lab.Host(ctx, m.Server)
	m.must(err)
	stays, err := m.Lab.StartPing(ctx, lab.Ping{Host: m.workloads[1].Host, Workload: m.workloads[1].Name,
		To: m.workloads[2].Prefixes[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	after, err := m.Lab.Readdress(ctx, m.Server)
	m.must(err)
	was, is := before.Underlay[0].Addr().String(), after.Underlay[0].Addr().String()
	m.must(m.Until(ctx, func() error {
		record, err := m.Meshvpc(ctx, m.Server, "get", "servers/"+m.Server, "--timeout", "2s")
		if err == nil && !strings.Contains(record, is) {
			err = fmt.Errorf("the server's record lacks %s: %s", is, record)
		}
		return err
	}))
	log, err := os.ReadFile(filepath.Join(m.Lab.Disk(m.Server).Log, "server.log"))
	if err != nil || !strings.Contains(string(log), "put it into endpoints of their agent.yaml") {
		t.Errorf("the server's log does not say what others need: %v", err)
	}
	for _, h := range m.hosts[1:] {
		files, err := filepath.Glob(filepath.Join(m.Lab.Disk(h).Etc, "*.yaml"))
		m.must(err)
		for _, f := range files {
			b, err := os.ReadFile(f)
			m.must(err)
			m.must(os.WriteFile(f, []byte(strings.ReplaceAll(string(b), was, is)), 0o600))
		}
		m.must(m.Lab.Kill(ctx, h, ""))
		m.must(m.Lab.StartServices(ctx, h, ""))
	}
	m.must(m.AwaitNodes(ctx, 3))
	if got, err := stays.Stop(ctx); err != nil || got.Lost > 0 || got.Received == 0 {
		t.Errorf("%d of %d pings between the others were lost, %v; want none", got.Lost, got.Sent, err)
	}
	m.awaitPings(ctx)
}

// TestOneOfServersMoves gives the hosts of two of three servers, one of them a
// witness, another address, one after the other: they follow, and so do all others,
// and nobody does anything.
func TestOneOfServersMoves(t *testing.T) {
	once(t)
	ctx := within(t)
	c := newTrio(ctx, t, "testsmove")
	for _, h := range []string{c.Server, "witness"} {
		after, err := c.Lab.Readdress(ctx, h)
		c.must(err)
		is := after.Underlay[0].Addr().String()
		c.must(c.Until(ctx, func() error {
			known, err := os.ReadFile(filepath.Join(c.Lab.Disk(c.plain).Var, "endpoints"))
			if err == nil && !strings.Contains(string(known), is) {
				err = fmt.Errorf("host %s knows the servers %s; want %s", c.plain, known, is)
			}
			if err != nil {
				return err
			}
			record, err := c.Meshvpc(ctx, c.plain, "get", "servers/"+h, "--timeout", "2s")
			if err == nil && strings.Count(record, is) != 2 {
				err = fmt.Errorf("the record of %s lacks %s: %s", h, is, record)
			}
			return err
		}))
		c.must(c.AwaitVoters(ctx, c.plain, 3))
	}
}
