package reach

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// TestAsker: an answer is told once, however many addresses give it, and only one
// that is of the key, from where it was asked, and in time.
func TestAsker(t *testing.T) {
	second := netip.MustParseAddr("127.0.0.2")
	h, hash := host(t, loopback, second)
	key, err := ParseKeyHash(hash)
	if err != nil {
		t.Fatal(err)
	}
	a, err := NewAsker(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	a.port = h.port
	told := make(chan string, 10)
	ask := func(what string, key KeyHash, at ...netip.Addr) {
		t.Helper()
		if err := a.Ask(key, at, func() { told <- what }); err != nil {
			t.Fatal(err)
		}
	}
	wait := func(want string) {
		t.Helper()
		select {
		case got := <-told:
			if got != want {
				t.Errorf("told of %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("not told of %s", want)
		}
	}
	_, _, other := identity(t)
	ask("another's key", other, loopback)
	ask("nobody there", key, netip.MustParseAddr("127.0.0.3"))
	ask("both", key, loopback, second)
	wait("both")
	ask("one", key, second, netip.MustParseAddr("127.0.0.3"))
	wait("one") // and not "both" again: answers of one host come in order

	// A good answer from elsewhere, or after Forget, is none.
	at := netip.AddrPortFrom(loopback, h.port)
	q := newQuestion(key, loopback)
	good, err := q.sign(h.key, h.info)
	if err != nil {
		t.Fatal(err)
	}
	give := func(from netip.AddrPort) { a.take(good.encode(), from) }
	expect := func() { a.waiting[q.Nonce] = asked{q, at, new(atomic.Bool), func() { told <- "given" }} }
	expect()
	give(netip.AddrPortFrom(second, h.port))
	give(at)
	wait("given")
	expect()
	a.Forget()
	give(at)
	ask("last", key, loopback)
	wait("last")
	if n := len(told); n > 0 {
		t.Errorf("%d answers too many, %q", n, <-told)
	}
}

func TestAskerCannotSend(t *testing.T) {
	a, err := NewAsker(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := a.Ask(KeyHash{}, []netip.Addr{netip.MustParseAddr("240.0.0.1")}, func() {}); err == nil {
		if _, err := net.Dial("udp4", "240.0.0.1:1"); err != nil {
			t.Error("nothing can be sent there, and no error says so")
		}
	}
}
