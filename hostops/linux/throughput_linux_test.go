package linux

import (
	"fmt"
	"io"
	"math"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// workload is a namespace with an address behind a port of a bridge.
func (h *host) workload(bridge string, number int) netns.NsHandle {
	h.t.Helper()
	ns := newNS(h.t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "w0", 1430
	must(h.t, h.nl.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "e0", PeerNamespace: netlink.NsFd(ns), PeerMTU: 1430}))
	p, err := h.nl.LinkByName("w0")
	must(h.t, err)
	b, err := h.nl.LinkByName(bridge)
	must(h.t, err)
	must(h.t, h.nl.LinkSetMaster(p, b))
	must(h.t, h.nl.LinkSetUp(p))
	must(h.t, within(int(ns), func() error {
		l, err := netlink.LinkByName("e0")
		if err != nil {
			return err
		}
		a, err := netlink.ParseAddr(fmt.Sprintf("10.1.0.%d/24", number))
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(l, a); err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	carries(h.t, h.ns, "w0")
	return ns
}

// bridgeByHand makes a bridge with a vxlan device to one peer, and no more.
func (h *host) bridgeByHand(name string, peer net.IP) {
	h.t.Helper()
	u, err := h.nl.LinkByName("u0")
	must(h.t, err)
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, MTU: 1430}}
	must(h.t, h.nl.LinkAdd(br))
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = "vx", 1430
	x := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: 10000, VtepDevIndex: u.Attrs().Index, SrcAddr: h.v4.AsSlice(), Port: 4789, Learning: true, UDPCSum: true}
	must(h.t, h.nl.LinkAdd(x))
	must(h.t, h.nl.LinkSetMaster(x, br))
	must(h.t, h.nl.LinkSetUp(x))
	must(h.t, h.nl.LinkSetUp(br))
	must(h.t, h.nl.NeighAppend(&netlink.Neigh{LinkIndex: x.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP,
		Flags: netlink.NTF_SELF, HardwareAddr: make(net.HardwareAddr, 6), IP: peer}))
}

// throughput sends by one TCP connection for a while, and returns MB/s received.
func throughput(t testing.TB, from, to netns.NsHandle, address string, span time.Duration) float64 {
	t.Helper()
	var l net.Listener
	must(t, within(int(to), func() (err error) { l, err = net.Listen("tcp4", address+":0"); return err }))
	defer l.Close()
	var c net.Conn
	must(t, within(int(from), func() (err error) { c, err = net.DialTimeout("tcp4", l.Addr().String(), 10*time.Second); return err }))
	defer c.Close()
	r, err := l.Accept()
	must(t, err)
	defer r.Close()
	deadline := time.Now().Add(span + 30*time.Second) // a path that is stuck fails
	must(t, c.SetDeadline(deadline))
	must(t, r.SetDeadline(deadline))
	start := time.Now()
	sent := make(chan error, 1)
	go func() {
		b := make([]byte, 128<<10)
		for time.Since(start) < span {
			if _, err := c.Write(b); err != nil {
				sent <- err
				return
			}
		}
		sent <- c.(*net.TCPConn).CloseWrite()
	}()
	n, err := io.Copy(io.Discard, r)
	took := time.Since(start)
	must(t, err)
	must(t, <-sent)
	return float64(n) / 1e6 / took.Seconds()
}

// interval is one of at least 95 % for the median, by order statistics: how many
// of n values lie below it is binomial. It is all values if n is below 6.
func interval(xs []float64) (low, high float64) {
	xs = slices.Sorted(slices.Values(xs))
	n := len(xs)
	p, below, k := math.Pow(0.5, float64(n)), 0.0, 0
	for below+p <= 0.025 {
		below += p
		k++
		p = p * float64(n-k+1) / float64(k)
	}
	k = max(k-1, 0)
	return xs[k], xs[n-1-k]
}

// TestInterval: the ranks are those of the sign test's tables.
func TestInterval(t *testing.T) {
	for n, want := range map[int]float64{5: 1, 6: 1, 9: 2, 11: 2, 15: 4, 20: 6, 25: 8} {
		var xs []float64
		for i := range n {
			xs = append(xs, float64(n-i))
		}
		if low, high := interval(xs); low != want || high != float64(n+1)-want {
			t.Errorf("of %d values: %v to %v, want %v to %v", n, low, high, want, float64(n+1)-want)
		}
	}
}

// BenchmarkThroughput compares one TCP stream between workloads of two hosts
// over what this driver makes, filter, seals and shields included, and over a
// bridge and a vxlan device made by hand. Each iteration is a pair of runs,
// first the one or the other by turns; give it -benchtime 15x.
func BenchmarkThroughput(b *testing.B) {
	hosts, _ := meshed(b, 2, false)
	plain := newUnderlay(b, 2, 1500)
	for i, h := range plain {
		h.bridgeByHand("blue", plain[1-i].v4.AsSlice())
	}
	compare(b, plain, hosts)
}

// BenchmarkFloodBudget compares, as BenchmarkThroughput does, a VPC with a flood budget
// and one without.
func BenchmarkFloodBudget(b *testing.B) {
	free, _ := meshed(b, 2, false)
	limited, vpcs := meshed(b, 2, false)
	for i, h := range limited {
		vpcs[i].FloodLimit = 1000
		h.reconcile(false, vpcs[i])
	}
	compare(b, free, limited)
}

// compare has pairs of hosts send by turns.
func compare(b *testing.B, plain, hosts []*host) {
	b.Helper()
	const span = 1500 * time.Millisecond
	var ends [2][2]netns.NsHandle
	for side, hs := range [][]*host{plain, hosts} {
		for i, h := range hs {
			ends[side][i] = h.workload("blue", i+1)
		}
	}
	run := func(side int, span time.Duration) float64 {
		return throughput(b, ends[side][0], ends[side][1], "10.1.0.2", span)
	}
	run(0, span/5) // both have learned then
	run(1, span/5)
	var rates [2][]float64
	var ratios []float64
	for i := 0; b.Loop(); i++ {
		for k := range 2 {
			side := (i + k) % 2
			rates[side] = append(rates[side], run(side, span))
		}
		ratios = append(ratios, rates[1][i]/rates[0][i])
	}
	low, high := interval(ratios)
	b.Logf("ratios %.3f", ratios)
	b.ReportMetric(median(rates[1]), "ours-MB/s")
	b.ReportMetric(median(rates[0]), "other-MB/s")
	b.ReportMetric(low, "ratio-low")
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(high, "ratio-high")
	b.ReportMetric(0, "ns/op")
}
