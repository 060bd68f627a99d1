package reach

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"
)

// Asker asks many again and again by one socket for each family. It sends each
// question once and waits for nothing: whoever asks says by Forget when answers are
// too late. It is safe for concurrent use.
type Asker struct {
	log     *zap.Logger
	port    uint16
	conns   [2]*net.UDPConn // of IPv4 and IPv6; nil: the host has no such family
	readers sync.WaitGroup

	mu      sync.Mutex
	waiting map[[nonceSize]byte]asked
}

// asked is a question that waits for its answer.
type asked struct {
	question
	from     netip.AddrPort // where the answer comes from
	answered *atomic.Bool   // by this address or another of the same host
	tell     func()
}

// NewAsker opens the sockets; Close closes them. An error says that this host has
// neither family. log nil: none.
func NewAsker(log *zap.Logger) (*Asker, error) {
	if log == nil {
		log = zap.NewNop()
	}
	a := &Asker{log: log.Named("reach"), port: Port, waiting: map[[nonceSize]byte]asked{}}
	var errs [2]error
	for i, network := range []string{"udp4", "udp6"} {
		if a.conns[i], errs[i] = net.ListenUDP(network, nil); errs[i] == nil {
			a.readers.Go(func() { a.read(a.conns[i]) })
		}
	}
	if a.conns[0] == nil && a.conns[1] == nil {
		return nil, fmt.Errorf("ask hosts: %w", errors.Join(errs[:]...))
	}
	return a, nil
}

// Ask sends the holder of a key one question at each of its addresses. answered is
// called at the first good answer, at most once, not after Forget has returned, and
// must not block. An error tells what could not be sent.
func (a *Asker) Ask(key KeyHash, at []netip.Addr, answered func()) error {
	var errs []error
	done := new(atomic.Bool)
	for _, addr := range at {
		q := newQuestion(key, addr)
		to := netip.AddrPortFrom(addr, a.port)
		c := a.conns[0]
		if addr.Is6() {
			c = a.conns[1]
		}
		if c == nil {
			continue
		}
		a.mu.Lock()
		a.waiting[q.Nonce] = asked{q, to, done, answered}
		a.mu.Unlock()
		if _, err := c.WriteToUDPAddrPort(q.encode(), to); err != nil {
			errs = append(errs, fmt.Errorf("ask at %s: %w", addr, cause(err)))
		}
	}
	return errors.Join(errs...)
}

// Forget ends the wait for all answers that have not come.
func (a *Asker) Forget() {
	a.mu.Lock()
	defer a.mu.Unlock()
	clear(a.waiting)
}

// Close ends all; no answer is told any more when it has returned.
func (a *Asker) Close() {
	a.Forget()
	for _, c := range a.conns {
		if c != nil {
			_ = c.Close() // its reader ends
		}
	}
	a.readers.Wait()
}

// read takes answers until its socket is closed.
func (a *Asker) read(c *net.UDPConn) {
	b := make([]byte, answerMost+1)
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of what was sent, as ICMP tells
			a.log.Debug("cannot hear an answer", zap.Error(err))
			continue
		}
		a.take(b[:n], netip.AddrPortFrom(from.Addr().Unmap(), from.Port()))
	}
}

// take looks at a datagram from whomever. A signature takes the most time: it is not
// looked at when the host has answered elsewhere.
func (a *Asker) take(b []byte, from netip.AddrPort) {
	said, ok := parseAnswer(b)
	if !ok {
		return
	}
	a.mu.Lock()
	q, ok := a.waiting[said.Nonce]
	a.mu.Unlock()
	if !ok || q.from != from || q.answered.Load() || q.check(said) != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, still := a.waiting[said.Nonce]; still && q.answered.CompareAndSwap(false, true) {
		q.tell()
	}
}
