package integration

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/demo"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// newNodes is newMesh without a VPC. Hosts may have one family of a dual
// underlay.
func newNodes(t *testing.T, underlay lab.Underlay, families ...lab.Underlay) *mesh {
	t.Helper()
	return nodesOf(t, lab.Config{Underlay: underlay}, families...)
}

func nodesOf(t *testing.T, cfg lab.Config, families ...lab.Underlay) *mesh {
	t.Helper()
	ctx := within(t)
	hosts, err := lab.Topology(3, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range families {
		hosts[i].Underlay = f
	}
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	cfg.Name, cfg.Hosts, cfg.Binary = name[:min(len(name), 40)], hosts, binary
	l, err := lab.Start(ctx, cfg)
	mustLab(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	m := &mesh{t: t, Site: &demo.Site{Lab: l, Server: hosts[0].Name}}
	for _, h := range hosts {
		m.hosts = append(m.hosts, h.Name)
	}
	m.must(m.Found(ctx))
	m.must(m.Join(ctx, m.hosts[1:]...))
	m.must(m.AwaitNodes(ctx, 3))
	return m
}

// createAs makes vpc1 with a transport, and a workload on each host.
func (m *mesh) createAs(ctx context.Context, flags ...string) {
	m.t.Helper()
	m.create(ctx, "vpc1", flags...)
	for i := range m.hosts {
		m.workloads = append(m.workloads, m.workload(ctx, i, "jail", "vpc1"))
	}
}

// tunnels are the names of a host's tunnels, sorted.
func (m *mesh) tunnels(ctx context.Context, host string) (names []string) {
	m.t.Helper()
	devices, err := m.Lab.Devices(ctx, host)
	m.must(err)
	for _, d := range devices {
		if strings.HasPrefix(d, "mp-") || strings.HasPrefix(d, "mv") {
			names = append(names, d)
		}
	}
	slices.Sort(names)
	return names
}

// awaitTunnels waits until each host has n tunnels of pairs and the shared ones.
func (m *mesh) awaitTunnels(ctx context.Context, n int, shared ...string) {
	m.t.Helper()
	m.must(m.Until(ctx, func() error {
		for _, h := range m.hosts {
			pairs, rest := 0, []string{}
			for _, d := range m.tunnels(ctx, h) {
				if strings.HasPrefix(d, "mp-") {
					pairs++
				} else {
					rest = append(rest, d)
				}
			}
			if pairs != n || !slices.Equal(rest, shared) {
				return fmt.Errorf("%s has %d tunnels of pairs and %v; want %d and %v", h, pairs, rest, n, shared)
			}
		}
		return nil
	}))
}

// broadcastOnce sends broadcasts from the second workload and wants each once at
// the others.
func (m *mesh) broadcastOnce(ctx context.Context, text string) {
	m.t.Helper()
	var ears []*lab.SniffRun
	for _, i := range []int{0, 2} {
		w := m.workloads[i]
		s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: w.Host, Workload: w.Name, Match: lab.Match{Contains: []byte(text)}})
		m.must(err)
		ears = append(ears, s)
	}
	from := m.workloads[1]
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: from.Host, Workload: from.Name, Frame: frame(text), Count: 10, Interval: 5 * time.Millisecond}))
	m.awaitPings(ctx) // what was sent before has arrived
	for i, s := range ears {
		if got, err := s.Stop(ctx); err != nil || got.Count != 10 {
			m.t.Errorf("%s: ear %d heard %d broadcasts, %v; want each of 10 once", text, i, got.Count, err)
		}
	}
}

func TestP2P(t *testing.T) {
	for _, underlay := range []lab.Underlay{lab.IPv6, lab.IPv4} {
		t.Run(string(underlay), func(t *testing.T) {
			ctx := within(t)
			m := newNodes(t, underlay)
			m.createAs(ctx, "--transport", "p2p")
			m.awaitTunnels(ctx, 2)
			m.awaitPings(ctx)
			m.broadcastOnce(ctx, "by tunnels of pairs")
			var ping struct{ Lost int }
			m.must(m.JSON(ctx, &ping, m.Server, "vpc", "ping", "vpc1"))
			if ping.Lost != 0 {
				t.Errorf("vpc ping: %d lost", ping.Lost)
			}
			m.tamperPair(ctx)
			m.forgedPair(ctx)
			_, err := m.Meshvpc(ctx, m.Server, "vpc", "delete", "vpc1", "--force", "--yes")
			m.must(err)
			m.awaitTunnels(ctx, 0)
		})
	}
}

// tamperPair tampers with a pair's tunnel in each way.
func (m *mesh) tamperPair(ctx context.Context) {
	m.t.Helper()
	host := m.hosts[1]
	tunnel := m.tunnels(ctx, host)[0]
	peers, err := m.Lab.Flood(ctx, host, tunnel)
	m.must(err)
	for _, tamper := range [][]string{
		{"link-del", tunnel},
		{"link-down", tunnel},
		{"link-mtu", tunnel, "1300"},
		{"link-nomaster", tunnel},
		{"link-unisolate", tunnel},
		{"fdb-del", tunnel, "00:00:00:00:00:00", peers[0]},
		{"nft-flush"},
	} {
		m.must(m.Lab.Tamper(ctx, host, "", tamper...))
		if err := m.Until(ctx, func() error { return m.nothingToDo(ctx, host) }); err != nil {
			m.t.Fatalf("after %v: %v", tamper, err)
		}
		m.awaitPings(ctx)
	}
}

// forgedPair sends frames with a pair's VNI from a stranger and from another
// peer of the VPC.
func (m *mesh) forgedPair(ctx context.Context) {
	m.t.Helper()
	w := m.workloads[1]
	to, ear := m.hearForged(ctx, w)
	sent := 0
	for _, tunnel := range m.tunnels(ctx, w.Host) {
		var vni uint32
		if _, err := fmt.Sscanf(tunnel, "mp-%d", &vni); err != nil {
			m.t.Fatal(err)
		}
		peers, err := m.Lab.Flood(ctx, w.Host, tunnel)
		m.must(err)
		for _, from := range []string{lab.Stranger, m.hosts[0], m.hosts[2]} {
			if from != lab.Stranger {
				h, err := m.Lab.Host(ctx, from)
				m.must(err)
				if h.Underlay[0].Addr().String() == peers[0] {
					continue // it is the peer
				}
			}
			m.must(m.Lab.SendUDP(ctx, lab.Datagrams{Host: from, To: to, Payload: vxlan(vni, frame("forged")), Count: 10, Interval: time.Millisecond}))
			sent++
		}
	}
	m.awaitPings(ctx)
	if got, err := ear.Stop(ctx); err != nil || got.Count != 0 || sent != 4 {
		m.t.Errorf("%d forged frames arrived of %d senders, %v; want none of 4", got.Count, sent, err)
	}
}

// TestChangeOfTransport changes a living VPC's transport there and back, twice,
// without a lost ping.
func TestChangeOfTransport(t *testing.T) {
	ctx := within(t)
	m := newMesh(t, lab.IPv6)
	for range 2 {
		m.through(ctx, func() {
			_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--transport", "p2p")
			m.must(err)
			m.awaitTunnels(ctx, 2)
		})
		m.broadcastOnce(ctx, "by pairs")
		m.through(ctx, func() {
			_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--transport", "auto")
			m.must(err)
			m.awaitTunnels(ctx, 0, "mv6-10000")
		})
		m.broadcastOnce(ctx, "by the shared tunnel")
	}
}

// TestMixedFamilies: one host has IPv4 only, one IPv6 only. That pair says so,
// the other two pairs ping.
func TestMixedFamilies(t *testing.T) {
	for _, transport := range []string{"auto", "p2p"} {
		t.Run(transport, func(t *testing.T) {
			ctx := within(t)
			m := newNodes(t, lab.Dual, lab.Dual, lab.IPv4, lab.IPv6)
			_, err := m.Meshvpc(ctx, m.Server, "vpc", "create", "vpc1", "--peer-network", "10.100.0.0/24", "--transport", transport, "--no-wait")
			m.must(err)
			m.must(m.Until(ctx, func() error {
				out, err := m.Meshvpc(ctx, m.Server, "vpc", "status", "vpc1", "-o", "json")
				if !strings.Contains(out, "no common address family with "+m.hosts[2]) || !strings.Contains(out, "no common address family with "+m.hosts[1]) {
					return fmt.Errorf("the status does not say it: %s %v", out, err)
				}
				return nil
			}))
			for i := range m.hosts {
				m.workloads = append(m.workloads, m.workload(ctx, i, "jail", "vpc1"))
			}
			for _, pair := range [][2]int{{0, 1}, {1, 0}, {0, 2}, {2, 0}} {
				m.must(m.Until(ctx, func() error {
					from := m.workloads[pair[0]]
					r, err := m.Lab.Ping(ctx, lab.Ping{Host: from.Host, Workload: from.Name, To: m.workloads[pair[1]].Prefixes[0].Addr(), Count: 1})
					if err == nil && r.Lost > 0 {
						err = fmt.Errorf("%v: ping lost", pair)
					}
					return err
				}))
			}
		})
	}
}

// TestMulticast: on a segment that carries multicast hosts flood to the group
// alone; through a router that does not forward it they flood to each peer, and
// say so. Either way a broadcast arrives once at each.
func TestMulticast(t *testing.T) {
	for _, tt := range []struct {
		name, group, tunnel string
		cfg                 lab.Config
	}{
		{"ipv4 segment", "239.1.1.1", "mv4-10000", lab.Config{Underlay: lab.IPv4, Segment: true}},
		{"ipv6 segment", "ff05::1:1", "mv6-10000", lab.Config{Underlay: lab.IPv6, Segment: true}},
		{"routed", "239.1.1.1", "mv4-10000", lab.Config{Underlay: lab.IPv4}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := within(t)
			m := nodesOf(t, tt.cfg)
			m.createAs(ctx, "--transport", "multicast", "--multicast-group", tt.group)
			m.must(m.Until(ctx, func() error {
				for _, h := range m.hosts {
					flood, err := m.Lab.Flood(ctx, h, tt.tunnel)
					if err != nil {
						return err
					}
					if toGroup := slices.Equal(flood, []string{tt.group}); toGroup != tt.cfg.Segment {
						return fmt.Errorf("%s floods to %v", h, flood)
					}
				}
				return nil
			}))
			m.awaitPings(ctx)
			m.broadcastOnce(ctx, "by "+tt.name)
			m.must(m.Until(ctx, func() error {
				out, err := m.Meshvpc(ctx, m.Server, "status", "-o", "json")
				if says := strings.Contains(out, "multicast group "+tt.group+" does not carry"); err != nil || says == tt.cfg.Segment {
					return fmt.Errorf("status: %s %v", out, err)
				}
				return nil
			}))
		})
	}
}
