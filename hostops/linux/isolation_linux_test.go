package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// listenPort is where a program of the host listens, on all its addresses.
const listenPort = 7777

// target is a host that tenants of blue try to get at.
type target struct {
	*host
	peer *host      // whose addresses are forged
	red  [2]*tenant // of another VPC
	// tenants are the MACs of those who send; ARP from others is the host's.
	tenants []string
	// ears are a program of the host and, on the peer, what gets the answers
	// to pings, each over IPv4 and IPv6.
	ears []net.PacketConn
}

// both is VPC v on host number self, with tunnels over both families.
func both(hosts []*host, self int, vpc string, vni cluster.VNI) hostops.VPC {
	v := mesh(hosts, self, vpc, vni, false)
	v.Tunnels = append(v.Tunnels, mesh(hosts, self, vpc, vni, true).Tunnels...)
	for i := range v.Tunnels[0].Peers { // a VTEP is behind one tunnel
		v.Tunnels[0].Peers[i].VTEP = netip.Addr{}
	}
	return v
}

func newTarget(t *testing.T, h, peer *host) *target {
	x := &target{host: h, peer: peer, red: [2]*tenant{h.tenant("red", "r0"), h.tenant("red", "r1")}}
	for _, ear := range []struct {
		on               *host
		network, address string
	}{
		{h, "udp4", fmt.Sprint(":", listenPort)}, {h, "udp6", fmt.Sprint(":", listenPort)},
		{peer, "ip4:icmp", ""}, {peer, "ip6:ipv6-icmp", ""},
	} {
		must(t, within(int(ear.on.ns), func() error {
			c, err := net.ListenPacket(ear.network, ear.address)
			if err == nil {
				x.ears = append(x.ears, c)
				t.Cleanup(func() { c.Close() })
			}
			return err
		}))
	}
	return x
}

// tries are the frames with which a tenant tries to get at a host, by what
// they are.
func (x *target) tries(from *tenant, dst cluster.MAC) map[string][]byte {
	out := map[string][]byte{}
	for _, f := range []struct {
		name           string
		local, forged  netip.Addr
		kind           uint16
		icmp, echo     byte
		packet, pseudo func(src, dst netip.Addr, proto byte, payload []byte) []byte
	}{
		{"IPv4", x.v4, x.peer.v4, unix.ETH_P_IP, unix.IPPROTO_ICMP, 8, ipv4, nil},
		{"IPv6", x.v6, x.peer.v6, unix.ETH_P_IPV6, unix.IPPROTO_ICMPV6, 128, ipv6, nil},
	} {
		put := func(name string, proto byte, payload []byte) {
			out[name] = frame(dst, from.mac, f.kind, f.packet(f.forged, f.local, proto, payload))
		}
		name := "VXLAN over " + f.name
		put(name, unix.IPPROTO_UDP, udp(f.forged, f.local, 4789, encap(10001, message(cluster.MAC{2, 0, 0, 0, 0, 9}, name))))
		name = "UDP over " + f.name
		put(name, unix.IPPROTO_UDP, udp(f.forged, f.local, listenPort, []byte(name)))
		name = "ping over " + f.name
		echo := append([]byte{f.echo, 0, 0, 0, 0, 1, 0, 1}, name...)
		if f.local.Is4() {
			binary.BigEndian.PutUint16(echo[2:], checksum(echo))
		} else {
			binary.BigEndian.PutUint16(echo[2:], pseudo(f.forged, f.local, f.icmp, echo))
		}
		put(name, f.icmp, echo)
	}
	arp := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, from.mac[:]...)
	arp = append(append(arp, 10, 10, 11, 9), make([]byte, 6)...)
	out["ARP"] = frame(dst, from.mac, unix.ETH_P_ARP, append(append(arp, x.v4.AsSlice()...), make([]byte, 18)...))
	return out
}

func ipv4(src, dst netip.Addr, proto byte, payload []byte) []byte {
	h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0}
	h = append(append(h, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return append(h, payload...)
}

func ipv6(src, dst netip.Addr, proto byte, payload []byte) []byte {
	h := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	return append(append(append(h, src.AsSlice()...), dst.AsSlice()...), payload...)
}

func udp(src, dst netip.Addr, port uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x12, 0x34}, port)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	binary.BigEndian.PutUint16(b[6:], pseudo(src, dst, unix.IPPROTO_UDP, b))
	return b
}

// pseudo is the checksum of payload with the pseudo header of IPv4 or IPv6.
func pseudo(src, dst netip.Addr, proto byte, payload []byte) uint16 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return checksum(append(append(b, 0, 0, 0, proto), payload...))
}

// attempt sends all tries, ten times each, and returns those that got through.
// end is a tenant of the sender's VPC, on the target's host.
func (x *target) attempt(t *testing.T, from, end *tenant, dst cluster.MAC, text string) []string {
	t.Helper()
	seen := map[string]struct{}{}
	for _, y := range []*tenant{from, end, x.red[0]} {
		y.drain() // a full socket hears nothing more
	}
	repeat(func() {
		for _, b := range x.tries(from, dst) {
			from.send(b)
		}
	})
	// What was sent before has passed the bridge; then red's, and what the host has made of it.
	end.until(text, func() { from.send(message(from.mac, text)) })
	for _, what := range x.red[0].until("red "+text, func() { x.red[1].send(message(x.red[1].mac, "red "+text)) }) {
		seen[what] = struct{}{}
	}
	for _, what := range from.until(text+" back", func() { end.send(message(end.mac, text+" back")) }) {
		if strings.HasPrefix(what, "0806") && !slices.Contains(x.tenants, what[len("0806 from "):]) {
			seen["ARP"] = struct{}{}
		}
	}
	for i, c := range x.ears {
		wait := 20 * time.Millisecond
		if i == 0 { // what the others have is there then
			wait *= 10
		}
		must(t, c.SetReadDeadline(time.Now().Add(wait)))
		for buf := make([]byte, 2000); ; {
			n, _, err := c.ReadFrom(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			must(t, err)
			what := buf[:n]
			if i >= 2 {
				if n < 8 || (what[0] != 0 && what[0] != 129) {
					continue // no echo reply
				}
				what = what[8:]
			}
			seen[string(what)] = struct{}{}
		}
	}
	var out []string
	for what := range seen {
		out = append(out, what)
	}
	slices.Sort(out)
	return out
}

// insist attempts until n tries got through: a busy machine drops frames.
func (x *target) insist(t *testing.T, from, end *tenant, dst cluster.MAC, text string, n int) []string {
	t.Helper()
	var seen []string
	for i := range 10 {
		seen = kinds(append(seen, x.attempt(t, from, end, dst, fmt.Sprint(text, " ", i))...))
		if len(seen) >= n {
			break
		}
	}
	return seen
}

var everything = []string{"ARP", "UDP over IPv4", "UDP over IPv6", "VXLAN over IPv4", "VXLAN over IPv6", "ping over IPv4", "ping over IPv6"}

// TestTenantReachesNoHost: whatever a tenant sends, it reaches neither the host
// nor, through the host, another VPC.
func TestTenantReachesNoHost(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	var vpcs []hostops.VPC // of the first
	for i := range hosts {
		i = len(hosts) - 1 - i
		vpcs = []hostops.VPC{both(hosts, i, "blue", 10000), both(hosts, i, "red", 10001)}
		hosts[i].reconcile(false, vpcs...)
	}
	x := newTarget(t, hosts[0], hosts[1])
	local, end, remote := hosts[0].tenant("blue", "t0"), hosts[0].tenant("blue", "t1"), hosts[1].tenant("blue", "t0")
	for _, y := range []*tenant{local, end, remote} {
		x.tenants = append(x.tenants, y.mac.String())
	}
	bridge, err := hosts[0].nl.LinkByName("blue")
	must(t, err)
	own, group := cluster.MAC(bridge.Attrs().HardwareAddr), func(n byte) cluster.MAC { return cluster.MAC{1, 0x80, 0xc2, 0, 0, n} }
	cases := []struct {
		name string
		from *tenant
		dst  cluster.MAC
		open []string // what gets through without any protection
	}{
		{"local to bridge", local, own, everything},
		{"local to all", local, everybody, everything},
		{"local to reserved 0", local, group(0), everything},
		{"local to reserved 1", local, group(1), nil},
		{"local to reserved 2", local, group(2), everything},
		{"local to reserved 3", local, group(3), everything},
		{"local to reserved e", local, group(0xe), everything},
		{"remote to bridge", remote, own, everything},
		{"remote to all", remote, everybody, everything},
	}
	for i, tt := range cases {
		if got := x.attempt(t, tt.from, end, tt.dst, fmt.Sprint("end ", i)); len(got) > 0 {
			t.Errorf("%s: %v got through", tt.name, got)
		}
	}
	// A wiped seal leaves IPv4 and ARP closed, and is back within a second.
	start := time.Now()
	x.wipeSeals()
	select {
	case <-x.driver.Changed():
	case <-time.After(5 * time.Second):
		t.Fatal("wiped seals were not noticed")
	}
	noticed := time.Now()
	if diff := cmp.Diff([]string{"UDP over IPv6", "VXLAN over IPv6", "ping over IPv6"}, x.insist(t, local, end, everybody, "wiped", 3)); diff != "" {
		t.Errorf("without seal (-want +got):\n%s", diff)
	}
	tried := time.Since(noticed)
	if r := x.reconcile(false, vpcs...); r.Repaired["blue"] != 1 || r.Repaired["red"] != 1 {
		t.Errorf("repairs of wiped seals: %v, want one of each VPC", r.Repaired)
	}
	if d := time.Since(start) - tried; d > time.Second {
		t.Errorf("seals were back after %v", d)
	} else {
		t.Logf("seals were back after %v", d)
	}
	// The same without protection, to know that it was that.
	x.expose("blue")
	for i, tt := range cases {
		got := x.insist(t, tt.from, end, tt.dst, fmt.Sprint("open end ", i), len(tt.open))
		if diff := cmp.Diff(tt.open, got); diff != "" {
			t.Errorf("%s, exposed (-want +got):\n%s", tt.name, diff)
		}
	}
	if r := x.reconcile(true, vpcs...); r.Repairs == 0 {
		t.Error("exposing counts as no repair")
	}
	if got := x.attempt(t, local, end, everybody, "again"); len(got) > 0 {
		t.Errorf("after the repair %v got through", got)
	}
}

// expose takes all protection of the host from a VPC's tenants away.
func (h *host) expose(vpc string) {
	h.t.Helper()
	h.wipeSeals()
	must(h.t, within(int(h.ns), func() error {
		for name, value := range map[string]string{
			"/proc/sys/net/ipv4/conf/" + vpc + "/rp_filter":  "0",
			"/proc/sys/net/ipv4/conf/" + vpc + "/arp_ignore": "0",
		} {
			if err := os.WriteFile(name, []byte(value), 0); err != nil {
				return err
			}
		}
		c, err := dial(make([]byte, readSize), &h.driver.requests)
		if err != nil {
			return err
		}
		defer c.close()
		b, err := h.nl.LinkByName(vpc)
		if err != nil {
			return err
		}
		return c.set(unix.RTM_NEWLINK, 0, linkMsg(int32(b.Attrs().Index)), linkInfo("bridge", attr(nl.IFLA_BR_GROUP_FWD_MASK, u16(0))))
	}))
}

// wipeSeals removes all that seals bridges, and leaves the filter.
func (h *host) wipeSeals() {
	h.t.Helper()
	cc := kernel{t: h.t, ns: h.ns}.nft()
	cc.DelTable(deviceTable())
	cc.FlushChain(&nftables.Chain{Table: bridgeTable(), Name: reserved})
	must(h.t, cc.Flush())
}
