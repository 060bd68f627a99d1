package membership

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// What strangers may cost: a TLS handshake is a millisecond of work, so each
// source gets a few a second, and all together as many as are read at a time.
const (
	perSource  = rate.Limit(10) // connections a second
	burst      = 50
	maxSources = 4096
	maxOpen    = 256
)

// gate is a listener that closes what comes too often, or is too much. It is for
// one caller of Accept.
type gate struct {
	net.Listener
	now     func() time.Time
	sources map[netip.Prefix]*rate.Limiter
	open    chan struct{} // a place for each open connection
}

func newGate(l net.Listener, now func() time.Time) *gate {
	return &gate{Listener: l, now: now, sources: map[netip.Prefix]*rate.Limiter{}, open: make(chan struct{}, maxOpen)}
}

// Accept returns the next connection that may stay.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !g.limiter(sourceOf(c)).AllowN(g.now(), 1) {
			_ = c.Close() // it is not ours to care for
			continue
		}
		select {
		case g.open <- struct{}{}:
			return &passed{Conn: c, leave: sync.OnceFunc(func() { <-g.open })}, nil
		default:
			_ = c.Close()
		}
	}
}

// limiter is a source's. When there are too many sources to know, all are
// forgotten: a flood from as many is not held by this, but by maxOpen.
func (g *gate) limiter(p netip.Prefix) *rate.Limiter {
	l := g.sources[p]
	if l == nil {
		if len(g.sources) >= maxSources {
			clear(g.sources)
		}
		l = rate.NewLimiter(perSource, burst)
		g.sources[p] = l
	}
	return l
}

// sourceOf is an IPv4 address, or the /64 that a host of IPv6 has to itself.
func sourceOf(c net.Conn) netip.Prefix {
	a, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Prefix{}
	}
	addr := a.Addr().Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// passed gives its place back once.
type passed struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (p *passed) Close() error {
	defer p.leave()
	err := p.Conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
