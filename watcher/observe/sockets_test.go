package observe

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster/membership/reach"
)

// TestSockets: an agent that holds the key and a kernel that answers echo requests are
// heard, of this very host, and neither of a host that is not there.
func TestSockets(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	info, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	a, err := reach.NewAnswerer(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { a.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	at := netip.MustParseAddr("127.7.7.7")
	a.Move(at)
	p, err := Open(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Blind() && os.Geteuid() == 0 {
		t.Error("root is blind")
	}
	type answer struct {
		node   string
		kernel bool
	}
	got := make(chan answer, 10)
	heard := func(node string, kernel bool) {
		select {
		case got <- answer{node, kernel}:
		default: // it is asked again
		}
	}
	there := Target{Node: "there", Key: reach.KeyHash(sha256.Sum256(info)), Addresses: []netip.Addr{at, netip.MustParseAddr("::1")}}
	want := map[answer]bool{{"there", false}: true}
	if !p.Blind() {
		want[answer{"there", true}] = true
	}
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(300 * time.Millisecond) // a datagram may be lost
	defer again.Stop()
	round := func() {
		p.Round([]Target{there, {Node: "not there", Key: there.Key, Addresses: []netip.Addr{netip.MustParseAddr("240.0.0.1")}}}, heard)
	}
	round()
	for len(want) > 0 {
		select {
		case x := <-got:
			if x.node != "there" {
				t.Errorf("heard %+v", x)
			}
			delete(want, x)
		case <-again.C:
			round() // and not at each answer: a round ends the wait for the other ones
		case <-deadline:
			t.Fatalf("not heard: %v", want)
		}
	}
}
