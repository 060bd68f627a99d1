package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// paired is mesh with a tunnel of its own to each of own, with pair VNIs 100 +
// the sum of both ends. The flags say what sends; sharedSends is for own's part
// in the shared tunnel, which is without them if it is nil.
func paired(hosts []*host, self int, v6 bool, own []int, sharedSends *bool, ownSends bool) hostops.VPC {
	v := mesh(hosts, self, "blue", 10000, v6)
	shared := v.Tunnels[0]
	v.Tunnels = nil
	var peers []hostops.Peer
	for i := range hosts {
		if i == self {
			continue
		}
		p := shared.Peers[slices.IndexFunc(shared.Peers, func(p hostops.Peer) bool { return p.Node == fmt.Sprint("n", i) })]
		if !slices.Contains(own, i) {
			peers = append(peers, p)
			continue
		}
		v.Tunnels = append(v.Tunnels, hostops.Tunnel{
			Pair: cluster.VNI(100 + i + self), Local: shared.Local, Device: shared.Device, Port: shared.Port,
			ReceiveOnly: !ownSends, Peers: []hostops.Peer{p},
		})
		if sharedSends != nil {
			p.ReceiveOnly = !*sharedSends
			peers = append(peers, p)
		}
	}
	shared.ReceiveOnly = !slices.ContainsFunc(peers, func(p hostops.Peer) bool { return !p.ReceiveOnly })
	if shared.Peers = peers; len(peers) > 0 {
		v.Tunnels = append(v.Tunnels, shared)
	}
	return v
}

// stream sends numbered frames from one tenant to another, one a millisecond and
// each when the one before has arrived, so that no queue overflows.
type stream struct {
	name     string
	from, to *tenant
	dst      cluster.MAC

	tick              chan struct{} // receives after each frame, if somebody waits
	stop              atomic.Bool
	sent, lost, twice int
}

func (s *stream) run(t *testing.T) {
	defer close(s.tick)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	seen := uint64(0)
	buf := make([]byte, 2000)
	for !s.stop.Load() {
		<-pace.C
		s.sent++
		payload := binary.BigEndian.AppendUint64([]byte(s.name+":"), uint64(s.sent))
		s.from.send(frame(s.dst, s.from.mac, testType, append(payload, make([]byte, 46)...)))
		for deadline := time.Now().Add(time.Second); seen < uint64(s.sent); {
			n, from, err := unix.Recvfrom(s.to.fd, buf, 0)
			if time.Now().After(deadline) {
				s.lost++
				break
			}
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				t.Error(err)
				return
			}
			if ll, ok := from.(*unix.SockaddrLinklayer); (ok && ll.Pkttype == unix.PACKET_OUTGOING) ||
				n < 14+len(payload) || string(buf[14:14+len(s.name)+1]) != s.name+":" {
				continue
			}
			got := binary.BigEndian.Uint64(buf[14+len(s.name)+1:])
			switch {
			case got <= seen:
				s.twice++
			case got == uint64(s.sent):
				seen = got
			}
		}
		seen = uint64(s.sent)
		select {
		case s.tick <- struct{}{}:
		default:
		}
	}
}

// TestPairHandover: a host whose pairs go from the shared tunnel to their own and
// back loses no frame, neither broadcasts nor unicasts, also those to a MAC that says
// nothing, and those of two that talk to each other. How often a frame came twice is
// logged. The two other hosts go on sharing a tunnel.
func TestPairHandover(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(map[bool]string{false: "ipv4", true: "ipv6"}[v6], func(t *testing.T) {
			hosts, _ := meshed(t, 3, v6)
			var streams []*stream
			for i := range 2 {
				for j, kind := range []string{"broadcast", "unicast"} {
					name := fmt.Sprintf("%s from %d", kind, i)
					s := &stream{name: name, dst: everybody, tick: make(chan struct{}),
						from: hosts[i].tenant("blue", fmt.Sprintf("f%d", j)), to: hosts[1-i].tenant("blue", fmt.Sprintf("t%d", j))}
					if kind == "unicast" {
						s.dst = s.to.mac
						s.to.send(message(s.to.mac, "here I am")) // and never again
					}
					streams = append(streams, s)
				}
			}
			talkers := [2]*tenant{hosts[0].tenant("blue", "talk"), hosts[1].tenant("blue", "talk")}
			for i, from := range talkers {
				to := talkers[1-i]
				streams = append(streams, &stream{name: fmt.Sprint("talk of ", i), dst: to.mac, tick: make(chan struct{}), from: from, to: to})
			}
			var wg sync.WaitGroup
			for _, s := range streams {
				wg.Go(func() { s.run(t) })
			}
			yes, no := true, false
			for k, phase := range []struct {
				name               string
				shared             *bool
				ownThere, ownSends bool
			}{
				{"preparing", &yes, true, false},
				{"active", &no, true, true},
				{"p2p", nil, true, true},
				{"restoring", &no, true, true},
				{"retiring", &yes, true, false},
				{"none", &yes, false, false},
			} {
				for n := range hosts {
					i := (n + k) % 3 // one is ahead of the others, in turn
					own := []int{0}
					if i == 0 {
						own = []int{1, 2}
					}
					v := mesh(hosts, i, "blue", 10000, v6)
					if phase.ownThere {
						v = paired(hosts, i, v6, own, phase.shared, phase.ownSends)
					}
					if r := hosts[i].reconcile(false, v); !r.Ready["blue"] || r.Repairs != 0 {
						t.Errorf("%s at %d: %+v", phase.name, i, r)
					}
					for _, s := range streams { // frames flow in this state
						for range 20 {
							<-s.tick
						}
					}
				}
			}
			for _, s := range streams {
				s.stop.Store(true)
			}
			wg.Wait()
			for _, s := range streams {
				t.Logf("%s: %d frames, %d lost, %d arrived twice", s.name, s.sent, s.lost, s.twice)
				if s.lost > 0 || s.sent < 10 {
					t.Errorf("%s: %d of %d frames lost", s.name, s.lost, s.sent)
				}
			}
			for i, h := range hosts {
				for j := range hosts {
					if i != j {
						must(t, h.reach("blue", vtep(j).Addr(), 1430))
					}
				}
			}
		})
	}
}

// TestMixedBroadcastOnce: two hosts share a tunnel, a third has pairs' tunnels
// to both; what one sends arrives once at each other.
func TestMixedBroadcastOnce(t *testing.T) {
	for _, all := range []bool{false, true} {
		hosts := newUnderlay(t, 3, 1500)
		var xs []*tenant
		for i, h := range hosts {
			own := []int{2}
			if all || i == 2 {
				own = []int{0, 1, 2}
			}
			if r := h.reconcile(false, paired(hosts, i, true, own, nil, true)); !r.Ready["blue"] {
				t.Fatalf("host %d: %+v", i, r)
			}
			xs = append(xs, h.tenant("blue", "t0"))
		}
		for i, h := range hosts {
			for j := range hosts {
				if i != j {
					must(t, h.reach("blue", vtep(j).Addr(), 1430))
				}
			}
		}
		for i, from := range xs {
			for j := range 10 {
				from.send(message(from.mac, fmt.Sprint("m", j)))
			}
			for k, x := range xs {
				if k == i {
					continue
				}
				got := x.until(fmt.Sprint("end", i, k), func() { from.send(message(from.mac, fmt.Sprint("end", i, k))) })
				got = slices.DeleteFunc(got, func(s string) bool { return s[0] != 'm' })
				if len(got) < 5 || len(kinds(slices.Clone(got))) != len(got) {
					t.Errorf("all pairs: %v: host %d received %v from %d, want each of ten messages once", all, k, got, i)
				}
			}
			next := xs[(i+1)%3]
			over := fmt.Sprint("over", i)
			got := from.until(over, func() { next.send(message(next.mac, over)) })
			if slices.ContainsFunc(got, func(s string) bool { return s[0] == 'm' }) {
				t.Errorf("host %d got back %v", i, got)
			}
		}
	}
}

// TestForgedPairFramesAreDropped: a pair's VNI is for its peer alone, not for
// strangers and not for other peers of the VPC.
func TestForgedPairFramesAreDropped(t *testing.T) {
	hosts := newUnderlay(t, 4, 1500) // 3 is a stranger
	for i, h := range hosts[:3] {
		h.reconcile(false, paired(hosts[:3], i, true, []int{0, 1, 2}, nil, true))
	}
	x := hosts[0].tenant("blue", "t0")
	src := cluster.MAC{2, 0, 0, 0, 0, 9}
	say := func(from int, vni cluster.VNI, text string) {
		vxlan(t, hosts[from].ns, hosts[from].v6, hosts[0].v6, vni, message(src, text))
	}
	say(3, 101, "stranger")
	say(2, 101, "wrong peer")
	say(1, 102, "wrong peer")
	if got := x.until("end", func() { say(1, 101, "end") }); len(got) > 0 {
		t.Errorf("received %v", got)
	}
	must(t, kernel{t: t, ns: hosts[0].ns}.WipeFilter())
	repeat(func() { say(2, 101, "while wiped") })
	if diff := cmp.Diff([]string{"while wiped"}, kinds(x.until("end again", func() { say(1, 101, "end again") }))); diff != "" {
		t.Errorf("without filter (-want +got):\n%s", diff)
	}
}

// TestMulticastFrames: what floods to a group arrives once at all who joined it,
// and at none who did not.
func TestMulticastFrames(t *testing.T) {
	for i, group := range []netip.Addr{netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("ff05::1:1")} {
		all := newUnderlay(t, 4, 1500)
		hosts, stranger := all[:3], all[3]
		var xs []*tenant
		for j, h := range hosts {
			v := mesh(hosts, j, "blue", 10000, i == 1)
			v.Tunnels[0].Group, v.Tunnels[0].ToGroup = group, j == 0
			h.reconcile(false, v)
			if !h.inGroup(group) {
				t.Errorf("host %d is not in group %s", j, group)
			}
			xs = append(xs, h.tenant("blue", "t0"))
		}
		check := func(when string) {
			t.Helper()
			for j := range 10 {
				xs[0].send(message(xs[0].mac, fmt.Sprint(when, j)))
			}
			for k, x := range xs[1:] {
				end := fmt.Sprint("end ", when, k)
				got := x.until(end, func() { xs[0].send(message(xs[0].mac, end)) })
				got = slices.DeleteFunc(got, func(s string) bool { return !strings.HasPrefix(s, when) })
				if len(got) < 5 || len(kinds(slices.Clone(got))) != len(got) {
					t.Errorf("%s, %s: host %d received %v, want each of ten messages once", group, when, k+1, got)
				}
			}
		}
		check("to the group")
		v := mesh(hosts, 0, "blue", 10000, i == 1)
		v.Tunnels[0].Group = group
		hosts[0].reconcile(false, v)
		check("by a list")
		v.Tunnels[0].ToGroup = true
		hosts[0].reconcile(false, v)
		check("to the group again")
		// The filter judges frames of the group by their sender.
		text := fmt.Sprint("from a peer", i)
		toGroup := func(h *host, text string) {
			h.sendToGroup(group, encap(10000, message(cluster.MAC{2, 0, 0, 0, 0, 7}, text)))
		}
		repeat(func() { toGroup(stranger, "from a stranger") })
		if got := xs[1].until(text, func() { toGroup(hosts[0], text) }); slices.Contains(got, "from a stranger") {
			t.Errorf("%s: received a stranger's frame", group)
		}
		for j, h := range hosts {
			h.reconcile(false, mesh(hosts, j, "blue", 10000, i == 1))
			if h.inGroup(group) {
				t.Errorf("host %d is in group %s though its tunnel left it", j, group)
			}
		}
	}
}

// inGroup reports whether the host receives by a multicast group.
func (h *host) inGroup(group netip.Addr) bool {
	h.t.Helper()
	file, text := "igmp6", fmt.Sprintf("%x", group.AsSlice())
	if group.Is4() {
		b := group.As4()
		file, text = "igmp", fmt.Sprintf("%02X%02X%02X%02X", b[3], b[2], b[1], b[0])
	}
	var all []byte
	must(h.t, within(int(h.ns), func() (err error) {
		all, err = os.ReadFile("/proc/thread-self/net/" + file)
		return err
	}))
	return strings.Contains(string(all), text)
}

// sendToGroup sends a datagram to the group's VXLAN port.
func (h *host) sendToGroup(group netip.Addr, b []byte) {
	h.t.Helper()
	u, err := h.nl.LinkByName("u0")
	must(h.t, err)
	must(h.t, within(int(h.ns), func() error {
		family, to := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Port: 4789, Addr: group.As16(), ZoneId: uint32(u.Attrs().Index)})
		if group.Is4() {
			family, to = unix.AF_INET, &unix.SockaddrInet4{Port: 4789, Addr: group.As4()}
		}
		fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if group.Is4() {
			err = unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Ifindex: int32(u.Attrs().Index)})
		} else {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, u.Attrs().Index)
		}
		if err != nil {
			return err
		}
		return unix.Sendto(fd, b, 0, to)
	}))
}

// TestGreet: greetings are heard by those in the group, once, from whom they
// come, and not by the other group or VNI.
func TestGreet(t *testing.T) {
	for i, group := range []netip.Addr{netip.MustParseAddr("239.1.1.1"), netip.MustParseAddr("ff05::1:1")} {
		hosts := newUnderlay(t, 3, 1500)
		greet := func(h *host, vni cluster.VNI) []netip.Addr {
			t.Helper()
			g := hostops.Greeting{Group: group, Device: "u0", Local: h.v4, VNI: vni}
			if i == 1 {
				g.Local = h.v6
			}
			heard, err := h.driver.Greet(g)
			must(t, err)
			return heard
		}
		for _, h := range hosts {
			if got := greet(h, 7); len(got) > 0 && h == hosts[0] {
				t.Errorf("the first has heard %v", got)
			}
		}
		want := map[netip.Addr]bool{}
		for _, h := range hosts[1:] {
			if i == 0 {
				want[h.v4] = true
			} else {
				want[h.v6] = true
			}
		}
		for deadline := time.Now().Add(10 * time.Second); len(want) > 0; {
			if time.Now().After(deadline) {
				t.Fatalf("group %s: nothing heard from %v", group, want)
			}
			for _, h := range hosts[1:] {
				greet(h, 7)
			}
			for _, a := range greet(hosts[0], 7) {
				delete(want, a)
			}
		}
		if got := greet(hosts[0], 8); len(got) > 0 {
			t.Errorf("heard %v by another VNI", got)
		}
	}
}
