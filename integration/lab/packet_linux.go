package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// packetSocket opens an AF_PACKET socket on a device of a namespace. protocol 0
// is for sending only.
func (h *host) packetSocket(workload, device string, protocol int) (*socket, *unix.SockaddrLinklayer, error) {
	if device == "" {
		device = UnderlayDevice
		if workload != "" {
			device = WorkloadDevice
		}
	}
	var s *socket
	addr := &unix.SockaddrLinklayer{Protocol: networkOrder(uint16(protocol))}
	err := h.inNetns(workload, func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return fmt.Errorf("open device %s of host %s: %w: %w", device, h.cfg.Name, err, ErrNotFound)
		}
		addr.Ifindex = dev.Index
		// Opened deaf, so that no frame of another device gets in before the bind.
		s, err = newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return s, addr, nil
}

func networkOrder(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

func (h *host) sendFrames(f Frames) (any, error) {
	if len(f.Frame) < 14 {
		return nil, fmt.Errorf("send frame of %d bytes: an Ethernet header has 14", len(f.Frame))
	}
	s, to, err := h.packetSocket(f.Workload, f.Device, 0)
	if err != nil {
		return nil, err
	}
	err = repeat(f.Count, f.Interval, func() error {
		if f.RandomSource {
			var mac [8]byte
			binary.NativeEndian.PutUint64(mac[:], rand.Uint64())
			mac[0] = mac[0]&^1 | 2 // unicast, locally administered
			copy(f.Frame[6:12], mac[:])
		}
		return s.sendTo(f.Frame, to)
	})
	if err != nil {
		err = fmt.Errorf("send frame: %w", err)
	}
	return nil, errors.Join(err, s.close())
}

// repeat does something count times, at least once.
func repeat(count int, interval time.Duration, do func() error) error {
	for i := range max(count, 1) {
		if i > 0 && interval > 0 {
			<-time.After(interval)
		}
		err := do()
		for errors.Is(err, unix.ENOBUFS) { // the device's queue is full for a moment
			<-time.After(100 * time.Microsecond)
			err = do()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *host) sendUDP(d Datagrams) (any, error) {
	if !d.To.IsValid() {
		return nil, errors.New("send datagram: no destination given")
	}
	if d.From.IsValid() && d.From.Addr().Is4() != d.To.Addr().Is4() {
		return nil, fmt.Errorf("send datagram from %s to %s: not of one address family", d.From, d.To)
	}
	family := unix.AF_INET6
	if d.To.Addr().Is4() {
		family = unix.AF_INET
	}
	var s *socket
	err := h.inNetns(d.Workload, func() error {
		var err error
		s, err = newSocket(family, unix.SOCK_DGRAM, unix.IPPROTO_UDP)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer s.close()
	if d.From.IsValid() {
		level, option := unix.IPPROTO_IPV6, unix.IPV6_TRANSPARENT // any source, ours or not
		if family == unix.AF_INET {
			level, option = unix.IPPROTO_IP, unix.IP_TRANSPARENT
		}
		if err := unix.SetsockoptInt(s.fd, level, option, 1); err != nil {
			return nil, fmt.Errorf("send datagram from %s: %w", d.From, err)
		}
		if err := unix.Bind(s.fd, sockaddrPort(d.From)); err != nil {
			return nil, fmt.Errorf("send datagram from %s: %w", d.From, err)
		}
	}
	to := sockaddrPort(d.To)
	if err := repeat(d.Count, d.Interval, func() error { return s.sendTo(d.Payload, to) }); err != nil {
		return nil, fmt.Errorf("send datagram to %s: %w", d.To, err)
	}
	return nil, nil
}

// sniffBuffer is the room for frames not yet counted, in bytes; the kernel may
// give less (net.core.rmem_max).
const sniffBuffer = 8 << 20

// maxKept frames of at most maxFrame bytes fit into an answer.
const (
	maxKept  = 64
	maxFrame = 2048
)

func (h *host) sniff(q Sniff, started func() error, stop <-chan struct{}) (any, error) {
	s, addr, err := h.packetSocket(q.Workload, q.Device, unix.ETH_P_ALL)
	if err != nil {
		return nil, err
	}
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sniffBuffer) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, sniffBuffer) // what is lost for want of room is counted
	}
	err = unix.Bind(s.fd, addr)
	if err == nil {
		err = started()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on device: %w", err), s.close())
	}
	go func() { // ends with the call
		<-stop
		_ = s.file.SetReadDeadline(time.Unix(1, 0))
	}()
	var r SniffResult
	buf := make([]byte, 65536)
	for {
		n, from, err := s.receiveFrom(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("listen on device: %w", err), s.close())
		}
		r.count(q, buf[:n], from)
	}
	for { // what was there before the stop
		n, from, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			break
		}
		r.count(q, buf[:n], from)
	}
	stats, err := unix.GetsockoptTpacketStats(s.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read packet statistics: %w", err), s.close())
	}
	r.Dropped = int(stats.Drops)
	return r, s.close()
}

func (r *SniffResult) count(q Sniff, frame []byte, from unix.Sockaddr) {
	ll, ok := from.(*unix.SockaddrLinklayer)
	if !ok || (ll.Pkttype == unix.PACKET_OUTGOING) != q.Match.Outgoing {
		return
	}
	r.Total++
	if !q.Match.fits(frame) {
		return
	}
	r.Count++
	if len(r.Frames) < min(q.Keep, maxKept) {
		r.Frames = append(r.Frames, append([]byte(nil), frame[:min(len(frame), maxFrame)]...))
	}
}
