package observe

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"

	"go.uber.org/zap"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// echoer sends ICMP echo requests by one socket for each family, and waits for none.
type echoer struct {
	log     *zap.Logger
	id      int
	socks   [2]echoSocket // of IPv4 and IPv6
	readers sync.WaitGroup

	mu      sync.Mutex
	seq     uint16
	waiting map[uint16]echo
}

// echoSocket is of one family; conn nil: it cannot be had.
type echoSocket struct {
	conn     *icmp.PacketConn
	raw      bool // else the kernel puts an identifier of its own
	request  icmp.Type
	reply    icmp.Type
	protocol int
}

// echo is a request that waits for its reply.
type echo struct {
	from  netip.Addr
	token []byte // which nobody knows who did not get the request
	tell  func()
}

const tokenSize = 16

// newEchoer opens the sockets: raw ones, or what the kernel has for who may not have
// those. An error says that there is none of either.
func newEchoer(log *zap.Logger) (*echoer, error) {
	e := &echoer{log: log.Named("observe"), id: rand.N(1 << 16), waiting: map[uint16]echo{}, socks: [2]echoSocket{
		{request: ipv4.ICMPTypeEcho, reply: ipv4.ICMPTypeEchoReply, protocol: 1},
		{request: ipv6.ICMPTypeEchoRequest, reply: ipv6.ICMPTypeEchoReply, protocol: 58},
	}}
	var errs []error
	for i, names := range [2][3]string{{"ip4:icmp", "udp4", "0.0.0.0"}, {"ip6:ipv6-icmp", "udp6", "::"}} {
		s := &e.socks[i]
		var err, plain error
		if s.conn, err = icmp.ListenPacket(names[0], names[2]); err == nil {
			s.raw = true
			e.onlyReplies(s)
		} else if s.conn, plain = icmp.ListenPacket(names[1], names[2]); plain != nil {
			s.conn = nil
			errs = append(errs, err, plain)
			continue
		}
		e.readers.Go(func() { e.read(s) })
	}
	if e.socks[0].conn == nil && e.socks[1].conn == nil {
		return nil, errors.Join(errs...)
	}
	return e, nil
}

// onlyReplies keeps from a raw socket what it does not wait for. Without that it reads
// more, and is as right.
func (e *echoer) onlyReplies(s *echoSocket) {
	var err error
	if s.protocol == 1 {
		var f ipv4.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv4.ICMPTypeEchoReply)
		err = s.conn.IPv4PacketConn().SetICMPFilter(&f)
	} else {
		var f ipv6.ICMPFilter
		f.SetAll(true)
		f.Accept(ipv6.ICMPTypeEchoReply)
		err = s.conn.IPv6PacketConn().SetICMPFilter(&f)
	}
	if err != nil {
		e.log.Debug("reading all ICMP of this host", zap.Error(err))
	}
}

// ask sends a request to each of the addresses. tell is called for each reply.
func (e *echoer) ask(at []netip.Addr, tell func()) error {
	var errs []error
	for _, a := range at {
		s := &e.socks[0]
		if a.Is6() {
			s = &e.socks[1]
		}
		if s.conn == nil {
			continue
		}
		token := make([]byte, tokenSize)
		_, _ = crand.Read(token) // never fails, since Go 1.24
		e.mu.Lock()
		e.seq++
		seq := e.seq
		e.waiting[seq] = echo{a, token, tell}
		e.mu.Unlock()
		m := icmp.Message{Type: s.request, Body: &icmp.Echo{ID: e.id, Seq: int(seq), Data: token}}
		b, err := m.Marshal(nil) // over IPv6 the kernel makes the checksum
		if err == nil {
			_, err = s.conn.WriteTo(b, s.address(a))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("echo request to %s: %w", a, err))
		}
	}
	return errors.Join(errs...)
}

func (s *echoSocket) address(a netip.Addr) net.Addr {
	if s.raw {
		return &net.IPAddr{IP: a.AsSlice()}
	}
	return &net.UDPAddr{IP: a.AsSlice()}
}

// forget ends the wait for all replies that have not come.
func (e *echoer) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	clear(e.waiting)
}

func (e *echoer) close() {
	e.forget()
	for i := range e.socks {
		if c := e.socks[i].conn; c != nil {
			_ = c.Close() // its reader ends
		}
	}
	e.readers.Wait()
}

// read takes replies until the socket is closed.
func (e *echoer) read(s *echoSocket) {
	b := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of what was sent, as other ICMP tells
			e.log.Debug("cannot hear an echo reply", zap.Error(err))
			continue
		}
		e.take(s, b[:n], addrOf(from))
	}
}

func addrOf(a net.Addr) netip.Addr {
	var ip net.IP
	switch a := a.(type) {
	case *net.IPAddr:
		ip = a.IP
	case *net.UDPAddr:
		ip = a.IP
	}
	out, _ := netip.AddrFromSlice(ip)
	return out.Unmap()
}

// take looks at a packet from whomever.
func (e *echoer) take(s *echoSocket, b []byte, from netip.Addr) {
	m, err := icmp.ParseMessage(s.protocol, b)
	if err != nil || m.Type != s.reply {
		return
	}
	body, ok := m.Body.(*icmp.Echo)
	if !ok || s.raw && body.ID != e.id {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	w, ok := e.waiting[uint16(body.Seq)]
	if !ok || w.from != from || !bytes.Equal(w.token, body.Data) {
		return
	}
	delete(e.waiting, uint16(body.Seq))
	w.tell()
}
