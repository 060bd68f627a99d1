package integration

import (
	"bufio"
	"bytes"
	"context"
	be "encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// TestIsolation: two VPCs with the same peer network and the same tenants on
// the same hosts, their hosts, and a stranger on the underlay.
func TestIsolation(t *testing.T) {
	for _, underlay := range []lab.Underlay{lab.IPv4, lab.IPv6} {
		t.Run(string(underlay), func(t *testing.T) {
			ctx := within(t)
			m := newMesh(t, underlay)
			m.create(ctx, "red")
			red := m.workload(ctx, 0, "red", "red") // the address of jail1, on the same host
			m.broadcasts(ctx, red)
			m.strangers(ctx)
			m.tenants(ctx, red)
		})
	}
}

// broadcasts of vpc1 are heard by each of its workloads once, and not by red.
func (m *mesh) broadcasts(ctx context.Context, red lab.Workload) {
	m.t.Helper()
	heard, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: red.Host, Workload: red.Name, Match: lab.Match{Contains: []byte("for all of vpc1")}})
	m.must(err)
	var ears []*lab.SniffRun
	for _, w := range []lab.Workload{m.workloads[0], m.workloads[2]} {
		s, err := m.Lab.StartSniff(ctx, lab.Sniff{Host: w.Host, Workload: w.Name, Match: lab.Match{Contains: []byte("for all of vpc1")}})
		m.must(err)
		ears = append(ears, s)
	}
	from := m.workloads[1]
	m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: from.Host, Workload: from.Name, Frame: frame("for all of vpc1"), Count: 10, Interval: 5 * time.Millisecond}))
	m.awaitPings(ctx) // what was sent before has arrived
	for i, s := range ears {
		if got, err := s.Stop(ctx); err != nil || got.Count != 10 {
			m.t.Errorf("ear %d heard %d broadcasts, %v; want each of 10 once", i, got.Count, err)
		}
	}
	if got, err := heard.Stop(ctx); err != nil || got.Count != 0 {
		m.t.Errorf("another VPC heard %d broadcasts, %v; want none", got.Count, err)
	}
}

// tenants of vpc1, on the host of red and on another, reach neither that host
// nor red, whatever they send to the bridge or to all. Without protection they
// would.
func (m *mesh) tenants(ctx context.Context, red lab.Workload) {
	m.t.Helper()
	host := red.Host
	var out bytes.Buffer
	_, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{"cat", "/sys/class/net/vpc1/address"}, Stdout: &out})
	m.must(err)
	bridge, err := net.ParseMAC(strings.TrimSpace(out.String()))
	m.must(err)
	program := m.listen(ctx, host)
	attempts := func(when string, want ...string) {
		m.t.Helper()
		for _, w := range m.workloads[:2] {
			for i, dst := range []net.HardwareAddr{bridge, {255, 255, 255, 255, 255, 255}} {
				text := fmt.Sprintf("%s %s %d", when, w.Name, i)
				got := m.attempt(ctx, w, red, dst, text, program)
				for try := 0; len(got) < len(want) && try < 10; try++ { // a busy machine drops frames
					got = m.attempt(ctx, w, red, dst, fmt.Sprint(text, " ", try), program)
				}
				if !slices.Equal(got, want) {
					m.t.Errorf("%s, %s to %s: %q got through, want %q", when, w.Name, dst, got, want)
				}
			}
		}
	}
	attempts("sealed")
	m.must(m.Lab.Kill(ctx, host, "agent"))
	for _, tamper := range [][]string{
		{"nft-flush"},
		{"sysctl", "ipv4/conf/vpc1/rp_filter", "0"},
		{"sysctl", "ipv4/conf/vpc1/arp_ignore", "0"},
	} {
		m.must(m.Lab.Tamper(ctx, host, "", tamper...))
	}
	everything := []string{"VXLAN", "UDP", "ping"}
	h, err := m.Lab.Host(ctx, host)
	m.must(err)
	if h.Underlay[0].Addr().Is4() {
		everything = append(everything, "ARP")
	}
	attempts("exposed", everything...)
	m.must(m.Until(ctx, func() error {
		if err := m.Lab.StartServices(ctx, host, "agent"); err != nil { // it ends if the kernel has not let go of the killed one's lock
			return err
		}
		return m.nothingToDo(ctx, host)
	}))
	attempts("sealed again")
}

// attempt tries from a workload of vpc1 to get at red and its host, on which
// program listens, and tells what got through.
func (m *mesh) attempt(ctx context.Context, from, red lab.Workload, dst net.HardwareAddr, text string, program *bufio.Scanner) []string {
	m.t.Helper()
	target, err := m.Lab.Host(ctx, red.Host)
	m.must(err)
	peer, err := m.Lab.Host(ctx, m.hosts[2])
	m.must(err)
	p := packet{dst: dst, src: net.HardwareAddr{0x02, 0, 0, 0, 0, 0x98}, from: peer.Underlay[0].Addr(), to: target.Underlay[0].Addr()}
	inside := vxlan(10001, frame("VXLAN "+text))
	icmp := byte(1)
	if p.to.Is6() {
		icmp = 58
	}
	tries := []struct {
		name  string
		frame []byte
		ear   lab.Sniff // no Host: the program
	}{
		{"VXLAN", p.udp(4789, inside), lab.Sniff{Host: red.Host, Workload: red.Name, Match: lab.Match{Contains: []byte("VXLAN " + text)}}},
		{"UDP", p.udp(listenPort, []byte("UDP "+text)), lab.Sniff{}},
		{"ping", p.echo([]byte("ping " + text)), lab.Sniff{Host: red.Host, Match: lab.Match{IPProtocol: icmp, Contains: []byte("ping " + text), Outgoing: true}}},
		// The host's answer to us: tenants ask one another, too.
		{"ARP", p.arp(), lab.Sniff{Host: from.Host, Workload: from.Name, Match: lab.Match{EtherType: 0x0806, Contains: append(p.to.AsSlice(), p.src...)}}},
	}
	if p.to.Is6() {
		tries = tries[:3] // a kernel answers a neighbour solicitation only for an address of the device
	}
	runs := make([]*lab.SniffRun, len(tries))
	for i, try := range tries {
		if try.ear.Host != "" {
			runs[i], err = m.Lab.StartSniff(ctx, try.ear)
			m.must(err)
		}
		m.must(m.Lab.SendFrames(ctx, lab.Frames{Host: from.Host, Workload: from.Name, Frame: try.frame, Count: 10, Interval: time.Millisecond}))
	}
	m.awaitPings(ctx) // what was sent before has arrived
	m.must(m.Lab.SendUDP(ctx, lab.Datagrams{Host: red.Host, To: netip.AddrPortFrom(p.to, listenPort), Payload: []byte("end " + text)}))
	heard := map[string]bool{}
	for program.Scan() && program.Text() != "end "+text {
		heard["UDP"] = heard["UDP"] || program.Text() == "UDP "+text
	}
	if program.Text() != "end "+text {
		m.t.Fatalf("the host's program ended: %v", program.Err())
	}
	var got []string
	for i, try := range tries {
		if runs[i] != nil {
			r, err := runs[i].Stop(ctx)
			m.must(err)
			heard[try.name] = r.Count > 0
		}
		if heard[try.name] {
			got = append(got, try.name)
		}
	}
	return got
}

// listenPort is where a program listens on a host.
const listenPort = 7777

// listenWord in the environment makes the test binary such a program.
const listenWord = "MESHVPC_TEST_LISTEN"

// listen starts a program on a host that prints what it hears, a line each.
func (m *mesh) listen(ctx context.Context, host string) *bufio.Scanner {
	m.t.Helper()
	self, err := os.Executable()
	m.must(err)
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	var done sync.WaitGroup
	done.Go(func() {
		_, err := m.Lab.Exec(ctx, lab.Command{Host: host, Argv: []string{self}, Env: []string{listenWord + "=1"}, Stdout: w})
		w.CloseWithError(err)
	})
	m.t.Cleanup(func() {
		cancel()
		r.Close()
		done.Wait()
	})
	s := bufio.NewScanner(r)
	if !s.Scan() {
		m.t.Fatalf("listen on %s: %v", host, s.Err())
	}
	return s
}

// listening is the program.
func listening() error {
	c, err := net.ListenUDP("udp", &net.UDPAddr{Port: listenPort})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	for buf := make([]byte, 2000); ; {
		n, err := c.Read(buf)
		if err != nil {
			return err
		}
		fmt.Println(string(buf[:n]))
	}
}

// packet makes frames with a forged sender.
type packet struct {
	dst, src net.HardwareAddr
	from, to netip.Addr
}

func (p packet) udp(port uint16, payload []byte) []byte {
	b := be.BigEndian.AppendUint16([]byte{0x12, 0x34}, port)
	b = be.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(append(b, 0, 0), payload...)
	be.BigEndian.PutUint16(b[6:], p.pseudo(17, b))
	return p.ip(17, b)
}

func (p packet) echo(payload []byte) []byte {
	b := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, payload...)
	if p.to.Is4() {
		be.BigEndian.PutUint16(b[2:], checksum(b))
		return p.ip(1, b)
	}
	b[0] = 128
	be.BigEndian.PutUint16(b[2:], p.pseudo(58, b))
	return p.ip(58, b)
}

func (p packet) arp() []byte {
	b := slices.Concat(p.dst, p.src, []byte{0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1}, p.src, []byte{10, 10, 11, 98}, make([]byte, 6), p.to.AsSlice())
	return append(b, make([]byte, max(0, 60-len(b)))...)
}

func (p packet) ip(protocol byte, payload []byte) []byte {
	if p.to.Is6() {
		h := []byte{0x60, 0, 0, 0, 0, 0, protocol, 64}
		be.BigEndian.PutUint16(h[4:], uint16(len(payload)))
		return slices.Concat(p.dst, p.src, []byte{0x86, 0xdd}, h, p.from.AsSlice(), p.to.AsSlice(), payload)
	}
	h := slices.Concat([]byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0}, p.from.AsSlice(), p.to.AsSlice())
	be.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	be.BigEndian.PutUint16(h[10:], checksum(h))
	return slices.Concat(p.dst, p.src, []byte{0x08, 0x00}, h, payload)
}

// pseudo is the checksum with the pseudo header.
func (p packet) pseudo(protocol byte, payload []byte) uint16 {
	b := slices.Concat(p.from.AsSlice(), p.to.AsSlice(), be.BigEndian.AppendUint32(nil, uint32(len(payload))), []byte{0, 0, 0, protocol})
	return checksum(append(b, payload...))
}

// checksum is the Internet checksum, RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum, b = sum+uint32(be.BigEndian.Uint16(b)), b[2:]
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// strangers sends frames of vpc1's VNI from an address that is no peer's.
func (m *mesh) strangers(ctx context.Context) {
	m.t.Helper()
	to, ear := m.hearForged(ctx, m.workloads[1])
	m.must(m.Lab.SendUDP(ctx, lab.Datagrams{Host: lab.Stranger, To: to, Payload: vxlan(10000, frame("forged")), Count: 20, Interval: 5 * time.Millisecond}))
	m.awaitPings(ctx)
	if got, err := ear.Stop(ctx); err != nil || got.Count != 0 {
		m.t.Errorf("%d forged frames of a stranger arrived, %v; want none", got.Count, err)
	}
}

// hearForged listens in a workload for what is forged; to is where to send that.
func (m *mesh) hearForged(ctx context.Context, w lab.Workload) (to netip.AddrPort, ear *lab.SniffRun) {
	m.t.Helper()
	host, err := m.Lab.Host(ctx, w.Host)
	m.must(err)
	ear, err = m.Lab.StartSniff(ctx, lab.Sniff{Host: w.Host, Workload: w.Name, Match: lab.Match{Contains: []byte("forged")}})
	m.must(err)
	return netip.AddrPortFrom(host.Underlay[0].Addr(), 4789), ear
}

// vxlan is a frame as a datagram of a VNI (RFC 7348, 5).
func vxlan(vni uint32, frame []byte) []byte {
	return append([]byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}, frame...)
}

// frame is an Ethernet broadcast of a type that nobody answers.
func frame(text string) []byte {
	f := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 0x99, 0x88, 0xb5}, text...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}
