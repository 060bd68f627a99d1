package integration

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

const gateways = "10.10.11.1/24,fd00:11::1/64"

// gatewayAddresses are those of gateways.
func gatewayAddresses() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("10.10.11.1/24"), netip.MustParsePrefix("fd00:11::1/64")}
}

// TestAnycastGateway has every host answer for the gateway of its own workloads.
func TestAnycastGateway(t *testing.T) {
	ctx := within(t)
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--network", tenants, "--gateway", gateways)
	var at []local.Attached
	for i, h := range m.hosts {
		a := m.inside(ctx, h, fmt.Sprintf("web%d", i+1))
		if len(a.Gateways) != 2 || slices.ContainsFunc(a.Addresses, func(p netip.Prefix) bool { return slices.Contains(gatewayAddresses(), p) }) {
			t.Errorf("attached: %+v; want two gateways, and none of their addresses", a)
		}
		at = append(at, a)
		m.routed(ctx, h, a.Endpoint, true)
		m.reached(ctx, h, a.Endpoint, gatewayAddresses()...)
	}
	mac := m.anycast(ctx)
	m.answeredHere(ctx, at, func(int) cluster.MAC { return mac })
	m.keptOff(ctx, at)
	m.spoofedByTunnel(within(t), at)
	m.spoofedHere(within(t), at)
	m.gatewaySurvives(within(t))

	ctx = within(t)
	_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--gateway", "none")
	m.must(err)
	for i, h := range m.hosts {
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
		m.routed(ctx, h, at[i].Endpoint, false)
		m.unreached(ctx, h, at[i].Endpoint, gatewayAddresses()[0].Addr())
	}
}

// TestPerHostGateway has every host answer for its own workloads, each with its own MAC,
// and a workload that moves find the gateway of the host that it comes to.
func TestPerHostGateway(t *testing.T) {
	ctx := within(t)
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--network", tenants, "--gateway", gateways, "--gateway-mode", "per-host")
	var at []local.Attached
	macs := map[string]bool{}
	neighbour := func(host, workload string) string {
		return m.output(ctx, host, fmt.Sprintf("ip -n %s neigh show %s | cut -d' ' -f5", workload, gatewayAddresses()[0].Addr()))
	}
	for i, h := range m.hosts {
		a := m.inside(ctx, h, fmt.Sprintf("web%d", i+1))
		at = append(at, a)
		m.reached(ctx, h, a.Endpoint, gatewayAddresses()...)
		macs[neighbour(h, a.Endpoint)] = true
	}
	if len(macs) != 3 {
		t.Errorf("the gateways of three hosts have the MACs %v", macs)
	}
	m.answeredHere(ctx, at, func(i int) cluster.MAC {
		mac, err := cluster.ParseMAC(neighbour(m.hosts[i], at[i].Endpoint))
		m.must(err)
		return mac
	})
	_, err := m.Meshvpc(ctx, m.hosts[2], "endpoint", "detach", "web3")
	m.must(err)
	h := m.hosts[1]
	m.shell(ctx, h, `ip netns add web3 && ip -n web3 link add own0 type veth peer name own1 && ip -n web3 addr add 192.0.2.200/24 dev own0 &&
		ip -n web3 link set own0 up && ip -n web3 link set own1 up && ip -n web3 route add default via 192.0.2.201`)
	m.refused(ctx, h, "attach it with --no-gateway", "endpoint", "attach", "web3", "--netns", "web3")
	a := m.attach(ctx, h, "web3", "--netns", "web3", "--no-gateway")
	if len(a.Gateways) > 0 {
		t.Errorf("attached without a gateway: %+v", a)
	}
	m.reached(ctx, h, "web3", gatewayAddresses()...)
	if got, own := neighbour(h, "web3"), neighbour(h, "web2"); got != own {
		t.Errorf("a workload that moved has the gateway's MAC %s, those of its host have %s", got, own)
	}
}

// routed wants a workload's default routes to lead to the gateway, or there to be none.
func (m *mesh) routed(ctx context.Context, host, workload string, want bool) {
	m.t.Helper()
	routes := m.output(ctx, host, fmt.Sprintf("ip -n %[1]s route; ip -n %[1]s -6 route", workload))
	for _, p := range gatewayAddresses() {
		if got := strings.Contains(routes, "default via "+p.Addr().String()+" "); got != want {
			m.t.Errorf("%s on %s has the routes %q; want the default by %s: %t", workload, host, routes, p.Addr(), want)
		}
	}
}

// unreached wants none of the addresses to answer.
func (m *mesh) unreached(ctx context.Context, host, workload string, addresses ...netip.Addr) {
	m.t.Helper()
	var pings sync.WaitGroup
	for _, to := range addresses {
		pings.Go(func() {
			r, err := m.Lab.Ping(ctx, lab.Ping{Host: host, Workload: workload, To: to, Count: 2})
			if err != nil || r.Received > 0 {
				m.t.Errorf("%s on %s pings %s: %+v, %v; want no answer", workload, host, to, r, err)
			}
		})
	}
	pings.Wait()
}

// anycast is the MAC of vpc1's gateway.
func (m *mesh) anycast(ctx context.Context) cluster.MAC {
	m.t.Helper()
	var v struct{ VNI cluster.VNI }
	m.must(m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"))
	return cluster.GatewayMAC(v.VNI, cluster.GatewayAnycast, netip.Addr{})
}

// answeredHere has each workload ask 100 times who has the gateway's address: each
// question is answered once, and none is heard on another host.
func (m *mesh) answeredHere(ctx context.Context, at []local.Attached, macOf func(host int) cluster.MAC) {
	m.t.Helper()
	const questions = 100
	for i, from := range at {
		mac := macOf(i)
		var ears []*lab.SniffRun
		for j := range at {
			match := lab.Match{EtherType: 0x0806, Source: from.MAC[:]}
			if i == j {
				match.Source = mac[:]
			}
			s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[j], Workload: at[j].Endpoint, Match: match})
			m.must(err)
			ears = append(ears, s)
		}
		ask := func(to netip.Addr, n int) {
			m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: m.hosts[i], Workload: from.Endpoint, Frame: arpFrame(from.MAC, from.Addresses[0].Addr(), to), Count: n, Interval: time.Millisecond}))
		}
		ask(gatewayAddresses()[0].Addr(), questions)
		ask(netip.MustParseAddr("10.10.11.200"), 1) // nobody has it: this one is heard by all
		for j := range at {
			m.must(m.Until(ctx, func() error {
				r, err := m.Lab.Ping(ctx, lab.Ping{Host: m.hosts[i], Workload: from.Endpoint, To: at[j].Addresses[1].Addr()})
				if err == nil && r.Lost > 0 {
					err = context.DeadlineExceeded
				}
				return err
			}))
		}
		for j, s := range ears {
			got, err := s.Stop(ctx)
			m.must(err)
			switch {
			case i == j && got.Count != questions:
				m.t.Errorf("%s asked %d times for the gateway, and was answered %d times", from.Endpoint, questions, got.Count)
			case i != j && got.Count != 1:
				m.t.Errorf("%s heard %d questions of %s; want the one that is for nobody", at[j].Endpoint, got.Count, from.Endpoint)
			}
		}
	}
}

// keptOff has a workload try the hosts' own addresses by the gateway.
func (m *mesh) keptOff(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	var peers struct {
		Members []struct{ Node, VTEP, Underlay string }
	}
	m.must(m.JSON(ctx, &peers, m.Server, "vpc", "peers", "vpc1"))
	var closed []netip.Addr
	for _, b := range peers.Members {
		if b.Node != m.hosts[0] {
			closed = append(closed, netip.MustParseAddr(b.VTEP))
		}
		closed = append(closed, netip.MustParseAddr(b.Underlay))
	}
	m.unreached(ctx, m.hosts[0], at[0].Endpoint, closed...)
}

// spoofedByTunnel has somebody on a host without protection speak as the gateway:
// another host lets none of it in.
func (m *mesh) spoofedByTunnel(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	bad, mac, g := m.hosts[2], m.anycast(ctx), gatewayAddresses()[0].Addr()
	w := lab.Workload{Host: bad, Name: "liar", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.99/24")}}
	m.must(m.Lab.AddWorkload(ctx, w))
	m.must(m.Lab.Kill(ctx, bad, "agent"))
	m.must(m.Lab.Tamper(ctx, bad, "", "nft-flush"))
	before, err := m.Lab.Drops(ctx, m.hosts[0])
	m.must(err)
	ear, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[0], Workload: "web1", Match: lab.Match{Contains: []byte("i am the gateway")}})
	m.must(err)
	other, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[0], Workload: "web1", Match: lab.Match{Contains: []byte("i am the liar")}})
	m.must(err)
	stranger := cluster.MAC{2, 0, 0, 0, 0, 9}
	say := func(from cluster.MAC, text string) {
		f := slices.Concat(at[0].MAC[:], from[:], []byte{0x88, 0xb5}, []byte(text), make([]byte, 40))
		m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: bad, Workload: w.Name, Frame: f, Count: 100, Interval: time.Millisecond}))
	}
	say(mac, "i am the gateway")
	claim := slices.Concat(arpFrame(stranger, g, at[0].Addresses[0].Addr()), []byte("i am the gateway"))
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: bad, Workload: w.Name, Frame: claim, Count: 100, Interval: time.Millisecond}))
	say(stranger, "i am the liar")
	m.must(m.Until(ctx, func() error {
		after, err := m.Lab.Drops(ctx, m.hosts[0])
		if n := wardDrops(after) - wardDrops(before); err == nil && n < 200 {
			err = fmt.Errorf("%d frames are dropped", n)
		}
		return err
	}))
	heard, err := ear.Stop(ctx)
	m.must(err)
	lies, err := other.Stop(ctx)
	m.must(err)
	if heard.Count > 0 || lies.Count == 0 {
		m.t.Errorf("%d frames that a tunnel brought from the gateway's MAC or address were heard; want none; %d of another", heard.Count, lies.Count)
	}
	m.reached(ctx, m.hosts[0], "web1", gatewayAddresses()...)
	m.must(m.Lab.RemoveWorkload(ctx, w.Host, w.Name))
	m.must(m.Lab.StartServices(ctx, bad, "agent"))
	m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, bad) }))
}

// wardDrops sums what wards dropped.
func wardDrops(counts map[string]uint64) (n uint64) {
	for text, c := range counts {
		if strings.HasPrefix(text, "meshvpc ward ") {
			n += c
		}
	}
	return n
}

// spoofedHere has local ports speak as the gateway: one that is bound, and one that is
// not ours.
func (m *mesh) spoofedHere(ctx context.Context, at []local.Attached) {
	m.t.Helper()
	h, mac, g := m.hosts[0], m.anycast(ctx), gatewayAddresses()[0].Addr()
	w := lab.Workload{Host: h, Name: "liar", VPC: "vpc1", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.10.11.98/24")}}
	m.must(m.Lab.AddWorkload(ctx, w))
	ear, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: m.hosts[1], Workload: "web2", Match: lab.Match{Contains: []byte("i am the gateway")}})
	m.must(err)
	beside, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: h, Workload: "web1", Match: lab.Match{Contains: []byte("i am the gateway")}})
	m.must(err)
	before, err := m.Lab.Drops(ctx, h)
	m.must(err)
	for _, from := range []string{"web1", "liar"} {
		own := at[0].MAC
		for _, f := range [][]byte{
			slices.Concat([]byte{255, 255, 255, 255, 255, 255}, mac[:], []byte{0x88, 0xb5}, []byte("i am the gateway"), make([]byte, 40)),
			slices.Concat(arpFrame(own, g, at[1].Addresses[0].Addr()), []byte("i am the gateway")),
		} {
			m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: h, Workload: from, Frame: f, Count: 50, Interval: time.Millisecond}))
		}
	}
	m.must(m.Until(ctx, func() error {
		after, err := m.Lab.Drops(ctx, h)
		bound := after["meshvpc guard mac"] - before["meshvpc guard mac"] + after["meshvpc guard arp"] - before["meshvpc guard arp"]
		if n := wardDrops(after) - wardDrops(before); err == nil && (n < 100 || bound != 100) {
			err = fmt.Errorf("%d frames of a port that is not ours are dropped, %d of one that is bound", n, bound)
		}
		return err
	}))
	for _, s := range []*lab.SniffRun{ear, beside} {
		got, err := s.Stop(ctx)
		m.must(err)
		if got.Count > 0 {
			m.t.Errorf("%d frames of a local port that speaks as the gateway were heard", got.Count)
		}
	}
	m.must(m.Lab.RemoveWorkload(ctx, w.Host, w.Name))
}

// gatewaySurvives kills the agent and takes away what it made, under a ping of the
// gateway.
func (m *mesh) gatewaySurvives(ctx context.Context) {
	m.t.Helper()
	h := m.hosts[1]
	ping, err := m.Lab.StartPing(ctx, lab.Ping{Host: h, Workload: "web2", To: gatewayAddresses()[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	for range 3 {
		m.must(m.Lab.Kill(ctx, h, "agent"))
		m.must(m.Lab.StartServices(ctx, h, "agent"))
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
	got, err := ping.Stop(ctx)
	m.must(err)
	m.t.Logf("agent killed 3 times: %d pings of the gateway sent, %d lost", got.Sent, got.Lost)
	if got.Lost > 0 || got.Received == 0 {
		m.t.Errorf("%d of %d pings of the gateway were lost", got.Lost, got.Sent)
	}
	var v struct{ VNI cluster.VNI }
	m.must(m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"))
	for _, words := range [][]string{{"link-del", fmt.Sprint("mg-", v.VNI)}, {"link-down", fmt.Sprint("mg-", v.VNI)}, {"nft-flush"}} {
		m.must(m.Lab.Tamper(ctx, h, "", words...))
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
		m.reached(ctx, h, "web2", gatewayAddresses()...)
	}
	m.must(m.Lab.Tamper(ctx, h, "vpc-vpc1", "addr-del", "gw0", "10.10.11.1/24"))
	m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	m.reached(ctx, h, "web2", gatewayAddresses()...)
}
