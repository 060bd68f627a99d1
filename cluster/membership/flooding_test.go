package membership_test

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

var floodFor = flag.Duration("flood", 5*time.Second, "how long TestLongFlood sends 1,000 invalid joins a second; 0: it does not")

// from dials as one of many sources.
func from(source int) *net.Dialer {
	return &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+source/250), byte(1+source%250))}}
}

// intruder sends what is no good join, from a source of its own; each has its
// way, by its number.
func intruder(ctx context.Context, address string, source, way int, pin membership.Pin) {
	c, err := from(source).DialContext(ctx, "tcp", address)
	if err != nil {
		return // the service may be closing it already
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	s := tls.Client(c, membership.PinnedDialer(pin))
	switch way % 5 {
	case 0: // garbage
		_, _ = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	case 1: // bad TLS
		_ = tls.Client(c, &tls.Config{MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true}).HandshakeContext(ctx)
	case 2: // a bad token
		body := fmt.Sprintf(`{"token_id":"00","secret":"00","name":"n%d","id":"i","datacenter":"d","request":"x"}`, source)
		_, _ = fmt.Fprintf(s, "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	case 3: // oversized
		_, _ = fmt.Fprintf(s, "POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n%s", strings.Repeat("[", 1<<16))
	case 4: // slow: says nothing until the service has enough
	}
	_, _ = io.Copy(io.Discard, c)
}

// manySources says why this host cannot be several.
func manySources(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.1.1:0")
	if err != nil {
		t.Skipf("this host has no address but one to itself: %v", err)
	}
	l.Close()
}

// TestFlood: with all places taken by who is slow, and more who knock, others
// join as if nothing were.
func TestFlood(t *testing.T) {
	manySources(t)
	h := newHouse(t)
	tok := h.token(5, soon())
	for i := range 300 { // more than there are places
		c, err := from(i%15).DialContext(t.Context(), "tcp", h.address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	ctx, cancel := context.WithCancel(t.Context())
	var intruders sync.WaitGroup
	defer intruders.Wait()
	defer cancel()
	for i := range 300 {
		intruders.Go(func() { intruder(ctx, h.address, i%50, i, h.ca.Pin()) })
	}
	for i := range 5 {
		if _, _, err := membership.Join(t.Context(), h.address, tok, newMachine(t).request(t, fmt.Sprint("n", i), fmt.Sprint("id-", i))); err != nil {
			t.Errorf("join %d: %v", i, err)
		}
	}
}

// floodAt names the service, and the CA's pin, to the process that floods it.
const floodAt = "MESHVPC_TEST_FLOOD"

// floodRate is invalid joins a second.
const floodRate = 1000

// TestFlooder is the other process of TestLongFlood. On a machine that is too
// slow for the rate it sends as many, and takes longer.
func TestFlooder(t *testing.T) {
	at := os.Getenv(floodAt)
	if at == "" {
		t.Skip("it is a part of TestLongFlood")
	}
	address, token, _ := strings.Cut(at, " ")
	tok, err := membership.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	pace := rate.NewLimiter(floodRate, 100)
	var intruders sync.WaitGroup
	start := time.Now()
	sent := 0
	for ; sent < int(floodFor.Seconds()*floodRate) && pace.Wait(ctx) == nil; sent++ {
		i := sent
		source := i % 200
		if i%2 == 0 { // half of it from one
			source = 0
		}
		intruders.Go(func() { intruder(ctx, address, source, i, tok.Pin) })
	}
	took := time.Since(start)
	cancel()
	intruders.Wait()
	fmt.Printf("sent %d in %v\n", sent, took.Round(time.Millisecond))
}

// floodMemory bounds what the service's heap and stacks grow by in a flood, in
// bytes: each of its 256 places costs up to 128 KiB (a TLS record either way, a
// request's 16 KiB as text and decoded, and the goroutines' stacks), and between
// two collections there is as much garbage again, and half for what was freed
// and is not given back.
const floodMemory = 80 << 20

// TestLongFlood floods the service with 1,000 invalid joins a second from another
// process while good ones go on, one each 100 ms: those succeed, memory stays
// bounded, and nothing of the flood is left behind.
func TestLongFlood(t *testing.T) {
	if *floodFor == 0 {
		t.Skip("-flood 0s")
	}
	manySources(t)
	h := newHouse(t)
	n := min(int(*floodFor/(100*time.Millisecond)), cluster.MaxTokenUses)
	tok := h.token(n, soon())
	before, goroutines := used(), runtime.NumGoroutine()
	flooder := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestFlooder$", "-flood", floodFor.String())
	flooder.Env = append(os.Environ(), floodAt+"="+h.address+" "+membership.NewToken(cluster.TokenNode, h.ca.Pin()).String())
	var said strings.Builder
	flooder.Stdout = &said
	if err := flooder.Start(); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var took []time.Duration
	grown, most := 0, 0
	for i := range n {
		<-tick.C
		r := newMachine(t).request(t, fmt.Sprint("n", i), fmt.Sprint("id-", i))
		start := time.Now()
		if _, _, err := membership.Join(t.Context(), h.address, tok, r); err != nil {
			t.Errorf("join %d: %v", i, err)
			continue
		}
		took = append(took, time.Since(start))
		grown, most = max(grown, used()-before), max(most, resident(t))
	}
	if err := flooder.Wait(); err != nil {
		t.Error(err)
	}
	if want := int(floodFor.Seconds() * floodRate); !strings.HasPrefix(said.String(), fmt.Sprintf("sent %d in", want)) {
		t.Errorf("the flood was not %d joins: %s", want, said.String())
	}
	if grown > floodMemory {
		t.Errorf("memory grew by %d MiB, want at most %d", grown>>20, floodMemory>>20)
	}
	eventually(t, "the goroutines of the flood have ended", func() bool { return runtime.NumGoroutine() <= goroutines })
	if len(took) == 0 {
		t.Fatal("nobody got in")
	}
	slices.Sort(took)
	t.Logf("%s: %d of %d joins succeeded, in %v (median), %v (99 of 100), %v at most; heap and stacks grew by %d kB; resident memory %d kB at most",
		strings.TrimSpace(strings.Split(said.String(), "\n")[0]), len(took), n, took[len(took)/2], took[len(took)*99/100], took[len(took)-1], grown>>10, most)
}

// used is the memory of this process's heap and stacks, bytes.
func used() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapInuse + m.StackInuse)
}

// resident is the memory of this process in kB, 0 where that cannot be known.
func resident(t *testing.T) (kB int) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kB); err == nil {
			return kB
		}
	}
	return 0
}
