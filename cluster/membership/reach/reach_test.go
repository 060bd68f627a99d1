package reach

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = netip.MustParseAddr("127.0.0.1")

// host answers at loopback addresses, on a port that is free on the first.
func host(t *testing.T, at ...netip.Addr) (a *Answerer, hash string) {
	t.Helper()
	key, _, h := identity(t)
	a, err := NewAnswerer(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	a.port = free.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	free.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { a.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	a.Move(at...)
	return a, hex.EncodeToString(h[:])
}

// TestAsk: who holds the key and is there answers, nobody else, and a host that
// moves answers at its new address at once.
func TestAsk(t *testing.T) {
	a, hash := host(t, loopback)
	ctx := t.Context()
	at := netip.AddrPortFrom(loopback, a.port)
	if err := ask(ctx, hash, at); err != nil {
		t.Fatalf("the holder: %v", err)
	}
	_, _, other := identity(t)
	if err := ask(ctx, hex.EncodeToString(other[:]), at); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("another's key: %v", err)
	}
	second := netip.MustParseAddr("127.0.0.2")
	a.Move(second)
	if err := ask(ctx, hash, netip.AddrPortFrom(second, a.port)); err != nil {
		t.Errorf("where it moved to: %v", err)
	}
	if err := ask(ctx, hash, at); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("where it was: %v", err)
	}
	if err := ask(ctx, hash, netip.AddrPortFrom(netip.MustParseAddr("240.0.0.1"), a.port)); err == nil {
		t.Error("where nothing can be sent to: no error")
	}
	if err := ask(ctx, "x", at); err == nil {
		t.Error("no hash: no error")
	}
}

// TestAnswererReturnsToABusyAddress: what is in use when it is wanted is had
// when it is free.
func TestAnswererReturnsToABusyAddress(t *testing.T) {
	a, hash := host(t)
	busy, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, a.port)))
	if err != nil {
		t.Fatal(err)
	}
	a.Move(loopback)
	busy.Close()
	for ctx := t.Context(); ; {
		if err = ask(ctx, hash, netip.AddrPortFrom(loopback, a.port)); err == nil {
			return
		}
	}
}

// TestSilence: nothing but a question for the own key is answered, and a source
// gets no more than its share, and all together no more than there is.
func TestSilence(t *testing.T) {
	key, _, hash := identity(t)
	a, err := NewAnswerer(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1800000000, 0)
	good := newQuestion(hash, here).encode()
	_, _, other := identity(t)
	for name, b := range map[string][]byte{
		"nothing": nil, "short": good[:questionSize-1], "long": append(bytes.Clone(good), 0), "not padded with zeros": append(good[:questionSize-1:questionSize-1], 1),
		"another mark": append([]byte("mv-ask-2"), good[8:]...), "another's key": newQuestion(other, here).encode(),
	} {
		if a.reply(b, here, now) != nil {
			t.Errorf("%s is answered", name)
		}
	}
	count := func(from func(i int) netip.Addr, of int) (n int) {
		for i := range of {
			if a.reply(good, from(i), now) != nil {
				n++
			}
		}
		return n
	}
	if n := count(func(int) netip.Addr { return here }, 100); n != burst {
		t.Errorf("%d answers to one source at once, want %d", n, burst)
	}
	v6 := func(i int) netip.Addr { return netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i)}) } // of one /64
	if n := count(v6, 100); n != burst {
		t.Errorf("%d answers to one /64 at once, want %d", n, burst)
	}
	all := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	if n := count(all, 3000); n != int(perHost)-2*burst {
		t.Errorf("%d answers to many sources at once, want %d", n, int(perHost)-2*burst)
	}
	if len(a.sources) > maxSources {
		t.Errorf("%d sources are remembered, want at most %d", len(a.sources), maxSources)
	}
	for _, want := range []int{burst, int(perSource)} { // the first time it was forgotten, as one of too many
		now = now.Add(time.Second)
		if n := count(func(int) netip.Addr { return here }, 100); n != want {
			t.Errorf("%d answers a second later, want %d", n, want)
		}
	}
}
