package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// greetText opens every greeting; the VNI follows, big endian.
const greetText = "meshvpc greeting\n"

// greetBuffer is the receive buffer of one group in bytes: what some thousand
// peers say between two calls of Greet.
const greetBuffer = 1 << 20

type greetKey struct {
	group  netip.Addr
	device string
	local  netip.Addr
}

// greeter is a socket that belongs to a multicast group.
type greeter struct {
	fd    int
	to    unix.Sockaddr
	heard map[cluster.VNI][]netip.Addr // since Greet was last called for it
}

// Greet implements hostops.Driver.
func (d *Driver) Greet(g hostops.Greeting) ([]netip.Addr, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := greetKey{g.Group, g.Device, g.Local}
	for k, old := range d.greeters { // a group has one device at a time
		if k.group == key.group && k != key {
			unix.Close(old.fd)
			delete(d.greeters, k)
		}
	}
	s := d.greeters[key]
	if s == nil {
		if err := within(d.ns, func() (err error) { s, err = newGreeter(key); return err }); err != nil {
			return nil, fmt.Errorf("greet group %s on %s: %w", g.Group, g.Device, err)
		}
		d.greeters[key] = s
	}
	s.drain()
	heard := s.heard[g.VNI]
	delete(s.heard, g.VNI)
	err := unix.Sendto(s.fd, binary.BigEndian.AppendUint32([]byte(greetText), uint32(g.VNI)), unix.MSG_DONTWAIT, s.to)
	if err != nil {
		err = fmt.Errorf("greet group %s on %s: %w", g.Group, g.Device, err)
	}
	return heard, err
}

func newGreeter(k greetKey) (*greeter, error) {
	v4 := k.group.Is4()
	family := unix.AF_INET6
	if v4 {
		family = unix.AF_INET
	}
	index, err := deviceIndex(k.device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var failed []error
	set := func(err error) { failed = append(failed, err) }
	set(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	set(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, greetBuffer))
	s := &greeter{fd: fd, heard: map[cluster.VNI][]netip.Addr{}}
	if v4 {
		m := &unix.IPMreqn{Multiaddr: k.group.As4(), Ifindex: int32(index)}
		set(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, m))
		set(unix.SetsockoptIPMreqn(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_IF, &unix.IPMreqn{Address: k.local.As4(), Ifindex: int32(index)}))
		set(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 0))
		set(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 64))
		to := &unix.SockaddrInet4{Port: hostops.GreetPort, Addr: k.group.As4()}
		set(unix.Bind(fd, to))
		s.to = to
	} else {
		set(unix.SetsockoptIPv6Mreq(fd, unix.IPPROTO_IPV6, unix.IPV6_ADD_MEMBERSHIP, &unix.IPv6Mreq{Multiaddr: k.group.As16(), Interface: uint32(index)}))
		set(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index))
		set(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0))
		set(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 64))
		to := &unix.SockaddrInet6{Port: hostops.GreetPort, Addr: k.group.As16(), ZoneId: uint32(index)}
		set(unix.Bind(fd, to))
		s.to = to
	}
	if err := errors.Join(failed...); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return s, nil
}

// drain reads what has come in. The bound is for a stranger who sends without
// end: what is beyond it waits for the next time, or is lost.
func (s *greeter) drain() {
	buf := make([]byte, 64)
	for range 10000 {
		n, from, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return
		}
		if n != len(greetText)+4 || string(buf[:len(greetText)]) != greetText {
			continue
		}
		var source netip.Addr
		switch from := from.(type) {
		case *unix.SockaddrInet4:
			source = netip.AddrFrom4(from.Addr)
		case *unix.SockaddrInet6:
			source = netip.AddrFrom16(from.Addr)
		}
		v := cluster.VNI(binary.BigEndian.Uint32(buf[len(greetText):]))
		const most = 1 << 14 // sources of one VNI between two calls
		if known := s.heard[v]; v.Validate() == nil && len(known) < most && len(s.heard) < most && !slices.Contains(known, source) {
			s.heard[v] = append(known, source)
		}
	}
}

// deviceIndex finds a device in the namespace of the calling thread.
func deviceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, r); err != nil {
		return 0, err
	}
	return int(r.Uint32()), nil
}
