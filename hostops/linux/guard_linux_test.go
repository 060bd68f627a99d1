package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// room pins a network namespace for a workload.
func (h *host) room(name string) string {
	h.t.Helper()
	dir, err := os.MkdirTemp("/run", "rooms-")
	must(h.t, err)
	path := dir + "/" + name
	must(h.t, pinRoom(path))
	h.t.Cleanup(func() { must(h.t, unpinRoom(path)) })
	return path
}

// inside is a workload that sends raw frames by a device in its namespace.
func (h *host) inside(path, device string) *tenant {
	h.t.Helper()
	ns, err := netns.GetFromPath(path)
	must(h.t, err)
	defer ns.Close()
	x := &tenant{t: h.t}
	must(h.t, within(int(ns), func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		x.dev, x.mac = l.Attrs().Index, cluster.MAC(l.Attrs().HardwareAddr)
		x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	h.t.Cleanup(func() { unix.Close(x.fd) })
	return x
}

// listen is a second socket of a workload, which sees what comes in by its device.
func (x *tenant) listen(path string) *tenant {
	x.t.Helper()
	ns, err := netns.GetFromPath(path)
	must(x.t, err)
	defer ns.Close()
	y := &tenant{t: x.t, dev: x.dev, mac: x.mac}
	must(x.t, within(int(ns), func() (err error) {
		y.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, allFrame)
		return err
	}))
	must(x.t, unix.SetsockoptTimeval(y.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))
	x.t.Cleanup(func() { unix.Close(y.fd) })
	return y
}

// attach reconciles until all ports are attached.
func (h *host) attach(v hostops.VPC) {
	h.t.Helper()
	r := h.reconcile(false, v)
	for _, p := range v.Ports {
		if !r.Attached[v.Name][p.Endpoint] {
			h.t.Fatalf("%s is not attached: %+v", p.Endpoint, r)
		}
	}
}

// try is a frame, and for what reason it is dropped; "" if it passes.
type try struct {
	name   string
	reason string
	frame  []byte
}

// packets makes the frames of a workload with MAC mac and addresses a4 and a6.
type packets struct {
	mac    cluster.MAC
	a4, a6 netip.Addr
	to     cluster.MAC
}

var (
	other4, other6 = netip.MustParseAddr("10.0.0.77"), netip.MustParseAddr("fd00::77")
	local6         = netip.MustParseAddr("fe80::11")
	nodes6         = netip.MustParseAddr("ff02::1")
	none4, none6   = netip.IPv4Unspecified(), netip.IPv6Unspecified()
	otherMAC       = cluster.MAC{2, 0, 0, 0, 9, 9}
)

func (p packets) arp(op byte, sender cluster.MAC, from, to netip.Addr) []byte {
	b := slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, op}, sender[:], from.AsSlice(), make([]byte, 6), to.AsSlice())
	return frame(p.to, p.mac, unix.ETH_P_ARP, b)
}

func (p packets) udp4(src netip.Addr, from, to uint16) []byte {
	b := udp(src, other4, to, []byte("payload"))
	binary.BigEndian.PutUint16(b, from)
	return frame(p.to, p.mac, unix.ETH_P_IP, ipv4(src, other4, unix.IPPROTO_UDP, b))
}

func (p packets) udp6(src netip.Addr, from, to uint16) []byte {
	b := udp(src, nodes6, to, []byte("payload"))
	binary.BigEndian.PutUint16(b, from)
	return frame(p.to, p.mac, unix.ETH_P_IPV6, ipv6(src, nodes6, unix.IPPROTO_UDP, b))
}

func (p packets) ping4(src netip.Addr) []byte {
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	return frame(p.to, p.mac, unix.ETH_P_IP, ipv4(src, other4, unix.IPPROTO_ICMP, echo))
}

// icmp6 is an ICMPv6 message, with target if it has one, behind extension headers.
func (p packets) icmp6(src netip.Addr, kind byte, target netip.Addr, headers int) []byte {
	b := []byte{kind, 0, 0, 0, 0, 0, 0, 0}
	if target.IsValid() {
		b = append(b, target.AsSlice()...)
	}
	proto := byte(unix.IPPROTO_ICMPV6)
	for range headers { // destination options: one PadN
		b = append([]byte{proto, 0, 1, 4, 0, 0, 0, 0}, b...)
		proto = unix.IPPROTO_DSTOPTS
	}
	return frame(p.to, p.mac, unix.ETH_P_IPV6, ipv6(src, nodes6, proto, b))
}

// tagged puts a frame into a VLAN.
func tagged(b []byte, protocol uint16) []byte {
	return slices.Concat(b[:12], u16be(protocol), u16be(7), b[12:])
}

func (p packets) tries() []try {
	forged := p
	forged.mac = otherMAC
	slow := packets{mac: otherMAC, to: cluster.MAC{1, 0x80, 0xc2, 0, 0, 2}}
	first := p.icmp6(local6, 134, netip.Addr{}, 0) // the first fragment of one
	fragment := slices.Concat([]byte{unix.IPPROTO_ICMPV6, 0, 0, 1, 0, 0, 0, 9}, first[54:])
	return []try{
		{"ping", "", p.ping4(p.a4)},
		{"UDP", "", p.udp4(p.a4, 5000, 5001)},
		{"ARP request", "", p.arp(1, p.mac, p.a4, other4)},
		{"ARP reply", "", p.arp(2, p.mac, p.a4, other4)},
		{"gratuitous ARP", "", p.arp(1, p.mac, p.a4, p.a4)},
		{"ARP probe", "", p.arp(1, p.mac, none4, p.a4)},
		{"DHCP discover", "", p.udp4(none4, 68, 67)},
		{"DHCP renewal", "", p.udp4(p.a4, 68, 67)},
		{"IPv6 ping", "", p.icmp6(p.a6, 128, netip.Addr{}, 0)},
		{"IPv6 ping from link-local", "", p.icmp6(local6, 128, netip.Addr{}, 0)},
		{"IPv6 ping behind a header", "", p.icmp6(p.a6, 128, netip.Addr{}, 1)},
		{"DAD", "", p.icmp6(none6, 135, p.a6, 0)},
		{"MLD report of a starting host", "", p.icmp6(none6, 143, netip.Addr{}, 0)},
		{"RS of a starting host", "", p.icmp6(none6, 133, netip.Addr{}, 0)},
		{"NS", "", p.icmp6(p.a6, 135, other6, 0)},
		{"NA", "", p.icmp6(p.a6, 136, p.a6, 0)},
		{"NA of link-local", "", p.icmp6(local6, 136, local6, 0)},
		{"DHCPv6 client", "", p.udp6(local6, 546, 547)},

		{"MAC", "mac", forged.ping4(p.a4)},
		{"MAC, ARP", "mac", forged.arp(1, otherMAC, p.a4, other4)},
		{"MAC, IPv6", "mac", forged.icmp6(p.a6, 128, netip.Addr{}, 0)},
		{"slow protocol", "other", frame(slow.to, slow.mac, unix.ETH_P_SLOW, make([]byte, 46))},
		{"IPv4", "ipv4", p.ping4(other4)},
		{"no IPv4", "ipv4", p.udp4(none4, 5000, 5001)},
		{"short IPv4", "ipv4", frame(p.to, p.mac, unix.ETH_P_IP, []byte{0x45, 0})},
		{"IPv6", "ipv6", p.icmp6(other6, 128, netip.Addr{}, 0)},
		{"no IPv6", "ipv6", p.icmp6(none6, 128, netip.Addr{}, 0)},
		{"IPv6 cut in a header", "ipv6", frame(p.to, p.mac, unix.ETH_P_IPV6, ipv6(p.a6, nodes6, unix.IPPROTO_DSTOPTS, []byte{unix.IPPROTO_ICMPV6}))},
		{"ARP", "arp", p.arp(1, p.mac, other4, p.a4)},
		{"ARP reply for another", "arp", p.arp(2, p.mac, other4, p.a4)},
		{"gratuitous ARP for another", "arp", p.arp(1, p.mac, other4, other4)},
		{"ARP with another's MAC", "arp", p.arp(2, otherMAC, p.a4, other4)},
		{"ARP probe with another's MAC", "arp", p.arp(1, otherMAC, none4, other4)},
		{"short ARP", "arp", frame(p.to, p.mac, unix.ETH_P_ARP, []byte{0, 1, 8, 0, 6, 4})},
		{"ARP of another protocol", "arp", frame(p.to, p.mac, unix.ETH_P_ARP, slices.Concat([]byte{0, 1, 9, 0, 6, 4, 0, 1}, p.mac[:], p.a4.AsSlice(), make([]byte, 10)))},
		{"NA for another", "ipv6", p.icmp6(p.a6, 136, other6, 0)},
		{"NA for another from link-local", "ipv6", p.icmp6(local6, 136, other6, 0)},
		{"NA for another behind a header", "ipv6", p.icmp6(p.a6, 136, other6, 1)},
		{"RA", "ra", p.icmp6(local6, 134, netip.Addr{}, 0)},
		{"RA behind a header", "ra", p.icmp6(local6, 134, netip.Addr{}, 1)},
		{"RA behind three headers", "ra", p.icmp6(local6, 134, netip.Addr{}, 3)},
		{"first fragment of an RA", "ra", frame(p.to, p.mac, unix.ETH_P_IPV6, ipv6(local6, nodes6, unix.IPPROTO_FRAGMENT, fragment))},
		{"redirect", "ra", p.icmp6(local6, 137, other6, 0)},
		{"DHCP server", "dhcp", p.udp4(p.a4, 67, 68)},
		{"DHCPv6 server", "dhcp", p.udp6(local6, 547, 546)},
		{"VLAN", "other", tagged(p.udp4(p.a4, 5000, 6001), 0x8100)},
		{"VLAN of a provider", "other", tagged(p.udp4(p.a4, 5000, 6002), 0x88a8)},
		{"VLAN with another's MAC", "mac", tagged(forged.udp4(p.a4, 5000, 6003), 0x8100)},
		{"another protocol", "other", frame(p.to, p.mac, testType, make([]byte, 46))},
		{"IEEE 802.3", "other", frame(p.to, p.mac, 46, make([]byte, 46))},
	}
}

// bare is a frame as a packet socket gives it, without tag.
func (x try) bare() []byte {
	if kind := binary.BigEndian.Uint16(x.frame[12:]); kind == 0x8100 || kind == 0x88a8 {
		return slices.Concat(x.frame[:12], x.frame[16:])
	}
	return x.frame
}

// named finds the name of a frame that came in.
func named(tries []try, b []byte) (string, bool) {
	i := slices.IndexFunc(tries, func(x try) bool { return bytes.Equal(x.bare(), b) })
	if i < 0 {
		return "", false
	}
	return tries[i].name, true
}

// unfiltered keeps iptables' idea of a good packet out of a host's bridges.
func (h *host) unfiltered() {
	h.t.Helper()
	must(h.t, within(int(h.ns), func() error {
		for _, name := range []string{"iptables", "ip6tables", "arptables"} {
			err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-"+name, []byte("0"), 0)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		return nil
	}))
}

// shoot sends tries from a workload and returns the names of those that a tenant
// receives: until all that should pass are there, and all drops are counted.
func (h *host) shoot(from, to *tenant, tries []try, counted bool) map[string]bool {
	h.t.Helper()
	before, err := h.driver.Drops(h.t.Context())
	must(h.t, err)
	want, seen := map[string]uint64{}, map[string]bool{}
	to.drain()
	for _, x := range tries {
		if x.reason != "" && counted {
			want[x.reason]++
		}
		from.send(x.frame)
	}
	buf := make([]byte, 2000)
	missing := func() bool {
		return slices.ContainsFunc(tries, func(x try) bool { return (x.reason == "" || !counted) && !seen[x.name] && x.name != "slow protocol" })
	}
	for deadline := time.Now().Add(10 * time.Second); missing() && time.Now().Before(deadline); {
		n, _, err := unix.Recvfrom(to.fd, buf, 0)
		if err != nil {
			continue // the deadline decides
		}
		if name, ok := named(tries, buf[:n]); ok {
			seen[name] = true
		}
	}
	if counted {
		after, err := h.driver.Drops(h.t.Context())
		must(h.t, err)
		for reason, n := range before {
			if after[reason] -= n; after[reason] == 0 {
				delete(after, reason)
			}
		}
		if diff := cmp.Diff(want, after); diff != "" {
			h.t.Errorf("drops (-want +got):\n%s", diff)
		}
	}
	return seen
}

// counts fits all drops to one port.
func (h *host) counts(device string) {
	h.t.Helper()
	all, err := h.driver.Drops(h.t.Context())
	must(h.t, err)
	maps.DeleteFunc(all, func(_ string, n uint64) bool { return n == 0 })
	got, err := h.driver.PortDrops(h.t.Context())
	must(h.t, err)
	if diff := cmp.Diff(map[string]map[string]uint64{device: all}, got); diff != "" {
		h.t.Errorf("drops by port (-want +got):\n%s", diff)
	}
}

// learned lists the MACs that a bridge has learned.
func (h *host) learned(mac cluster.MAC) bool {
	h.t.Helper()
	list, err := h.nl.NeighList(0, unix.AF_BRIDGE)
	must(h.t, err)
	return slices.ContainsFunc(list, func(n netlink.Neigh) bool { return bytes.Equal(n.HardwareAddr, mac[:]) })
}

// TestSpoofing: a bound port sends what is its own and what a starting host needs;
// all else is dropped, counted, and teaches its bridge nothing.
func TestSpoofing(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	h.unfiltered()
	v := mesh([]*host{h}, 0, "blue", 10000, false)
	h.reconcile(false, v)
	v.Ports = []hostops.Port{hosttest.MakePort(v, 1, h.room("a"))}
	h.attach(v)
	hush(t, v.Ports[0])
	from, to := h.inside(v.Ports[0].Namespace, "eth0"), h.tenant("blue", "t0")
	p := packets{from.mac, v.Ports[0].Addresses[0].Addr(), v.Ports[0].Addresses[1].Addr(), to.mac}
	tries := p.tries()
	got := h.shoot(from, to, tries, true)
	for _, x := range tries {
		if got[x.name] != (x.reason == "") {
			t.Errorf("%s: passed %v, want %v", x.name, got[x.name], x.reason == "")
		}
	}
	h.counts(v.Ports[0].Device)
	if h.learned(otherMAC) {
		t.Error("the bridge has learned a forged MAC")
	}

	// The same without the binding: it was that which dropped them.
	v.Ports = slices.Clone(v.Ports)
	v.Ports[0].Trusted = true
	h.attach(v)
	got = h.shoot(from, to, tries, false)
	for _, x := range tries {
		if !got[x.name] && x.name != "slow protocol" {
			t.Errorf("trusted, %s did not pass", x.name)
		}
	}
	if !h.learned(otherMAC) {
		t.Error("a trusted port taught its bridge nothing: nothing was tested")
	}
}

// hush keeps a workload's kernel from sending frames of its own.
func hush(t *testing.T, p hostops.Port) {
	t.Helper()
	must(t, inRoom(t, p.Namespace, func(h *netlink.Handle) error {
		l, err := h.LinkByName(p.Inner)
		if err != nil {
			return err
		}
		return h.LinkSetIP6AddrGenMode(l, addrGenNone)
	}))
}

// TestSpoofingWithoutAddresses: the MAC is held, and what only servers send.
func TestSpoofingWithoutAddresses(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	h.unfiltered()
	v := mesh([]*host{h}, 0, "blue", 10000, false)
	h.reconcile(false, v)
	port := hosttest.MakePort(v, 1, h.room("a"))
	port.Addresses, port.Gateways = nil, nil
	v.Ports = []hostops.Port{port}
	h.attach(v)
	hush(t, port)
	from, to := h.inside(port.Namespace, "eth0"), h.tenant("blue", "t0")
	p := packets{from.mac, netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("fd00::b"), to.mac}
	tries := p.tries()
	held := []string{"mac", "dhcp", "ra", "other"}
	for i, x := range tries {
		keeps := slices.Contains(held, x.reason) || slices.Contains([]string{"short IPv4", "IPv6 cut in a header", "ARP with another's MAC", "ARP probe with another's MAC", "short ARP", "ARP of another protocol"}, x.name)
		if !keeps {
			tries[i].reason = ""
		}
	}
	got := h.shoot(from, to, tries, true)
	for _, x := range tries {
		if got[x.name] != (x.reason == "") {
			t.Errorf("%s: passed %v, want %v", x.name, got[x.name], x.reason == "")
		}
	}
}

// TestSpoofedVTEP: shields hold for bound and for trusted ports.
func TestSpoofedVTEP(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	for _, trusted := range []bool{false, true} {
		v := mesh(hosts, 0, "blue", 10000, false)
		port := hosttest.MakePort(v, 1, hosts[0].room(fmt.Sprint("a", trusted)))
		port.Trusted, port.Addresses, port.Gateways = trusted, nil, nil
		port.Endpoint = fmt.Sprint("w", trusted)
		port.Device = hostops.EndpointPortOf(v.Name, port.Endpoint)
		v.Ports = []hostops.Port{port}
		hosts[0].attach(v)
		hosts[1].reconcile(false, mesh(hosts, 1, "blue", 10000, false))
		from, to := hosts[0].inside(port.Namespace, "eth0"), hosts[1].tenant("blue", fmt.Sprint("t", trusted))
		p := packets{from.mac, vtep(0).Addr(), netip.Addr{}, everybody}
		tries := []try{
			{"as VTEP", "shield", p.udp4(vtep(0).Addr(), 5000, 5001)},
			{"ARP as VTEP", "shield", p.arp(1, p.mac, vtep(1).Addr(), vtep(1).Addr())},
			{"own", "", p.arp(1, p.mac, netip.MustParseAddr("10.0.0.5"), other4)},
		}
		must(t, hosts[0].reach("blue", vtep(1).Addr(), 0))
		seen := map[string]bool{}
		for range 10 {
			for name := range hosts[0].shootUncounted(from, to, tries) {
				seen[name] = true
			}
		}
		if diff := cmp.Diff(map[string]bool{"own": true}, seen); diff != "" {
			t.Errorf("trusted %v: another host received (-want +got):\n%s", trusted, diff)
		}
	}
}

// shootUncounted is shoot for frames that other chains drop.
func (h *host) shootUncounted(from, to *tenant, tries []try) map[string]bool {
	h.t.Helper()
	to.drain()
	for _, x := range tries {
		from.send(x.frame)
	}
	seen, buf := map[string]bool{}, make([]byte, 2000)
	for {
		n, _, err := unix.Recvfrom(to.fd, buf, 0)
		if err != nil {
			return seen
		}
		if name, ok := named(tries, buf[:n]); ok {
			if seen[name] = true; name == tries[len(tries)-1].name {
				return seen
			}
		}
	}
}
