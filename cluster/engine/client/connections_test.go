package client

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
)

// TestDropLost ends the connections of a lost address, each once, and no other.
func TestDropLost(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var c Connections
	pair := func() (ours, theirs net.Conn) {
		t.Helper()
		ours, err := c.Dial(t.Context(), l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		theirs, err = l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { theirs.Close() })
		return ours, theirs
	}
	ours, theirs := pair()
	done, _ := pair()
	if err := done.Close(); err != nil {
		t.Fatal(err)
	}
	here := netip.MustParseAddr("127.0.0.1")
	if n := c.DropLost(func(a netip.Addr) bool { return a == here }); n != 0 {
		t.Errorf("%d connections were dropped while the host had their address; want none", n)
	}
	if _, err := ours.Write([]byte("x")); err != nil {
		t.Errorf("a connection that stays: %v", err)
	}
	if n := c.DropLost(func(netip.Addr) bool { return false }); n != 1 {
		t.Errorf("%d connections were dropped; want the one that was open", n)
	}
	if _, err := ours.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the drop: %v; want net.ErrClosed", err)
	}
	if b, err := io.ReadAll(theirs); err != nil || string(b) != "x" {
		t.Errorf("the other end read %q, %v; want what was sent, and the end", b, err)
	}
	if n := c.DropLost(func(netip.Addr) bool { return false }); n != 0 {
		t.Errorf("%d connections were dropped twice", n)
	}
	if len(c.open) != 0 {
		t.Errorf("%d connections are remembered; want none", len(c.open))
	}
}
