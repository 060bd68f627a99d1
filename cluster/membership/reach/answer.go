package reach

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// How many answers there are a second, for a source (an address of IPv4, a /64 of
// IPv6) and in all. A signature takes some 30 µs.
const (
	perSource  = rate.Limit(10)
	perHost    = rate.Limit(200)
	burst      = 20
	maxSources = 1024
)

// An address that cannot be had is tried again, at first after retryFirst, then
// at growing distances: the kernel may still be looking whether another host has it.
const (
	retryFirst = 10 * time.Millisecond
	retryMost  = time.Second
)

// Answerer answers for the holder of a key, at addresses of this host.
type Answerer struct {
	key  crypto.Signer
	info []byte // of its public part
	hash KeyHash
	log  *zap.Logger
	port uint16

	mu      sync.Mutex
	want    []netip.Addr
	conns   map[netip.Addr]*net.UDPConn
	said    map[netip.Addr]bool // that it cannot be had
	ended   bool
	missing chan struct{} // woken when some could not be had
	all     *rate.Limiter
	sources map[netip.Prefix]*rate.Limiter
	readers sync.WaitGroup
}

// NewAnswerer returns an Answerer, which answers once Move has said where. Run
// must be called for it to end. log nil: none.
func NewAnswerer(key crypto.Signer, log *zap.Logger) (*Answerer, error) {
	info, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("answer for a key: %w", err)
	}
	if log == nil {
		log = zap.NewNop()
	}
	return &Answerer{key: key, info: info, hash: sha256.Sum256(info), log: log.Named("reach"), port: Port, missing: make(chan struct{}, 1),
		conns: map[netip.Addr]*net.UDPConn{}, said: map[netip.Addr]bool{}, all: rate.NewLimiter(perHost, int(perHost)),
		sources: map[netip.Prefix]*rate.Limiter{}}, nil
}

// Move makes it answer at these addresses of this host, and no others. What
// cannot be had now is tried again by Run. It does not wait for anything.
func (a *Answerer) Move(to ...netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want = to
	for at, c := range a.conns {
		if !slices.Contains(to, at) {
			_ = c.Close() // its reader ends
			delete(a.conns, at)
		}
	}
	if !a.open() {
		a.lack()
	}
}

// Run keeps answering until ctx ends.
func (a *Answerer) Run(ctx context.Context) {
	wait := retryFirst
	timer := time.NewTimer(wait)
	defer timer.Stop()
	defer a.readers.Wait()
	for {
		select {
		case <-ctx.Done():
			a.end()
			return
		case <-a.missing:
			wait = retryFirst
		case <-timer.C:
			a.mu.Lock()
			all := a.open()
			a.mu.Unlock()
			if wait = min(2*wait, retryMost); all {
				continue // until some is missing again
			}
		}
		timer.Reset(wait)
	}
}

func (a *Answerer) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for _, c := range a.conns {
		_ = c.Close()
	}
}

// lack has Run try again soon.
func (a *Answerer) lack() {
	select {
	case a.missing <- struct{}{}:
	default:
	}
}

// open listens where it is wanted and does not yet, and reports whether it does
// everywhere; a.mu is held.
func (a *Answerer) open() (all bool) {
	if a.ended {
		return true
	}
	all = true
	for _, at := range a.want {
		if a.conns[at] != nil {
			continue
		}
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, a.port)))
		if err != nil {
			if !a.said[at] {
				a.log.Warn("cannot answer the servers at an underlay address yet, will retry", zap.Stringer("address", at), zap.Error(err))
			}
			a.said[at], all = true, false
			continue
		}
		delete(a.said, at)
		a.conns[at] = c
		a.readers.Go(func() { a.read(at, c) })
	}
	return all
}

// read answers what comes in by one socket until it is closed.
func (a *Answerer) read(at netip.Addr, c *net.UDPConn) {
	b := make([]byte, questionSize+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // open makes another
			a.log.Warn("cannot hear the servers, will retry", zap.Stringer("address", at), zap.Error(err))
			_ = c.Close()
			a.mu.Lock()
			if a.conns[at] == c {
				delete(a.conns, at)
			}
			a.mu.Unlock()
			a.lack()
			return
		}
		if reply := a.reply(b[:n], from.Addr().Unmap(), time.Now()); reply != nil {
			if _, err := c.WriteToUDPAddrPort(reply, from); err != nil {
				a.log.Debug("cannot answer", zap.Stringer("to", from), zap.Error(err)) // it asks again
			}
		}
	}
}

// reply is what to answer to a datagram, nil for nothing.
func (a *Answerer) reply(b []byte, from netip.Addr, now time.Time) []byte {
	q, ok := parseQuestion(b)
	if !ok || q.Key != a.hash || !a.may(from, now) {
		return nil
	}
	signed, err := q.sign(a.key, a.info)
	if err != nil {
		a.log.Error("cannot sign by the node's key", zap.Error(err))
		return nil
	}
	return signed.encode()
}

// may counts an answer to a source.
func (a *Answerer) may(from netip.Addr, now time.Time) bool {
	bits := from.BitLen()
	if from.Is6() {
		bits = 64
	}
	source := netip.PrefixFrom(from.WithZone(""), bits).Masked()
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.sources[source]
	if l == nil {
		if len(a.sources) >= maxSources {
			clear(a.sources) // perHost bounds them all
		}
		l = rate.NewLimiter(perSource, burst)
		a.sources[source] = l
	}
	return l.AllowN(now, 1) && a.all.AllowN(now, 1)
}
