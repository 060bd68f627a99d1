package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// Sizes of headers in bytes.
const (
	header4    = 20
	header6    = 40
	headerICMP = 8
)

// Buffers of a pinger's socket in bytes, which the kernel doubles: a second of
// full-size requests at the host's budget of probes, three times over for what
// waits on an underlay's own neighbour discovery, and all their answers at once.
// With less, peers that are off would take the room of those that are not.
const (
	sendBuffer    = 1 << 20
	receiveBuffer = 1 << 20
)

type pingKey struct {
	namespace string
	v6        bool
}

// pinger is one raw ICMP socket in a VPC's namespace, shared by all pings.
type pinger struct {
	file *os.File
	v6   bool
	id   uint16

	mu      sync.Mutex
	next    uint16 // the newest sequence number in use
	last    uint16 // the newest that is over with all before it
	waiting map[uint16]waiter
}

type waiter struct {
	from   netip.Addr
	sent   time.Time
	answer func(time.Duration)
}

// Send implements hostops.Driver.
func (d *Driver) Send(e hostops.Echo, answer func(time.Duration)) error {
	if err := d.send(e, answer); err != nil {
		return fmt.Errorf("ping %s in VPC %s: %w", e.To, e.VPC, err)
	}
	return nil
}

func (d *Driver) send(e hostops.Echo, answer func(time.Duration)) error {
	p, err := d.pinger(hostops.NamespaceOf(e.VPC), e.To.Is6())
	if err != nil {
		return err
	}
	seq, err := p.expect(waiter{e.To, time.Now(), answer})
	if err != nil {
		return err
	}
	if err := p.send(e.To, seq, e.Size); err != nil {
		p.take(seq, e.To)
		return err
	}
	return nil
}

// pinger returns the socket for a namespace, opening it at the first ping.
func (d *Driver) pinger(namespace string, v6 bool) (*pinger, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := pingKey{namespace, v6}
	if p := d.pingers[key]; p != nil {
		return p, nil
	}
	sp := d.spaces[namespace]
	if sp == nil || sp.state.Owner == 0 {
		return nil, fmt.Errorf("namespace %s: %w", namespace, os.ErrNotExist)
	}
	var p *pinger
	err := within(int(sp.file.Fd()), func() (err error) {
		p, err = openPinger(v6)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.pingers[key] = p
	d.wg.Go(p.read)
	return p, nil
}

// openPinger runs in the namespace.
func openPinger(v6 bool) (*pinger, error) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if v6 {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	fd, err := unix.Socket(family, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, fmt.Errorf("open ICMP socket: %w", err)
	}
	p := &pinger{file: os.NewFile(uintptr(fd), "icmp"), v6: v6, id: uint16(rand.Uint32()), waiting: map[uint16]waiter{}}
	if err := errors.Join(never(fd, v6), buffers(fd)); err != nil {
		p.file.Close()
		return nil, fmt.Errorf("set up ICMP socket: %w", err)
	}
	return p, nil
}

// never lets the kernel neither fragment what is sent nor deliver what is no
// echo reply.
func never(fd int, v6 bool) error {
	if v6 {
		var replies unix.ICMPv6Filter
		for i := range replies.Data {
			replies.Data[i] = ^uint32(0)
		}
		const reply = 129
		replies.Data[reply>>5] &^= 1 << (reply & 31)
		return errors.Join(
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 1),
			unix.SetsockoptICMPv6Filter(fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &replies))
	}
	const icmpFilter, reply = 1, 0 // ICMP_FILTER takes the types to refuse
	return errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE),
		unix.SetsockoptInt(fd, unix.SOL_RAW, icmpFilter, ^(1<<reply)))
}

// buffers sizes the socket's queues.
func buffers(fd int) error {
	for _, b := range []struct{ force, plain, size int }{
		{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, sendBuffer}, {unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, receiveBuffer},
	} {
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.force, b.size) == nil {
			continue
		}
		// In a user namespace the host's limit must do.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, b.plain, b.size); err != nil {
			return err
		}
	}
	return nil
}

// expect reserves a sequence number for w. What is older than MaxRTT is over.
func (p *pinger) expect(w waiter) (uint16, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.last != p.next {
		if old, ok := p.waiting[p.last+1]; ok && w.sent.Sub(old.sent) < hostops.MaxRTT {
			break
		}
		p.last++
		delete(p.waiting, p.last)
	}
	if p.next+1 == p.last {
		return 0, hostops.ErrCongested
	}
	p.next++
	p.waiting[p.next] = w
	return p.next, nil
}

// take ends the wait for an answer, if somebody waits for it.
func (p *pinger) take(seq uint16, from netip.Addr) (waiter, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w, ok := p.waiting[seq]
	if !ok || w.from != from {
		return waiter{}, false
	}
	delete(p.waiting, seq)
	return w, true
}

// send writes one echo request whose IP packet has size bytes, or fails at once.
func (p *pinger) send(to netip.Addr, seq uint16, size int) error {
	ip := header4
	if p.v6 {
		ip = header6
	}
	b := make([]byte, max(size-ip, headerICMP))
	b[0] = 8
	if p.v6 {
		b[0] = 128
	}
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[6:], seq)
	var sa unix.Sockaddr = &unix.SockaddrInet6{Addr: to.As16()}
	if !p.v6 {
		binary.BigEndian.PutUint16(b[2:], checksum(b)) // over IPv6 the kernel does it
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	}
	rc, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	if err := rc.Write(func(fd uintptr) bool {
		sent = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, sa)
		return true // never wait: the queue may be full of packets to peers that are off
	}); err != nil {
		return err
	}
	if errors.Is(sent, unix.EAGAIN) || errors.Is(sent, unix.ENOBUFS) {
		return fmt.Errorf("%w: %w", hostops.ErrCongested, sent)
	}
	return sent
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// read hands replies to those who wait for them, until the socket is closed.
func (p *pinger) read() {
	rc, err := p.file.SyscallConn()
	if err != nil {
		return
	}
	buf := make([]byte, 60+headerICMP) // all that deliver looks at
	for {
		var n int
		var from syscall.Sockaddr // package unix asks the kernel each time of what protocol the socket is
		var got error
		err := rc.Read(func(fd uintptr) bool {
			n, from, got = syscall.Recvfrom(int(fd), buf, 0)
			return !errors.Is(got, unix.EAGAIN)
		})
		if err != nil {
			return // closed
		}
		if got == nil { // else an ICMP error of some earlier ping: it gets no answer
			p.deliver(buf[:n], from, time.Now())
		}
	}
}

func (p *pinger) deliver(b []byte, from syscall.Sockaddr, at time.Time) {
	want, src := byte(129), netip.Addr{}
	switch sa := from.(type) {
	case *syscall.SockaddrInet4: // the IPv4 header comes along
		if len(b) < header4 || len(b) < int(b[0]&15)*4 {
			return
		}
		want, src, b = 0, netip.AddrFrom4(sa.Addr), b[int(b[0]&15)*4:]
	case *syscall.SockaddrInet6:
		src = netip.AddrFrom16(sa.Addr)
	}
	if len(b) < headerICMP || b[0] != want || binary.BigEndian.Uint16(b[4:]) != p.id {
		return
	}
	if w, ok := p.take(binary.BigEndian.Uint16(b[6:]), src); ok && at.Sub(w.sent) <= hostops.MaxRTT {
		w.answer(at.Sub(w.sent))
	}
}

// close ends read; what was sent gets no answer any more.
func (p *pinger) close() { p.file.Close() }
