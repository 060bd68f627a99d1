package watcher

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/fake"
)

// echoes counts what an agent sends, and answers for the peers.
type echoes struct {
	*fake.Driver
	answers bool

	mu   sync.Mutex
	from time.Time
	sent []time.Duration
}

func (e *echoes) Send(_ hostops.Echo, answer func(time.Duration)) error {
	e.mu.Lock()
	e.sent = append(e.sent, time.Since(e.from))
	e.mu.Unlock()
	if e.answers {
		answer(time.Millisecond)
	}
	return nil
}

// many runs an agent among n peers for d and returns what it sent, its status
// and how many goroutines it has.
func many(t *testing.T, n int, answers bool, d time.Duration) (*echoes, *cluster.NodeStatus, int) {
	t.Helper()
	e := &echoes{answers: answers}
	var status *cluster.NodeStatus
	var goroutines int
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		me := w.node(1)
		w.put(cluster.Controller, cluster.KeyVPCNet("vpc1"), &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/16")})
		for i := range n + 1 {
			name := fmt.Sprintf("n%d", i+1)
			w.put(cluster.Controller, cluster.KeyMember("vpc1", name), &cluster.Member{NodeID: "id-" + name, Datacenter: "dc1",
				VTEP: netip.AddrFrom4([4]byte{10, 100, byte((i + 1) >> 8), byte(i + 1)}), UnderlayIPv6: underlayOf(i + 1), Transport: cluster.Multipoint})
		}
		w.put(cluster.Controller, cluster.KeyHostVPC(me, "vpc1"), &cluster.HostVPC{State: cluster.AssignedMember})
		var err error
		if e.Driver, err = w.hosts[me].Open(); err != nil {
			t.Fatal(err)
		}
		e.from = time.Now()
		a, err := New(Config{Node: me, NodeID: "id-" + me, Driver: e, Cache: filepath.Join(w.caches, me), Version: "test", OS: "fake", Rand: seeded(),
			Store: store.New(w.kv, cluster.Identity{Role: cluster.Agent, Name: me}), Underlay: []UnderlaySpec{{Device: "u0"}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		before := runtime.NumGoroutine()
		go func() { done <- a.Run(ctx) }()
		time.Sleep(d) // of the bubble's clock
		synctest.Wait()
		goroutines = runtime.NumGoroutine() - before
		it, err := store.Get[*cluster.NodeStatus](t.Context(), store.New(w.kv, cluster.Identity{Role: cluster.Operator}), cluster.KeyNodeStatus(me))
		if err != nil {
			t.Fatal(err)
		}
		status = it.Value
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := e.Driver.Close(); err != nil {
			t.Error(err)
		}
	})
	return e, status, goroutines
}

// TestSilentPeersCostNoMore: probes in flight and goroutines stay bounded
// however many peers never answer.
func TestSilentPeersCostNoMore(t *testing.T) {
	const d = 60 * time.Second
	_, _, few := many(t, 1, true, d)
	for _, tt := range []struct {
		n       int
		answers bool
	}{{1000, true}, {1000, false}, {5000, false}} {
		t.Run(fmt.Sprintf("%d peers, answers %v", tt.n, tt.answers), func(t *testing.T) {
			e, status, goroutines := many(t, tt.n, tt.answers, d)
			if got := busiest(e.sent, probeTimeout); got > probeBudget {
				t.Errorf("%d probes in flight; want at most %d", got, probeBudget)
			}
			if len(e.sent) < tt.n {
				t.Errorf("%d probes for %d links; want each probed", len(e.sent), tt.n)
			}
			// The runtime's own come and go.
			if goroutines > few+5 {
				t.Errorf("%d goroutines; want about the %d that one peer takes", goroutines, few)
			}
			stretched := strings.Contains(strings.Join(status.Notes, "\n"), "every 25s instead of every 10s")
			if stretched != (tt.n == 5000) {
				t.Errorf("notes of the status = %q", status.Notes)
			}
		})
	}
}

// TestPingIsAnswered: what `vpc ping` asks for goes through the same driver.
func TestPingIsAnswered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := mesh(t)
		defer w.close()
		w.put(cluster.Operator, cluster.KeyVPCPing("vpc1"), &cluster.PingRequest{ID: "p1", Count: 3})
		w.settle(5 * time.Second)
		r, err := w.kv.Range(t.Context(), mvcc.RangeRequest{Key: cluster.KeyPingResult("n1", "vpc1")})
		if err != nil || len(r.Keys) != 1 {
			t.Fatalf("ping result: %v, %v", r.Keys, err)
		}
		if got := string(r.Keys[0].Value); strings.Count(got, `"received":3`) != 2 {
			t.Errorf("ping result = %s; want 3 answers from each of 2 peers", got)
		}
	})
}
