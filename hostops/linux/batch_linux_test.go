package linux

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

var tunnelOfBlue = hostops.Target{VPC: "blue", Object: "mv6-10000"}

// addPeers are operations for n peers that no host has.
func addPeers(n int) (ops []hostops.Op) {
	for i := range n {
		ops = append(ops, hostops.AddPeer{Target: tunnelOfBlue, Peer: peerNumber(1000 + i).Underlay})
	}
	return ops
}

// flood is the flood list of blue's tunnel as the kernel has it.
func (h *host) flood() hostops.AddrSet {
	h.t.Helper()
	s, err := h.driver.Observe(h.t.Context(), true)
	must(h.t, err)
	return s.Devices["mv6-10000"].Flood
}

// TestBatchKeepsRefusals: one that the kernel refuses is told as its own, and no
// other is lost; few messages carry all, and their events are no news.
func TestBatchKeepsRefusals(t *testing.T) {
	h, _ := manyPeers(t, 3)
	const n, refused = 300, 150
	ops := addPeers(n)
	ops[refused] = hostops.AddPeer{Target: tunnelOfBlue, Peer: netip.MustParseAddr("192.0.2.1")} // of the other family
	_, err := h.driver.Observe(t.Context(), false)
	must(t, err)
	select {
	case <-h.driver.Changed():
	default:
	}
	requests, sent := h.driver.Requests(), h.driver.conn.sent
	for i, err := range h.driver.ApplyBatch(t.Context(), ops) {
		switch {
		case i == refused && (!errors.Is(err, unix.EAFNOSUPPORT) || !strings.Contains(err.Error(), ops[i].String())):
			t.Errorf("the refused operation's error = %v; want EAFNOSUPPORT with its name", err)
		case i != refused && err != nil:
			t.Errorf("operation %d: %v", i, err)
		}
	}
	if got, want := h.driver.conn.sent-sent, (n+batchRequests-1)/batchRequests; got != want || h.driver.Requests()-requests != n {
		t.Errorf("%d requests went by %d messages; want %d by %d", h.driver.Requests()-requests, got, n, want)
	}
	told, err := h.driver.Observe(t.Context(), false)
	must(t, err)
	if got := told.Devices["mv6-10000"].Flood.Len(); got != 3+n-1 {
		t.Errorf("by its events the tunnel has %d peers; want %d", got, 3+n-1)
	}
	if got := h.flood(); !got.Equal(told.Devices["mv6-10000"].Flood) {
		t.Errorf("read again it has %d", got.Len())
	}
	select {
	case <-h.driver.Changed():
		t.Error("own writes were taken for somebody else's")
	case <-time.After(5 * settle): // what an event would need
	}
}

// TestBatchKeepsOrder: the kernel performs a batch from first to last.
func TestBatchKeepsOrder(t *testing.T) {
	h, _ := manyPeers(t, 3)
	add := addPeers(2)
	remove := func(i int) hostops.Op { return hostops.RemovePeer(add[i].(hostops.AddPeer)) }
	ops := []hostops.Op{add[0], remove(0), add[0], add[1], remove(1)}
	must(t, errors.Join(h.driver.ApplyBatch(t.Context(), ops)...))
	if got := h.flood(); !got.Has(peerNumber(1000).Underlay) || got.Has(peerNumber(1001).Underlay) {
		t.Errorf("flood list after the batch: %d entries, %v %v", got.Len(), got.Has(peerNumber(1000).Underlay), got.Has(peerNumber(1001).Underlay))
	}
}

// TestBatchIsBounded by bytes as well.
func TestBatchIsBounded(t *testing.T) {
	h, _ := manyPeers(t, 3)
	const n = 100
	var ops []hostops.Op
	for i := range n {
		ops = append(ops, hostops.SetAlias{Target: tunnelOfBlue, Alias: fmt.Sprintf("%03d%s", i, strings.Repeat("x", 240))})
	}
	sent := h.driver.conn.sent
	must(t, errors.Join(h.driver.ApplyBatch(t.Context(), append(ops, ops...))...))
	if got := h.driver.conn.sent - sent; got < 2 || got > 4 {
		t.Errorf("%d requests of 280 bytes went by %d messages; want some 2", 2*n, got)
	}
}

// TestBatchWithLostAnswers: what the kernel has no room to answer is told as
// unknown, nothing waits, and what comes later is not confused by it.
func TestBatchWithLostAnswers(t *testing.T) {
	h, v := manyPeers(t, 3)
	must(t, unix.SetsockoptInt(h.driver.conn.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1)) // the least
	ops := addPeers(100)
	lost := 0
	for i, err := range h.driver.ApplyBatch(t.Context(), ops) {
		switch {
		case errors.Is(err, unix.ENOBUFS):
			lost++
		case err != nil:
			t.Errorf("operation %d: %v; want ENOBUFS or none", i, err)
		case lost > 0:
			t.Errorf("operation %d is told as done after %d lost answers", i, lost)
		}
	}
	if lost == 0 || lost == len(ops) {
		t.Errorf("%d of %d answers were lost; want some", lost, len(ops))
	}
	for i := range ops {
		v = with(v, peerNumber(1000+i))
	}
	if r := h.reconcile(false, v); !r.Ready["blue"] {
		t.Errorf("a pass after that: %+v", r.Problems)
	}
	if got := h.flood().Len(); got != 3+len(ops) {
		t.Errorf("the tunnel has %d peers; want %d", got, 3+len(ops))
	}
}

// TestBatchInterrupted: signals do no harm; an ended context stops it before the
// kernel hears anything, and each operation says so.
func TestBatchInterrupted(t *testing.T) {
	h, _ := manyPeers(t, 3)
	over := make(chan struct{})
	done := make(chan error)
	go func() {
		for {
			select {
			case <-over:
				close(done)
				return
			default:
				if err := unix.Kill(os.Getpid(), unix.SIGURG); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	for range 20 {
		ops := addPeers(200)
		must(t, errors.Join(h.driver.ApplyBatch(t.Context(), ops)...))
		for i, op := range ops {
			ops[i] = hostops.RemovePeer(op.(hostops.AddPeer))
		}
		must(t, errors.Join(h.driver.ApplyBatch(t.Context(), ops)...))
	}
	close(over)
	must(t, <-done)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	requests := h.driver.Requests()
	for i, err := range h.driver.ApplyBatch(ctx, addPeers(3)) {
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), peerNumber(1000+i).Underlay.String()) {
			t.Errorf("operation %d: %v; want its name and that the context has ended", i, err)
		}
	}
	if got := h.driver.Requests() - requests; got != 0 {
		t.Errorf("%d requests were sent", got)
	}
}

// TestBatchOfTunnels: the tunnels of pairs are made step by step together. One
// whose VNI somebody took meanwhile is told, and neither touched nor brought up.
func TestBatchOfTunnels(t *testing.T) {
	h := newUnderlay(t, 1, 1500)[0]
	const n, taken = 50, 20
	v := manyPairs(h, n)
	none := v
	none.Tunnels = nil
	h.reconcile(false, none)
	k := kernel{t: t, ns: h.ns, nl: h.nl}
	requests, sent := h.driver.Requests(), h.driver.conn.sent
	if r := h.reconcile(false, v); !r.Ready["blue"] {
		t.Fatal(r.Problems)
	}
	requests, made := h.driver.Requests()-requests, h.driver.conn.sent-sent
	if requests < 7*n || made > 20 {
		t.Errorf("%d tunnels took %d requests by %d messages; want at most 20", n, requests, made)
	}
	h.reconcile(false, none)

	pair := func(i int) cluster.VNI { return cluster.VNI(20000 + i) }
	must(t, k.AddDevice("foreign0", hostops.Other{Kind: hostops.KindTunnel, VNI: pair(taken), Port: 4789, V6: true}))
	var ops []hostops.Op
	for i, tun := range v.Tunnels {
		on := hostops.Target{VPC: "blue", Object: hostops.PairTunnelOf(pair(i))}
		ops = append(ops, hostops.CreateTunnel{Target: on, Owner: v.VNI, VNI: pair(i), Local: tun.Local, Underlay: tun.Device, Port: tun.Port, MTU: v.MTU, Alias: "tunnel-to-" + tun.Peers[0].Node})
	}
	for i, err := range h.driver.ApplyBatch(t.Context(), ops) {
		if (i == taken) != errors.Is(err, hostops.ErrForeign) || i != taken && err != nil {
			t.Errorf("tunnel %d: %v", i, err)
		}
	}
	s, err := h.driver.Observe(t.Context(), true)
	must(t, err)
	for i := range n {
		d, there := s.Devices[hostops.PairTunnelOf(pair(i))]
		if there != (i != taken) || there && (d.Alias != fmt.Sprint("tunnel-to-n", i) || !d.Quiet || d.Up) {
			t.Errorf("tunnel %d: %v %+v; want it whole and down, but for %d", i, there, d, taken)
		}
	}
}

// BenchmarkBatch puts and takes 100 peers' entries, one by one and together, in
// turns; the ratio is of the medians.
func BenchmarkBatch(b *testing.B) {
	h, _ := manyPeers(b, 3)
	var put, take []hostops.Op
	for i := range 100 {
		p := peerNumber(1000 + i)
		mac := hostops.VTEPMAC(p.VTEP)
		put = append(put, hostops.AddPeer{Target: tunnelOfBlue, Peer: p.Underlay}, hostops.SetFDB{Target: tunnelOfBlue, MAC: mac, Peer: p.Underlay})
		take = append(take, hostops.RemovePeer{Target: tunnelOfBlue, Peer: p.Underlay}, hostops.RemoveFDB{Target: tunnelOfBlue, MAC: mac})
	}
	var single, together []float64
	for b.Loop() {
		start := time.Now()
		for _, op := range put {
			must(b, h.driver.Apply(b.Context(), op))
		}
		single = append(single, float64(time.Since(start).Microseconds()))
		must(b, errors.Join(h.driver.ApplyBatch(b.Context(), take)...))
		start = time.Now()
		must(b, errors.Join(h.driver.ApplyBatch(b.Context(), put)...))
		together = append(together, float64(time.Since(start).Microseconds()))
		must(b, errors.Join(h.driver.ApplyBatch(b.Context(), take)...))
	}
	one, all := median(single), median(together)
	b.ReportMetric(one/200, "one-by-one-µs/op")
	b.ReportMetric(all/200, "together-µs/op")
	b.ReportMetric(one/all, "ratio")
}
