package client

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// firstTry is how long the first attempt to connect may take. TCP repeats its
// first packet only after a second, and that packet is often lost just after a
// host got another address: its routers do not know it yet.
const firstTry = 300 * time.Millisecond

// Connections are the TCP connections of a client whose Config.Dialer is Dial.
// A host that loses the address of a connection hears nothing of it: what it
// sends is dropped until TCP gives up, seconds later. DropLost ends such a
// connection at once, and the client dials again. The zero value is ready; it
// is safe for concurrent use.
type Connections struct {
	mu   sync.Mutex
	open []*net.TCPConn // and some that were closed since
}

// Dial opens a TCP connection and remembers it.
func (c *Connections) Dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: firstTry}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() && ctx.Err() == nil {
		dialer.Timeout = 0 // as long as ctx lasts
		conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = append(slices.DeleteFunc(c.open, isClosed), conn.(*net.TCPConn))
	return conn, nil
}

// DropLost closes the connections that come from an address this host does not
// have, and returns how many there were.
func (c *Connections) DropLost(has func(netip.Addr) bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	c.open = slices.DeleteFunc(c.open, func(conn *net.TCPConn) bool {
		if isClosed(conn) {
			return true
		}
		if has(conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")) {
			return false
		}
		n++
		_ = conn.Close() // its peer is out of reach: there is nothing to lose
		return true
	})
	return n
}

// isClosed reports whether conn was closed on this side.
func isClosed(conn *net.TCPConn) bool {
	rc, err := conn.SyscallConn()
	return err != nil || rc.Control(func(uintptr) {}) != nil
}
