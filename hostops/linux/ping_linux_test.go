package linux

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// stranger is an address of the peer network that no host has.
func stranger(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 100, 200, byte(i)}) }

// TestFullSocket: when packets to those that are off fill the socket, a ping
// fails at once, holds no goroutine, and works again when there is room.
func TestFullSocket(t *testing.T) {
	hosts, _ := meshed(t, 2, false)
	h := hosts[0]
	must(t, h.reach("blue", vtep(1).Addr(), 0))
	key := pingKey{hostops.NamespaceOf("blue"), false}
	h.driver.mu.Lock()
	p := h.driver.pingers[key]
	h.driver.mu.Unlock()
	rc, err := p.file.SyscallConn()
	must(t, err)
	resize := func(option, size int) {
		t.Helper()
		must(t, rc.Control(func(fd uintptr) { must(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, option, size)) }))
	}
	// Neighbour discovery that goes on for minutes keeps the socket full.
	h.driver.mu.Lock()
	ns := int(h.driver.spaces[hostops.NamespaceOf("blue")].file.Fd())
	h.driver.mu.Unlock()
	must(t, within(ns, func() error {
		return os.WriteFile("/proc/sys/net/ipv4/neigh/"+inner+"/mcast_solicit", []byte("10000"), 0)
	}))
	resize(unix.SO_SNDBUF, 1) // the kernel's least: few packets fill it
	var full error
	for i := 0; full == nil && i < 100; i++ {
		full = h.driver.Send(hostops.Echo{VPC: "blue", To: stranger(i), Size: 1430}, func(time.Duration) {})
	}
	if !errors.Is(full, hostops.ErrCongested) {
		t.Fatalf("sending to nobody: %v, want ErrCongested", full)
	}

	before := goleak.IgnoreCurrent()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() {
			_, err := hostops.Ping(ctx, h.driver, hostops.Echo{VPC: "blue", To: stranger(i % 200), Size: 1430})
			if !errors.Is(err, hostops.ErrCongested) && !errors.Is(err, hostops.ErrNoAnswer) {
				t.Errorf("ping: %v", err)
			}
		})
	}
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(15 * time.Second):
		t.Fatal("pings wait for room in the socket, long after their deadline")
	}
	goleak.VerifyNone(t, before)
	resize(unix.SO_SNDBUFFORCE, sendBuffer)
	must(t, h.reach("blue", vtep(1).Addr(), 1430))
}

// TestSequenceNumbers: they go round, what was never answered is over after
// MaxRTT, and none is given twice.
func TestSequenceNumbers(t *testing.T) {
	p := &pinger{waiting: map[uint16]waiter{}}
	now := time.Now()
	w := func(sent time.Time) waiter { return waiter{from: stranger(1), sent: sent} }
	for i := range 1<<16 - 2 {
		if _, err := p.expect(w(now)); err != nil {
			t.Fatalf("number %d: %v", i, err)
		}
	}
	if _, err := p.expect(w(now.Add(hostops.MaxRTT - 1))); err != nil {
		t.Fatal(err)
	}
	if _, err := p.expect(w(now.Add(hostops.MaxRTT - 1))); !errors.Is(err, hostops.ErrCongested) {
		t.Errorf("with all numbers in use: %v, want ErrCongested", err)
	}
	if _, ok := p.take(77, stranger(2)); ok {
		t.Error("somebody else's answer counted")
	}
	if _, ok := p.take(77, stranger(1)); !ok {
		t.Error("an answer did not count")
	}
	seq, err := p.expect(w(now.Add(hostops.MaxRTT)))
	must(t, err)
	if seq != 0 || len(p.waiting) != 2 {
		t.Errorf("number %d, %d wait; want 0 after the last, and those that are not over", seq, len(p.waiting))
	}
}
