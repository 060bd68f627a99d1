package integration

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/integration/lab"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// internet is behind one host, with these addresses; the host has the ones before.
func internet() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("203.0.113.2/24"), netip.MustParsePrefix("2001:db8:ffff::2/64")}
}

// TestNAT lets workloads out by their hosts, and nowhere else.
func TestNAT(t *testing.T) {
	ctx := within(t)
	m := newNodes(t, lab.Dual)
	m.create(ctx, "vpc1", "--network", tenants, "--gateway", gateways, "--nat", "--no-wait")
	m.must(m.Until(ctx, func() error { // hosts of a lab forward nothing
		out, err := m.Meshvpc(ctx, m.Server, "vpc", "status", "vpc1")
		if text := fmt.Sprint(string(out), err); !strings.Contains(text, "sysctl -w net.ipv4.ip_forward=1") {
			return fmt.Errorf("status: %s", text)
		}
		return nil
	}))
	for _, h := range m.hosts {
		m.forwards(ctx, h)
	}
	begun := time.Now()
	_, err := m.Meshvpc(ctx, m.Server, "vpc", "wait", "vpc1")
	m.must(err)
	t.Logf("ready %v after the hosts forward", time.Since(begun).Round(time.Millisecond))
	_, err = m.Meshvpc(ctx, m.Server, "vpc", "create", "red", "--network", tenants, "--gateway", gateways, "--nat")
	m.must(err)
	h := m.hosts[0]
	m.outside(ctx, h)
	web1, web2 := m.inside(ctx, h, "web1"), m.inside(ctx, m.hosts[1], "web2")

	ctx = within(t)
	m.leaves(ctx, web1)
	m.staysOut(ctx, web1, web2)
	m.noTunnelByNAT(ctx, web1, web2)
	m.natSurvives(within(t))

	ctx = within(t)
	m.sendsSome(ctx, web1)
	_, err = m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--no-nat")
	m.must(err)
	m.unreached(ctx, h, "web1", internet()[0].Addr())
	m.reached(ctx, h, "web1", gatewayAddresses()...)
	for _, h := range m.hosts {
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
}

// forwards has a host forward what it is sent.
func (m *mesh) forwards(ctx context.Context, host string) {
	m.t.Helper()
	m.must(m.Lab.Tamper(ctx, host, "", "sysctl", "ipv4/ip_forward", "1"))
	m.must(m.Lab.Tamper(ctx, host, "", "sysctl", "ipv6/conf/all/forwarding", "1"))
}

// outside puts what is outside of all VPCs beside a host.
func (m *mesh) outside(ctx context.Context, host string) {
	m.t.Helper()
	m.shell(ctx, host, `ip netns add internet && ip link add inet0 type veth peer name eth0 netns internet &&
		ip addr add 203.0.113.1/24 dev inet0 && ip addr add 2001:db8:ffff::1/64 dev inet0 nodad && ip link set inet0 up &&
		ip -n internet addr add 203.0.113.2/24 dev eth0 && ip -n internet addr add 2001:db8:ffff::2/64 dev eth0 nodad && ip -n internet link set eth0 up`)
}

// leaves has a workload reach what is outside, which sees the host's address alone.
func (m *mesh) leaves(ctx context.Context, from local.Attached) {
	m.t.Helper()
	h := m.hosts[0]
	var own, masked []*lab.SniffRun
	listen := func(a netip.Addr) *lab.SniffRun {
		s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: h, Workload: "internet", Match: lab.Match{Contains: a.AsSlice()}})
		m.must(err)
		return s
	}
	for i, p := range internet() {
		own = append(own, listen(from.Addresses[i].Addr()))
		masked = append(masked, listen(p.Addr().Prev()))
	}
	m.reached(ctx, h, from.Endpoint, internet()...)
	for i := range own {
		leaked, err := own[i].Stop(ctx)
		m.must(err)
		seen, err := masked[i].Stop(ctx)
		m.must(err)
		if leaked.Count > 0 || seen.Count < 3 {
			m.t.Errorf("outside sees %d packets of the host and %d of the workload's own address; want 3 and more, and none", seen.Count, leaked.Count)
		}
	}
}

// staysOut has a workload try what NAT does not open: the host, its uplinks, those of
// another VPC, and from outside the workload's side.
func (m *mesh) staysOut(ctx context.Context, web1, web2 local.Attached) {
	m.t.Helper()
	h := m.hosts[0]
	host, err := m.Lab.Host(ctx, h)
	m.must(err)
	var v, red struct{ VNI cluster.VNI }
	m.must(m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"))
	m.must(m.JSON(ctx, &red, m.Server, "vpc", "show", "red"))
	addresses := func(of, device string) (list []netip.Addr) {
		for _, word := range strings.Fields(m.output(ctx, h, "ip"+of+" -o addr show dev "+device)) {
			if p, err := netip.ParsePrefix(word); err == nil {
				list = append(list, p.Addr())
			}
		}
		if len(list) != 2 {
			m.t.Fatalf("%s has the addresses %v, want one of each family", device, list)
		}
		return list
	}
	far := addresses(" -n vpc-red", "up0")
	closed := slices.Concat(far, addresses("", fmt.Sprint("mu-", red.VNI)), addresses("", fmt.Sprint("mu-", v.VNI)))
	for _, p := range host.Underlay {
		closed = append(closed, p.Addr())
	}
	for _, p := range internet() {
		closed = append(closed, p.Addr().Prev()) // the host's own there
	}
	m.unreached(ctx, h, web1.Endpoint, closed...)
	m.shell(ctx, h, "ip -n internet route add 240.0.0.0/4 via 203.0.113.1 && ip -n internet route add 10.10.11.0/24 via 203.0.113.1 && ip -n internet route add fd6d:6573:6800::/40 via 2001:db8:ffff::1")
	m.unreached(ctx, h, "internet", slices.Concat(far, addresses(" -n vpc-vpc1", "up0"), []netip.Addr{web1.Addresses[0].Addr()})...)
	m.reached(ctx, h, web1.Endpoint, web2.Addresses...)
}

// noTunnelByNAT has a workload send VXLAN by its host to another, which believes the
// host: it does not get there.
func (m *mesh) noTunnelByNAT(ctx context.Context, web1, web2 local.Attached) {
	m.t.Helper()
	peer, err := m.Lab.Host(ctx, m.hosts[1])
	m.must(err)
	var v struct{ VNI cluster.VNI }
	m.must(m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"))
	mac := m.anycast(ctx)
	for i, p := range peer.Underlay {
		source := web1.Addresses[0].Addr()
		if p.Addr().Is6() {
			source = web1.Addresses[1].Addr()
		}
		f := packet{dst: mac[:], src: net.HardwareAddr(web1.MAC[:]), from: source, to: p.Addr()}
		text := fmt.Sprint("by NAT ", i)
		wire, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: peer.Name, Match: lab.Match{Contains: []byte(text)}})
		m.must(err)
		inner, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: peer.Name, Workload: web2.Endpoint, Match: lab.Match{Contains: []byte(text)}})
		m.must(err)
		const foreign = 9999999 // of no VPC here: the host's filter for tunnels does not judge it
		for _, send := range [][]byte{f.udp(4789, vxlan(uint32(v.VNI), frame(text+" in a tunnel"))), f.udp(4789, vxlan(foreign, frame(text+" in another"))), f.udp(9, []byte(text+" elsewhere"))} {
			m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: m.hosts[0], Workload: web1.Endpoint, Frame: send, Count: 20, Interval: time.Millisecond}))
		}
		m.reached(ctx, m.hosts[0], web1.Endpoint, web2.Addresses...) // what was sent before has arrived
		seen, err := wire.Stop(ctx)
		m.must(err)
		heard, err := inner.Stop(ctx)
		m.must(err)
		if seen.Count != 20 || heard.Count != 0 {
			m.t.Errorf("to %s came %d packets, %d of them by a tunnel; want the 20 that are for another port", p, seen.Count, heard.Count)
		}
	}
}

// sendsSome has workloads send by the gateway only what there are routes for, beside a
// default route of their own, and everything again.
func (m *mesh) sendsSome(ctx context.Context, web1 local.Attached) {
	m.t.Helper()
	h := m.hosts[0]
	out := internet()[0].Masked()
	set := func(routes string) {
		_, err := m.Meshvpc(ctx, m.Server, "vpc", "set", "vpc1", "--routes", routes)
		m.must(err)
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
	set(out.String())
	m.routed(ctx, h, web1.Endpoint, false)
	m.reached(ctx, h, web1.Endpoint, internet()[0])
	m.unreached(ctx, h, web1.Endpoint, internet()[1].Addr())
	m.shell(ctx, h, `ip netns add web3 && ip -n web3 link add own0 type veth peer name own1 && ip -n web3 addr add 192.0.2.200/24 dev own0 &&
		ip -n web3 link set own0 up && ip -n web3 link set own1 up && ip -n web3 route add default via 192.0.2.201`)
	_, err := m.Meshvpc(ctx, m.Server, "endpoint", "create", "web3", "--vpc", "vpc1")
	m.must(err)
	a := m.attach(ctx, h, "web3", "--netns", "web3")
	if !slices.Equal(a.Routes, []netip.Prefix{out}) || len(a.Gateways) != 1 {
		m.t.Errorf("attached: %+v; want the route to %s by the IPv4 gateway alone", a, out)
	}
	m.reached(ctx, h, "web3", internet()[0])
	_, err = m.Meshvpc(ctx, h, "endpoint", "detach", "web3")
	m.must(err)
	set("none")
	m.routed(ctx, h, web1.Endpoint, true)
	m.reached(ctx, h, web1.Endpoint, internet()...)
}

// natSurvives kills the agent and takes away what it made, under a ping of what is
// outside.
func (m *mesh) natSurvives(ctx context.Context) {
	m.t.Helper()
	h := m.hosts[0]
	ping, err := m.Lab.StartPing(ctx, lab.Ping{Host: h, Workload: "web1", To: internet()[0].Addr(), Interval: 10 * time.Millisecond})
	m.must(err)
	for range 3 {
		m.must(m.Lab.Kill(ctx, h, "agent"))
		m.must(m.Lab.StartServices(ctx, h, "agent"))
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
	}
	got, err := ping.Stop(ctx)
	m.must(err)
	m.t.Logf("agent killed 3 times: %d pings of what is outside, %d lost", got.Sent, got.Lost)
	if got.Lost > 0 || got.Received == 0 {
		m.t.Errorf("%d of %d pings of what is outside were lost", got.Lost, got.Sent)
	}
	var v struct{ VNI cluster.VNI }
	m.must(m.JSON(ctx, &v, m.Server, "vpc", "show", "vpc1"))
	for _, words := range [][]string{{"link-del", fmt.Sprint("mu-", v.VNI)}, {"nft-flush"}, {"sysctl", fmt.Sprintf("ipv4/conf/mu-%d/forwarding", v.VNI), "0"}} {
		m.must(m.Lab.Tamper(ctx, h, "", words...))
		m.must(m.Until(ctx, func() error { return m.nothingToDo(ctx, h) }))
		m.reached(ctx, h, "web1", internet()...)
	}
}
