package lab

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ping serves a Ping.
func (h *host) ping(p Ping, started func() error, stop <-chan struct{}) (any, error) {
	if !p.To.IsValid() {
		return nil, errors.New("ping: no address given")
	}
	if p.Interval <= 0 {
		p.Interval = 20 * time.Millisecond
	}
	if p.Timeout <= 0 {
		p.Timeout = time.Second
	}
	p.To = p.To.Unmap()
	var cookie [8]byte
	if _, err := rand.Read(cookie[:]); err != nil {
		return nil, fmt.Errorf("ping %s: %w", p.To, err)
	}
	e, err := newEcho(p.To.Is6(), binary.BigEndian.Uint64(cookie[:]), p.Size)
	if err != nil {
		return nil, err
	}
	var s *socket
	err = h.inNetns(p.Workload, func() error {
		s, err = icmpSocket(e.v6, p.DontFragment)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ping %s: %w", p.To, err)
	}
	if err := started(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	replies := make(chan reply, 256)
	go receiveReplies(s, e, p.To, replies) // ends when the socket closes
	r := sendRequests(s, e, p, replies, stop)
	err = s.close()
	for range replies { // until the receiver has ended
	}
	return r, err
}

type reply struct {
	seq uint64
	at  time.Time
}

// sendRequests is the loop of a ping: one goroutine, all of its state in the
// tally.
func sendRequests(s *socket, e echo, p Ping, replies <-chan reply, stop <-chan struct{}) PingResult {
	t := newTally(p.Timeout)
	to := sockaddr(p.To)
	send := func() {
		seq := t.send(time.Now())
		if err := s.sendTo(e.request(seq), to); err != nil {
			t.unsent(err)
		}
	}
	tick := time.NewTicker(p.Interval)
	defer tick.Stop()
	more := func() bool { return p.Count == 0 || t.result.Sent < p.Count }
	for send(); more(); {
		select {
		case <-tick.C:
			send()
			continue
		case r := <-replies:
			t.receive(r.seq, r.at)
			continue
		case <-stop:
		}
		break
	}
	late := time.NewTimer(p.Timeout)
	defer late.Stop()
	for !t.settled(time.Now()) {
		select {
		case r := <-replies:
			t.receive(r.seq, r.at)
		case <-late.C:
			return t.finish()
		}
	}
	return t.finish()
}

func receiveReplies(s *socket, e echo, from netip.Addr, replies chan<- reply) {
	defer close(replies)
	buf := make([]byte, 65536)
	for {
		n, sender, err := s.receiveFrom(buf)
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of the path: the request stays lost
		}
		b := buf[:n]
		if !e.v6 { // IPv4 raw sockets give the IP header too
			if n < 20 || n < int(b[0]&15)*4 {
				continue
			}
			b = b[int(b[0]&15)*4:]
		}
		if seq, ok := e.reply(b); ok && addrOf(sender) == from.WithZone("") {
			select {
			case replies <- reply{seq, time.Now()}:
			default: // the pinger has ended, or is 256 replies behind
			}
		}
	}
}

// icmpSocket opens a raw socket that receives echo replies only.
func icmpSocket(v6, dontFragment bool) (*socket, error) {
	family, protocol := unix.AF_INET, unix.IPPROTO_ICMP
	if v6 {
		family, protocol = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	s, err := newSocket(family, unix.SOCK_RAW, protocol)
	if err != nil {
		return nil, err
	}
	if v6 {
		var only unix.ICMPv6Filter
		for i := range only.Data {
			only.Data[i] = ^uint32(0)
		}
		only.Data[129/32] &^= 1 << (129 % 32)
		err = unix.SetsockoptICMPv6Filter(s.fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &only)
	} else {
		err = unix.SetsockoptInt(s.fd, unix.SOL_RAW, 1 /* ICMP_FILTER */, ^(1 << 0))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("filter replies: %w", err), s.close())
	}
	level, option, how := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT
	if dontFragment {
		how = unix.IP_PMTUDISC_PROBE
	}
	if v6 { // the values are the same
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	err = unix.SetsockoptInt(s.fd, level, option, how)
	if err == nil && v6 && dontFragment {
		err = unix.SetsockoptInt(s.fd, level, unix.IPV6_DONTFRAG, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set fragmentation: %w", err), s.close())
	}
	return s, nil
}
