package linux

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// crowd is n VPCs on a host, each with m attached ports.
func crowd(h *host, n, m int) []hostops.VPC {
	h.t.Helper()
	vpcs := manyVPCs(h, n)
	for i := range vpcs {
		h.reconcile(false, vpcs[:i+1]...) // as they come to a host in use
		for j := range m {
			vpcs[i].Ports = append(vpcs[i].Ports, hosttest.MakePort(vpcs[i], j, h.room(fmt.Sprint("r", j))))
		}
		slices.SortFunc(vpcs[i].Ports, func(a, b hostops.Port) int { return strings.Compare(a.Device, b.Device) })
	}
	h.reconcile(false, vpcs...)
	return vpcs
}

// TestOneMorePort: what it costs does not depend on how many there are.
func TestOneMorePort(t *testing.T) {
	cost := map[int]uint64{}
	for _, n := range []int{1, 8} {
		h := newUnderlay(t, 1, 1500)[0]
		vpcs := crowd(h, n, 5)
		more := slices.Clone(vpcs)
		more[0].Ports = append(slices.Clone(vpcs[0].Ports), hosttest.MakePort(vpcs[0], 99, h.room("more")))
		best := ^uint64(0)
		for range 5 { // late events of a namespace's making may cost a reading of it
			before := h.driver.Requests()
			if r := h.reconcile(false, more...); !r.Attached["vpc0"]["w99"] {
				t.Fatalf("not attached: %+v", r)
			}
			best = min(best, h.driver.Requests()-before)
			h.reconcile(false, vpcs...)
		}
		cost[n] = best
		before := h.driver.Requests()
		h.reconcile(false, vpcs...)
		if got := h.driver.Requests() - before; got != 0 {
			t.Errorf("no change cost %d requests", got)
		}
	}
	if cost[1] != cost[8] {
		t.Errorf("one port more costs %d requests beside 5 and %d beside 40", cost[1], cost[8])
	}
	t.Logf("one port more costs %d requests", cost[1])
}

// BenchmarkAttach measures how long a port takes, from nothing until its bridge
// forwards, on a host with one VPC and with so many, in turns in one run (medians).
func BenchmarkAttach(b *testing.B) {
	small, large := newUnderlay(b, 1, 1500)[0], newUnderlay(b, 1, 1500)[0]
	few, many := crowd(small, 1, 0), crowd(large, 200, 5)
	room := map[*host]string{small: small.room("more"), large: large.room("more")}
	attach := func(h *host, vpcs []hostops.VPC) float64 {
		more := slices.Clone(vpcs)
		more[0].Ports = append(slices.Clone(vpcs[0].Ports), hosttest.MakePort(vpcs[0], 99, room[h]))
		start := time.Now()
		if r := h.reconcile(false, more...); !r.Attached["vpc0"]["w99"] {
			b.Fatalf("not attached: %+v", r)
		}
		took := time.Since(start).Seconds() * 1e3
		h.reconcile(false, vpcs...)
		return took
	}
	var one, all, pass []float64
	for b.Loop() {
		one, all = append(one, attach(small, few)), append(all, attach(large, many))
		start := time.Now()
		large.reconcile(false, many...)
		pass = append(pass, time.Since(start).Seconds()*1e3)
	}
	b.ReportMetric(median(one), "1-VPC-ms")
	b.ReportMetric(median(all), "200-VPCs-ms")
	b.ReportMetric(median(all)/median(one), "ratio")
	b.ReportMetric(median(pass), "pass-of-200-ms")
	b.ReportMetric(0, "ns/op")
	small.reconcile(false)
	large.reconcile(false)
}
