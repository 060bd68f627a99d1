package membership

import (
	"errors"
	"net"
	"net/netip"
	"slices"
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

// gate is a listener that closes what comes too often, or is too much. When all
// places are taken, who has most of them loses its oldest to who has fewer, so
// that no few sources keep the others out by being slow.
type gate struct {
	net.Listener
	now func() time.Time

	mu      sync.Mutex
	sources map[netip.Prefix]*source
	open    int
	entered int // ever
}

// source is where connections come from.
type source struct {
	rate *rate.Limiter
	open []*passed // the oldest first
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
		if p := g.enter(sourceOf(c.RemoteAddr()), c); p != nil {
			return p, nil
		}
		_ = c.Close() // it is not ours to care for
	}
}

// enter gives a connection a place, nil if there is none for that source.
func (g *gate) enter(from netip.Prefix, c net.Conn) *passed {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[from]
	if s == nil {
		if len(g.sources) >= maxSources {
			g.forget()
		}
		s = &source{rate: rate.NewLimiter(perSource, burst)}
		g.sources[from] = s
	}
	if !s.rate.AllowN(g.now(), 1) || len(s.open) >= openPerSource {
		return nil
	}
	if g.open >= maxOpen {
		most := g.busiest()
		if len(most.open) <= len(s.open) {
			return nil
		}
		_ = most.open[0].Conn.Close() // whoever serves it sees that, and closes it, too
		g.remove(most, most.open[0])
	}
	p := &passed{Conn: c, number: g.entered}
	p.leave = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.remove(s, p)
	}
	s.open = append(s.open, p)
	g.open++
	g.entered++
	return p
}

// busiest is the source with most connections, of several that with the oldest.
func (g *gate) busiest() *source {
	most := &source{}
	for _, s := range g.sources {
		if n := len(s.open); n > len(most.open) || n > 0 && n == len(most.open) && s.open[0].number < most.open[0].number {
			most = s
		}
	}
	return most
}

// remove gives a place back, once.
func (g *gate) remove(s *source, p *passed) {
	if i := slices.Index(s.open, p); i >= 0 {
		s.open = slices.Delete(s.open, i, i+1)
		g.open--
	}
}

// forget drops the sources without a connection: a flood from as many sources as
// that is held by maxOpen alone.
func (g *gate) forget() {
	for p, s := range g.sources {
		if len(s.open) == 0 {
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

// passed gives its place back when it is closed.
type passed struct {
	net.Conn
	number int
	leave  func()
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
