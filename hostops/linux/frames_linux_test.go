package linux

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// tenant is a workload's port on a VPC's bridge: it sends and sees raw frames.
type tenant struct {
	t   testing.TB
	fd  int
	dev int
	mac cluster.MAC
	// ends are the texts that until waited for.
	ends []string
}

const (
	testType = 0x88b5 // the ethertype for local experiments, IEEE 802
	allFrame = 0x0300 // ETH_P_ALL in network byte order
)

func (h *host) tenant(bridge, name string) *tenant {
	h.t.Helper()
	ns := newNS(h.t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, 1430
	must(h.t, h.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "e0", PeerNamespace: netlink.NsFd(ns), PeerMTU: 1430}))
	p, err := h.nl.LinkByName(name)
	must(h.t, err)
	b, err := h.nl.LinkByName(bridge)
	must(h.t, err)
	must(h.t, h.nl.LinkSetMaster(p, b))
	must(h.t, h.nl.LinkSetIP6AddrGenMode(p, addrGenNone)) // it is to say nothing of its own
	must(h.t, h.nl.LinkSetUp(p))
	x := &tenant{t: h.t}
	must(h.t, within(int(ns), func() error {
		l, err := netlink.LinkByName("e0")
		if err != nil {
			return err
		}
		x.dev, x.mac = l.Attrs().Index, cluster.MAC(l.Attrs().HardwareAddr)
		if x.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, allFrame); err != nil {
			return err
		}
		if err := netlink.LinkSetIP6AddrGenMode(l, addrGenNone); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	carries(h.t, h.ns, name)
	must(h.t, unix.SetsockoptTimeval(x.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000}))
	h.t.Cleanup(func() { unix.Close(x.fd) })
	return x
}

// carries waits until the kernel has noticed that the device has a carrier, and
// the bridge forwards to it.
func carries(t testing.TB, ns netns.NsHandle, device string) {
	t.Helper()
	updates, done := make(chan netlink.LinkUpdate, 1000), make(chan struct{})
	defer close(done)
	must(t, netlink.LinkSubscribeWithOptions(updates, done, netlink.LinkSubscribeOptions{Namespace: &ns, ListExisting: true}))
	deadline := time.After(5 * time.Second)
	for {
		select {
		case u := <-updates:
			if a := u.Attrs(); a.Name == device && a.OperState == netlink.OperUp {
				return
			}
		case <-deadline:
			t.Fatalf("device %s has no carrier", device)
		}
	}
}

var everybody = cluster.MAC{255, 255, 255, 255, 255, 255}

func frame(dst, src cluster.MAC, kind uint16, payload []byte) []byte {
	b := append(slices.Clone(dst[:]), src[:]...)
	b = binary.BigEndian.AppendUint16(b, kind)
	return append(b, payload...)
}

func send(fd int, b []byte, dev int) error {
	return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: dev, Halen: 6})
}

func message(src cluster.MAC, text string) []byte {
	return frame(everybody, src, testType, append([]byte(text), make([]byte, 46)...))
}

func (x *tenant) send(b []byte) {
	x.t.Helper()
	err := error(unix.EAGAIN)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ENOBUFS) { // a backlog is full
		err = send(x.fd, b, x.dev)
	}
	must(x.t, err)
}

// drain throws away what has come in.
func (x *tenant) drain() {
	x.t.Helper()
	for buf := make([]byte, 9000); ; {
		_, _, err := unix.Recvfrom(x.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EAGAIN) {
			return
		}
		must(x.t, err)
	}
}

// until returns the texts of the messages that come in before the one that last
// sends. A busy machine drops frames: last is sent until it arrives.
func (x *tenant) until(text string, last func()) []string {
	x.t.Helper()
	var got []string
	buf := make([]byte, 9000)
	x.ends = append(x.ends, text)
	last()
	for deadline := time.Now().Add(15 * time.Second); ; {
		n, from, err := unix.Recvfrom(x.fd, buf, 0)
		if errors.Is(err, unix.EAGAIN) && time.Now().Before(deadline) {
			last()
			continue
		}
		if err != nil {
			x.t.Fatalf("waiting for message %q: %v", text, err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); (ok && ll.Pkttype == unix.PACKET_OUTGOING) || n < 15 {
			continue
		}
		switch kind := binary.BigEndian.Uint16(buf[12:]); kind {
		case unix.ETH_P_ARP, unix.ETH_P_IP, unix.ETH_P_IPV6:
			got = append(got, fmt.Sprintf("%04x from %s", kind, cluster.MAC(buf[6:12])))
		case testType:
			what := cstr(buf[14:n])
			if what == text {
				return got
			}
			if !slices.Contains(x.ends, what) { // not one that was sent twice
				got = append(got, what)
			}
		}
	}
}

// kinds are the distinct texts.
func kinds(texts []string) []string {
	slices.Sort(texts)
	return slices.Compact(texts)
}

// probing pings every 10 ms until the function is called, which tells how many
// pings were answered within a second.
func (h *host) probing(vpc string, to netip.Addr) func() (sent, answered int) {
	ctx, cancel := context.WithCancel(h.t.Context())
	ended := make(chan struct{})
	var sent, answered int
	go func() {
		defer close(ended)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			sent++
			if h.ping(vpc, to, 0) == nil {
				answered++
			}
			<-tick.C
		}
	}()
	return func() (int, int) {
		cancel()
		<-ended
		return sent, answered
	}
}

// undropped calls f until the kernel has dropped no packet meanwhile: then f must
// succeed. All namespaces of a machine share one queue a CPU between devices, so
// that whoever fills it makes frames of others vanish.
func undropped(t testing.TB, f func(try int) error) {
	t.Helper()
	for try := range 100 {
		before := dropped(t)
		err := f(try)
		n := dropped(t) - before
		if n == 0 && err != nil {
			t.Error(err)
		}
		if err == nil || n == 0 {
			return
		}
		t.Logf("the kernel dropped %d packets: %v", n, err)
	}
	t.Error("the kernel drops packets all the time: this machine is too busy")
}

// dropped counts the packets that found the queue of a CPU full: the second
// column of softnet_stat.
func dropped(t testing.TB) (n uint64) {
	t.Helper()
	b, err := os.ReadFile("/proc/net/softnet_stat")
	must(t, err)
	for line := range strings.Lines(string(b)) {
		column, err := strconv.ParseUint(strings.Fields(line)[1], 16, 64)
		must(t, err)
		n += column
	}
	return n
}

// repeat is for what has to arrive although a busy machine drops frames.
func repeat(f func()) {
	for range 10 {
		f()
	}
}

// vxlan sends a frame in VXLAN from a namespace, as any program there can.
func vxlan(t testing.TB, ns netns.NsHandle, from, to netip.Addr, vni cluster.VNI, inner []byte) {
	t.Helper()
	must(t, within(int(ns), func() error {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: from.AsSlice()}, &net.UDPAddr{IP: to.AsSlice(), Port: 4789})
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write(encap(vni, inner))
		return err
	}))
}

func encap(vni cluster.VNI, inner []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, uint32(vni)<<8), inner...)
}

// meshed is a converged mesh of n hosts in VPC blue.
func meshed(t testing.TB, n int, v6 bool) ([]*host, []hostops.VPC) {
	t.Helper()
	hosts := newUnderlay(t, n, 1500)
	var vpcs []hostops.VPC
	for i, h := range hosts {
		v := mesh(hosts, i, "blue", 10000, v6)
		h.reconcile(false, v)
		vpcs = append(vpcs, v)
	}
	return hosts, vpcs
}

func TestBroadcastOnce(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		hosts, _ := meshed(t, 3, v6)
		var xs []*tenant
		for _, h := range hosts {
			xs = append(xs, h.tenant("blue", "t0"))
		}
		undropped(t, func(try int) error {
			var want []string
			for i := range 10 {
				want = append(want, fmt.Sprintf("try %d, m%d", try, i))
				xs[0].send(message(xs[0].mac, want[i]))
			}
			var lost error
			last := fmt.Sprint("end ", try)
			end := func() { xs[0].send(message(xs[0].mac, last)) }
			for i, x := range xs[1:] {
				got := x.until(last, end)
				if len(kinds(slices.Clone(got))) != len(got) {
					t.Errorf("host %d received %v, some of them twice", i+1, got)
				}
				if !slices.Equal(got, want) {
					lost = errors.Join(lost, fmt.Errorf("host %d received %v, want %v", i+1, got, want))
				}
			}
			return lost
		})
		// What comes back to the sender would be a loop.
		if got := xs[0].until("over", func() { xs[1].send(message(xs[1].mac, "over")) }); len(got) > 0 {
			t.Errorf("the sender got back %v", got)
		}
	}
}

func TestForgedFramesAreDropped(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) {
			// Hosts 0 and 1 are in blue; 2 shares VPC red with 0; 3 is a stranger.
			hosts := newUnderlay(t, 4, 1500)
			blue, red := mesh(hosts[:2], 0, "blue", 10000, v6), mesh(hosts[:3], 0, "red", 10001, v6)
			hosts[0].reconcile(false, blue, red)
			hosts[1].reconcile(false, mesh(hosts[:2], 1, "blue", 10000, v6))
			x, y := hosts[0].tenant("blue", "t0"), hosts[0].tenant("red", "t1")
			at := func(i int) netip.Addr {
				if v6 {
					return hosts[i].v6
				}
				return hosts[i].v4
			}
			src := cluster.MAC{2, 0, 0, 0, 0, 9}
			say := func(from int, vni cluster.VNI, text string) {
				vxlan(t, hosts[from].ns, at(from), at(0), vni, message(src, text))
			}
			say(3, 10000, "stranger in blue")
			say(2, 10000, "peer of red in blue")
			if got := x.until("end", func() { say(1, 10000, "end") }); len(got) > 0 {
				t.Errorf("blue received %v", got)
			}
			say(3, 10001, "stranger in red")
			if got := y.until("end", func() { say(2, 10001, "end") }); len(got) > 0 {
				t.Errorf("red received %v", got)
			}

			// A foreign overlay on the same port is not judged.
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "foreign"
			dev := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 77, Port: 4789, SrcAddr: at(0).AsSlice(), Learning: true, UDPCSum: true}
			must(t, hosts[0].nl.LinkAdd(dev))
			must(t, hosts[0].nl.LinkSetUp(dev))
			repeat(func() { say(3, 77, "not ours") })
			l, err := hosts[0].nl.LinkByName("foreign")
			must(t, err)
			if l.Attrs().Statistics.RxPackets == 0 {
				t.Error("a frame of a foreign VNI was dropped")
			}

			// Wiped: what was dropped passes, until the next change is seen.
			start := time.Now()
			k := kernel{t: t, ns: hosts[0].ns}
			must(t, k.WipeFilter())
			select {
			case <-hosts[0].driver.Changed():
			case <-time.After(5 * time.Second):
				t.Fatal("wiped filter was not noticed")
			}
			repeat(func() { say(3, 10000, "while wiped") })
			if r := hosts[0].reconcile(false, blue, red); r.Repairs == 0 {
				t.Error("wiped filter counts as no repair")
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("filter was back after %v", d)
			} else {
				t.Logf("filter was back after %v", d)
			}
			say(3, 10000, "stranger again")
			if diff := cmp.Diff([]string{"while wiped"}, kinds(x.until("end again", func() { say(1, 10000, "end again") }))); diff != "" {
				t.Errorf("blue around the wipe (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFragmentsAreJudged: a stranger cannot hide the VNI in a second fragment.
func TestFragmentsAreJudged(t *testing.T) {
	hosts, vpcs := meshed(t, 3, false)
	x := hosts[0].tenant("blue", "t0")
	stranger := hosts[2]
	hosts[0].reconcile(false, func() hostops.VPC { // without host 2
		v := vpcs[0]
		v.Tunnels[0].Peers = v.Tunnels[0].Peers[:1]
		return v
	}())
	send := func(id uint16, text string) {
		t.Helper()
		udp := []byte{0x12, 0x34, 0x12, 0xb5, 0, 0, 0, 0}
		udp = append(udp, encap(10000, message(cluster.MAC{2, 0, 0, 0, 0, 9}, text))...)
		for len(udp)%8 != 0 {
			udp = append(udp, 0)
		}
		binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
		must(t, within(int(stranger.ns), func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_RAW)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			for _, part := range []struct {
				offset uint16
				data   []byte
			}{{0x2000, udp[:8]}, {1, udp[8:]}} {
				h := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
				binary.BigEndian.PutUint16(h[4:], id)
				binary.BigEndian.PutUint16(h[6:], part.offset)
				h = append(append(h, stranger.v4.AsSlice()...), hosts[0].v4.AsSlice()...)
				if err := unix.Sendto(fd, append(h, part.data...), 0, &unix.SockaddrInet4{Addr: hosts[0].v4.As4()}); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	until := func(text string) []string {
		return kinds(x.until(text, func() {
			vxlan(t, hosts[1].ns, hosts[1].v4, hosts[0].v4, 10000, message(cluster.MAC{2, 0, 0, 0, 0, 8}, text))
		}))
	}
	for id := range uint16(10) {
		send(id, "hidden")
	}
	if got := until("end"); len(got) > 0 {
		t.Errorf("received %v", got)
	}
	must(t, kernel{t: t, ns: hosts[0].ns}.WipeFilter())
	for id := range uint16(10) {
		send(100+id, "hidden")
	}
	if diff := cmp.Diff([]string{"hidden"}, until("end again")); diff != "" {
		t.Errorf("without filter (-want +got):\n%s", diff)
	}
}

// TestTenantAsVTEP: a tenant cannot speak as a VTEP, and probes go on while it
// tries.
func TestTenantAsVTEP(t *testing.T) {
	hosts, _ := meshed(t, 3, false)
	evil, witness := hosts[0].tenant("blue", "t0"), hosts[2].tenant("blue", "t0")
	own, other := hostops.VTEPMAC(vtep(0).Addr()), hostops.VTEPMAC(vtep(1).Addr())
	arp := func(op byte, mac cluster.MAC, from, to netip.Addr) []byte {
		b := []byte{0, 1, 8, 0, 6, 4, 0, op}
		b = append(append(b, mac[:]...), from.AsSlice()...)
		b = append(append(b, everybody[:]...), to.AsSlice()...)
		return frame(everybody, mac, unix.ETH_P_ARP, append(b, make([]byte, 18)...))
	}
	ipv4 := func(src netip.Addr) []byte {
		h := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, unix.IPPROTO_ICMP, 0, 0}
		h = append(append(h, src.AsSlice()...), vtep(2).Addr().AsSlice()...)
		binary.BigEndian.PutUint16(h[10:], checksum(h)) // br_netfilter looks at it
		return frame(everybody, evil.mac, unix.ETH_P_IP, append(h, make([]byte, 26)...))
	}
	probe := func(when string) {
		t.Helper()
		for _, pair := range [][2]int{{1, 2}, {2, 1}, {1, 0}, {2, 0}, {0, 1}, {0, 2}} {
			if err := hosts[pair[0]].reach("blue", vtep(pair[1]).Addr(), 0); err != nil {
				t.Errorf("%s: %d to %d: %v", when, pair[0], pair[1], err)
			}
		}
	}
	forge := func() {
		for range 20 {
			evil.send(arp(1, evil.mac, vtep(0).Addr(), vtep(0).Addr()))
			evil.send(arp(2, evil.mac, vtep(1).Addr(), vtep(2).Addr()))
			evil.send(ipv4(vtep(1).Addr()))
			evil.send(message(own, "as own VTEP"))
			evil.send(message(other, "as other VTEP"))
		}
	}
	until := func(text string) []string {
		return kinds(witness.until(text, func() { evil.send(message(evil.mac, text)) }))
	}
	probe("before")
	until("begin")
	forge()
	if got := until("end"); len(got) > 0 {
		t.Errorf("another host received %v", got)
	}
	probe("while a tenant forges")

	op := hostops.Unshield{Target: hostops.Target{VPC: "blue", Object: "filter"}, VNI: 10000}
	must(t, hosts[0].driver.Apply(t.Context(), op))
	forge()
	// Another host's VTEP is where we were told it is, whoever speaks with its
	// MAC: the receiver drops what comes from elsewhere.
	want := kinds([]string{"0800 from " + evil.mac.String(), "0806 from " + evil.mac.String(), "as own VTEP"})
	if diff := cmp.Diff(want, until("end again")); diff != "" {
		t.Errorf("without shield (-want +got):\n%s", diff)
	}
	s, err := hosts[0].driver.Observe(t.Context(), true)
	must(t, err)
	if at, _ := s.Devices["mv4-10000"].FDB.Get(other); at != hosts[1].v4 {
		t.Errorf("frames for the other VTEP go to %s, want %s", at, hosts[1].v4)
	}
	if got, _ := s.Namespaces["vpc-blue"].Port.Neighbours.Get(vtep(1).Addr()); got != other {
		t.Errorf("the other VTEP's MAC is %s, want %s", got, other)
	}
	probe("without shield")
}

// TestTenantsOwnVXLAN: the filter judges what comes from the underlay, also where
// the kernel shows it bridged frames (br_netfilter).
func TestTenantsOwnVXLAN(t *testing.T) {
	hosts, _ := meshed(t, 2, false)
	x, y := hosts[0].tenant("blue", "t0"), hosts[1].tenant("blue", "t0")
	udp := append([]byte{0x12, 0x34, 0x12, 0xb5, 0, 0, 0, 0}, encap(10000, message(x.mac, "nested"))...)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 10, 11, 1, 10, 10, 11, 2}
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(udp)))
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	repeat(func() { x.send(frame(everybody, x.mac, unix.ETH_P_IP, append(ip, udp...))) })
	got := kinds(y.until("end", func() { x.send(message(x.mac, "end")) }))
	if diff := cmp.Diff([]string{"0800 from " + x.mac.String()}, got); diff != "" {
		t.Errorf("received (-want +got):\n%s", diff)
	}
}

// TestProbeIsOneFrame: a probe, and its answer, goes to the peer it is for and to
// nobody else, also if the peer is off or has never been there; for an address
// that is no peer's nothing is sent.
func TestProbeIsOneFrame(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) {
			hosts := newUnderlay(t, 3, 1500)
			dead := hostops.Peer{Node: "dead", Underlay: netip.MustParseAddr("192.0.2.99"), VTEP: vtep(98).Addr()}
			device := "mv4-10000"
			if v6 {
				dead.Underlay, device = netip.MustParseAddr("2001:db8::99"), "mv6-10000"
			}
			for i, h := range hosts {
				v := mesh(hosts, i, "blue", 10000, v6)
				v.Tunnels[0].Peers = append(v.Tunnels[0].Peers, dead)
				h.reconcile(false, v)
			}
			count := func(h *host) *netlink.LinkStatistics {
				l, err := h.nl.LinkByName(device)
				must(t, err)
				return l.Attrs().Statistics
			}
			const n = 20
			before, aside := count(hosts[0]).TxPackets, count(hosts[2])
			for range n {
				for _, to := range []netip.Addr{dead.VTEP, vtep(77).Addr()} {
					must(t, hosts[0].driver.Send(hostops.Echo{VPC: "blue", To: to}, func(time.Duration) {}))
				}
			}
			// Frames are handled in order: what the silent cause has happened
			// once a peer has answered.
			sent := uint64(n)
			for answered := 0; answered < n; sent++ {
				err := hosts[0].ping("blue", vtep(1).Addr(), 0)
				if err == nil {
					answered++
				} else if sent > 10*n || !errors.Is(err, hostops.ErrNoAnswer) {
					t.Fatal(err)
				}
			}
			if got := count(hosts[0]).TxPackets - before; got != sent {
				t.Errorf("%d probes made %d frames", sent, got)
			}
			if got := count(hosts[2]); got.RxPackets != aside.RxPackets || got.TxPackets != aside.TxPackets {
				t.Errorf("a host that was not asked received %d frames and sent %d", got.RxPackets-aside.RxPackets, got.TxPackets-aside.TxPackets)
			}
		})
	}
}

// TestMACFlood: a tenant's million made-up MACs fill bounded tables, wake nobody
// and harm neither probes nor another VPC, also while they are sent.
func TestMACFlood(t *testing.T) {
	hosts := newUnderlay(t, 2, 1500)
	for i, h := range hosts {
		h.reconcile(false, mesh(hosts, i, "blue", 10000, false), mesh(hosts, i, "red", 10001, true))
	}
	evil := hosts[0].tenant("blue", "t0")
	hosts[0].reconcile(false, mesh(hosts, 0, "blue", 10000, false), mesh(hosts, 0, "red", 10001, true))
	for _, h := range hosts {
		must(t, h.reach("red", vtep(0).Addr(), 0))
		for _, vpc := range []string{"blue", "red"} { // the kernel tells of a carrier up to a second late
			h.driver.mu.Lock()
			ns := netns.NsHandle(h.driver.spaces[hostops.NamespaceOf(vpc)].file.Fd())
			h.driver.mu.Unlock()
			carries(t, ns, inner)
		}
		_, err := h.driver.Observe(t.Context(), false) // what the start has caused is seen
		must(t, err)
		select {
		case <-h.driver.Changed():
		default:
		}
	}
	n := 1_000_000
	if testing.Short() {
		n = hostops.MaxLearnedBridge + 1000
	}
	before, drops := hosts[1].driver.Requests(), dropped(t)
	stop := hosts[0].probing("red", vtep(1).Addr())
	for i := range n {
		mac := cluster.MAC{2}
		binary.BigEndian.PutUint32(mac[1:], rand.Uint32())
		mac[5] = byte(i)
		evil.send(message(mac, "x"))
	}
	sent, answered := stop()
	drops = dropped(t) - drops // by this flood or another's, see undropped
	t.Logf("during %d frames, %d of %d probes of another VPC were answered; the kernel dropped %d packets", n, answered, sent, drops)
	if answered < sent && drops == 0 || answered < sent/2 {
		t.Errorf("%d of %d probes of another VPC were lost", sent-answered, sent)
	}
	for i, h := range hosts {
		fdb := func(device string) int {
			l, err := h.nl.LinkByName(device)
			must(t, err)
			list, err := h.nl.NeighList(0, unix.AF_BRIDGE)
			must(t, err)
			n := 0
			for _, e := range list {
				if e.LinkIndex == l.Attrs().Index || e.MasterIndex == l.Attrs().Index {
					n++
				}
			}
			return n
		}
		for device, limit := range map[string]int{"blue": hostops.MaxLearnedBridge, "mv4-10000": hostops.MaxLearnedTunnel} {
			// Both tables of a tunnel's port, and the entries that we set ourselves.
			got := fdb(device)
			t.Logf("host %d: %s has %d entries", i, device, got)
			if got > 2*limit+100 {
				t.Errorf("host %d: %s has %d FDB entries, want at most %d", i, device, got, 2*limit+100)
			}
		}
		if got := fdb("blue"); i == 0 && got < hostops.MaxLearnedBridge/2 {
			t.Errorf("the flood reached only %d entries: nothing was tested", got)
		}
	}
	select {
	case <-hosts[1].driver.Changed():
		t.Error("learned MACs woke the driver")
	default:
	}
	if got := hosts[1].driver.Requests(); got != before {
		t.Errorf("the flood cost %d netlink requests", got-before)
	}
	for i, h := range hosts {
		must(t, h.reach("red", vtep(1-i).Addr(), 1430))
		must(t, h.reach("blue", vtep(1-i).Addr(), 1430))
	}
	// A full table has room for a peer.
	v := mesh(hosts, 1, "blue", 10000, false)
	v.Tunnels[0].Peers = append(v.Tunnels[0].Peers, hostops.Peer{Node: "new", Underlay: stranger(1), VTEP: stranger(1)})
	if r := hosts[1].reconcile(false, v, mesh(hosts, 1, "red", 10001, true)); !r.Ready["blue"] {
		t.Errorf("a peer after the flood: %+v", r)
	}
}
