package linux

import (
	"fmt"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// manyVPCs is n VPCs, each with three peers.
func manyVPCs(h *host, n int) []hostops.VPC {
	var vpcs []hostops.VPC
	for i := range n {
		v := mesh([]*host{h}, 0, fmt.Sprint("vpc", i), cluster.VNI(10000+i), false)
		for p := range 3 {
			peer := peerNumber(p)
			peer.Underlay = h.v4
			for range p + 1 {
				peer.Underlay = peer.Underlay.Next()
			}
			v.Tunnels[0].Peers = append(v.Tunnels[0].Peers, peer)
		}
		vpcs = append(vpcs, v)
	}
	return vpcs
}

// TestOneMoreVPC: what it costs does not depend on how many there are.
func TestOneMoreVPC(t *testing.T) {
	cost := map[int]uint64{}
	for _, n := range []int{1, 20} {
		h := newUnderlay(t, 1, 1500)[0]
		vpcs := manyVPCs(h, n+1)
		best := ^uint64(0)
		for range 5 { // late events of a namespace's making may cost a reading of it
			h.reconcile(false, vpcs[:n]...)
			before := h.driver.Requests()
			h.reconcile(false, vpcs...)
			best = min(best, h.driver.Requests()-before)
		}
		cost[n] = best
	}
	if cost[20] > cost[1]+10 { // a reading more or less of the new one's events
		t.Errorf("one VPC more costs %d requests beside 1 and %d beside 20", cost[1], cost[20])
	}
	t.Logf("one VPC more costs %d requests", cost[1])
}

// BenchmarkVPCs measures what a host with so many VPCs pays, each of three
// peers: the requests of one VPC more, how long those take, a pass without change
// and a full one (medians).
func BenchmarkVPCs(b *testing.B) {
	for _, n := range []int{1, 10, 50, 200} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			h := newUnderlay(b, 1, 1500)[0]
			vpcs := manyVPCs(h, n+1)
			h.reconcile(false)
			for i := range n { // as they come to a host in use
				h.reconcile(false, vpcs[:i+1]...)
			}
			h.reconcile(true, vpcs[:n]...)
			var requests, more, still, full []float64
			for b.Loop() {
				before, start := h.driver.Requests(), time.Now()
				if r := h.reconcile(false, vpcs...); !r.Ready[vpcs[n].Name] {
					b.Fatalf("not ready: %+v", r)
				}
				requests = append(requests, float64(h.driver.Requests()-before))
				more = append(more, time.Since(start).Seconds()*1e3)
				h.reconcile(false, vpcs...)
				start = time.Now()
				h.reconcile(false, vpcs...)
				still = append(still, time.Since(start).Seconds()*1e3)
				before, start = h.driver.Requests(), time.Now()
				h.reconcile(true, vpcs...)
				full = append(full, time.Since(start).Seconds()*1e3)
				b.ReportMetric(float64(h.driver.Requests()-before), "full-requests")
				h.reconcile(false, vpcs[:n]...)
			}
			b.ReportMetric(median(requests), "requests")
			b.ReportMetric(median(more), "more-ms")
			b.ReportMetric(median(still), "still-ms")
			b.ReportMetric(median(full), "full-ms")
			b.ReportMetric(0, "ns/op")
			h.reconcile(false)
		})
	}
}
