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
// source gets a few a second, and a share of the places.
const (
	perSource     = rate.Limit(10) // connections a second
	burst         = 50
	openPerSource = 32
	maxOpen       = 256
	maxSources    = 4096
)

// gate is a listener that closes what comes too often, or is too much.
type gate struct {
	net.Listener
	now func() time.Time

	mu      sync.Mutex
	sources map[netip.Prefix]*source
	open    int
}

// source is where connections come from.
type source struct {
	rate *rate.Limiter
	open int
}

func newGate(l net.Listener, now func() time.Time) *gate {
	return &gate{Listener: l, now: now, sources: map[netip.Prefix]*source{}}
}

// Accept returns the next connection that may stay.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if s := g.enter(sourceOf(c.RemoteAddr())); s != nil {
			return &passed{Conn: c, leave: sync.OnceFunc(func() { g.leave(s) })}, nil
		}
		_ = c.Close() // it is not ours to care for
	}
}

// enter takes a place, nil if there is none for that source.
func (g *gate) enter(p netip.Prefix) *source {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[p]
	if s == nil {
		if len(g.sources) >= maxSources {
			g.forget()
		}
		s = &source{rate: rate.NewLimiter(perSource, burst)}
		g.sources[p] = s
	}
	if !s.rate.AllowN(g.now(), 1) || s.open >= openPerSource || g.open >= maxOpen {
		return nil
	}
	s.open++
	g.open++
	return s
}

func (g *gate) leave(s *source) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.open--
	g.open--
}

// forget drops the sources without a connection: a flood from as many sources as
// that is held by maxOpen alone.
func (g *gate) forget() {
	for p, s := range g.sources {
		if s.open == 0 {
			delete(g.sources, p)
		}
	}
}

// sourceOf is an IPv4 address, or the /64 that a host of IPv6 has to itself.
func sourceOf(remote net.Addr) netip.Prefix {
	a, err := netip.ParseAddrPort(remote.String())
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
