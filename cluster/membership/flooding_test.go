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
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

var floodFor = flag.Duration("flood", 0, "how long TestLongFlood sends 1,000 invalid joins a second")

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

// TestFlooder is the other process of TestLongFlood.
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
	ctx, cancel := context.WithTimeout(t.Context(), *floodFor)
	defer cancel()
	pace := rate.NewLimiter(1000, 100)
	var intruders sync.WaitGroup
	sent := 0
	for ; pace.Wait(ctx) == nil; sent++ {
		i := sent
		source := i % 200
		if i%2 == 0 { // half of it from one
			source = 0
		}
		intruders.Go(func() { intruder(ctx, address, source, i, tok.Pin) })
	}
	intruders.Wait()
	fmt.Printf("sent %d\n", sent)
}

// TestLongFlood reports what 1,000 invalid joins a second cost: how long good
// ones take meanwhile, one each 100 ms, and the memory of this process.
func TestLongFlood(t *testing.T) {
	if *floodFor == 0 {
		t.Skip("give -flood 20s to run it")
	}
	manySources(t)
	h := newHouse(t)
	n := int(*floodFor / (100 * time.Millisecond))
	tok := h.token(min(n, cluster.MaxTokenUses), soon())
	before := resident(t)
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
	failed, most := 0, 0
	for i := range min(n, cluster.MaxTokenUses) {
		<-tick.C
		r := newMachine(t).request(t, fmt.Sprint("n", i), fmt.Sprint("id-", i))
		start := time.Now()
		if _, _, err := membership.Join(t.Context(), h.address, tok, r); err != nil {
			failed++
			t.Logf("join %d: %v", i, err)
			continue
		}
		took = append(took, time.Since(start))
		most = max(most, resident(t))
	}
	if err := flooder.Wait(); err != nil {
		t.Error(err)
	}
	slices.Sort(took)
	if len(took) == 0 {
		t.Fatal("nobody got in")
	}
	t.Logf("%s: %d of %d joins failed; the others took %v (median), %v (99 of 100), %v at most; resident memory %d kB before, %d at most",
		strings.TrimSpace(strings.Split(said.String(), "\n")[0]), failed, n, took[len(took)/2], took[len(took)*99/100], took[len(took)-1], before, most)
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
