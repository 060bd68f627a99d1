package linux

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// manyPairs is VPC blue with n peers over IPv6, each with a tunnel of its own.
func manyPairs(h *host, n int) hostops.VPC {
	v := mesh([]*host{h}, 0, "blue", 10000, true)
	shared := v.Tunnels[0]
	v.Tunnels = nil
	for i := range n {
		t := shared
		t.Pair, t.Peers = cluster.VNI(20000+i), []hostops.Peer{peerNumber(i)}
		v.Tunnels = append(v.Tunnels, t)
	}
	return v
}

// byHand makes the same tunnels with the same calls, one after another: neither
// read nor planned, without the filter and without namespace.
func byHand(t testing.TB, h *host, v hostops.VPC) {
	t.Helper()
	under, err := h.nl.LinkByName("u0")
	must(t, err)
	br, err := h.nl.LinkByName(v.Name)
	must(t, err)
	for _, tun := range v.Tunnels {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Group = hostops.PairTunnelOf(tun.Pair), hostops.GroupOf(v.VNI)
		x := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: int(tun.Pair), VtepDevIndex: under.Attrs().Index, SrcAddr: tun.Local.AsSlice(),
			Port: int(tun.Port), UDPCSum: true}
		must(t, h.nl.LinkAdd(x))
		must(t, h.nl.LinkSetMTU(x, v.MTU))
		must(t, h.nl.LinkSetAlias(x, "tunnel-to-"+tun.Peers[0].Node))
		must(t, h.nl.LinkSetIP6AddrGenMode(x, addrGenNone))
		must(t, h.nl.LinkSetMaster(x, br))
		must(t, h.nl.LinkSetIsolated(x, true))
		must(t, h.nl.LinkSetUp(x))
		must(t, h.nl.NeighAppend(&netlink.Neigh{LinkIndex: x.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT | netlink.NUD_NOARP,
			Flags: netlink.NTF_SELF, HardwareAddr: make(net.HardwareAddr, 6), IP: tun.Peers[0].Underlay.AsSlice()}))
		mac := hostops.VTEPMAC(tun.Peers[0].VTEP)
		must(t, h.nl.NeighSet(&netlink.Neigh{LinkIndex: x.Attrs().Index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP | netlink.NUD_REACHABLE,
			Flags: netlink.NTF_SELF | netlink.NTF_MASTER, HardwareAddr: mac[:], IP: tun.Peers[0].Underlay.AsSlice()}))
	}
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// BenchmarkPairs measures how long 100 tunnels of pairs take from nothing
// against the same calls by hand, in turns in one run (medians), and how long
// the teardown of 500 takes.
func BenchmarkPairs(b *testing.B) {
	b.Run("setup/100", func(b *testing.B) {
		var ours, hand, ratios []float64
		for b.Loop() {
			h := newUnderlay(b, 1, 1500)[0]
			v := manyPairs(h, 100)
			none := v
			none.Tunnels = nil
			h.reconcile(false, none)
			start := time.Now()
			if r := h.reconcile(false, v); !r.Ready["blue"] {
				b.Fatal(r.Problems)
			}
			ours = append(ours, time.Since(start).Seconds()*1e3)
			h.reconcile(false)
			must(b, h.driver.Close())

			g := newUnderlay(b, 1, 1500)[0]
			g.reconcile(false, none)
			must(b, g.driver.Close())
			start = time.Now()
			byHand(b, g, v)
			hand = append(hand, time.Since(start).Seconds()*1e3)
			ratios = append(ratios, ours[len(ours)-1]/hand[len(hand)-1])
		}
		b.ReportMetric(median(ours), "ours-ms")
		b.ReportMetric(median(hand), "hand-ms")
		b.ReportMetric(median(ratios), "ratio")
	})
	b.Run("teardown/500", func(b *testing.B) {
		var took time.Duration
		for b.Loop() {
			h := newUnderlay(b, 1, 1500)[0]
			h.reconcile(false, manyPairs(h, 500))
			before := h.driver.Requests()
			start := time.Now()
			h.reconcile(false)
			took += time.Since(start)
			b.ReportMetric(float64(h.driver.Requests()-before), "requests")
			must(b, h.driver.Close())
		}
		b.ReportMetric(took.Seconds()*1e3/float64(b.N), "ms")
	})
}

// TestManyPairs: 500 tunnels go by one message, an event costs no request, and
// what one pair's change costs does not depend on how many there are.
func TestManyPairs(t *testing.T) {
	cost := map[int]uint64{}
	for _, n := range []int{3, 200} {
		h := newUnderlay(t, 1, 1500)[0]
		v := manyPairs(h, n)
		less := v
		less.Tunnels = v.Tunnels[1:]
		h.reconcile(false, less)
		best := ^uint64(0)
		for range 3 { // late events of the namespace's making may cost a reading
			before := h.driver.Requests()
			h.reconcile(false, v)
			best = min(best, h.driver.Requests()-before)
			h.reconcile(false, less)
		}
		cost[n] = best
		h.reconcile(false, v)
		h.reconcile(false, v)
		before := h.driver.Requests()
		k := kernel{t: t, ns: h.ns, nl: h.nl}
		for i := range n {
			must(t, k.SetFlag(hostops.PairTunnelOf(cluster.VNI(20000+i)), "flood", false))
			must(t, k.SetFlag(hostops.PairTunnelOf(cluster.VNI(20000+i)), "flood", true))
		}
		h.reconcile(false, v)
		if got := h.driver.Requests() - before; got > 10 {
			t.Errorf("%d changes of ports that were taken back cost %d requests", 2*n, got)
		}
		before = h.driver.Requests()
		h.reconcile(false)
		// The deletion reads the links again, the namespace and the filter are a few.
		if got := h.driver.Requests() - before; got > 20 {
			t.Errorf("teardown of %d tunnels cost %d requests", n, got)
		}
		if left := k.Devices(); fmt.Sprint(left) != "[u0]" {
			t.Errorf("left: %v", left)
		}
	}
	if cost[3] != cost[200] {
		t.Errorf("one pair more costs %d requests among 3 and %d among 200", cost[3], cost[200])
	}
	t.Logf("one pair more costs %d requests", cost[3])
}
