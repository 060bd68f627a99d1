package linux

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/hostops"
)

// manyPeers is a host in one VPC of n peers over IPv6.
func manyPeers(t testing.TB, n int) (*host, hostops.VPC) {
	t.Helper()
	h := newUnderlay(t, 1, 1500)[0]
	v := mesh([]*host{h}, 0, "blue", 10000, true)
	for i := range n {
		v.Tunnels[0].Peers = append(v.Tunnels[0].Peers, peerNumber(i))
	}
	h.reconcile(false, v)
	return h, v
}

func peerNumber(i int) hostops.Peer {
	return hostops.Peer{Node: fmt.Sprint("n", i), Underlay: netip.MustParseAddr(fmt.Sprintf("2001:db8:1::%x", i+1)),
		VTEP: netip.AddrFrom4([4]byte{10, 100, byte(1 + i>>8), byte(i)})}
}

// with is the same VPC with one peer more.
func with(v hostops.VPC, p hostops.Peer) hostops.VPC {
	t := v.Tunnels[0]
	t.Peers = append(t.Peers[:len(t.Peers):len(t.Peers)], p)
	v.Tunnels = []hostops.Tunnel{t}
	return v
}

// TestRequests: what a change costs does not depend on how many peers there are.
func TestRequests(t *testing.T) {
	for _, n := range []int{3, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			h, v := manyPeers(t, n)
			// least repeats a change and its reverse: late events of the
			// namespace's making may cost a reading of it in between.
			least := func(from, to hostops.VPC) uint64 {
				best := ^uint64(0)
				for range 5 {
					h.reconcile(false, from)
					before := h.driver.Requests()
					if r := h.reconcile(false, to); !r.Ready["blue"] {
						t.Fatalf("not ready: %+v", r)
					}
					best = min(best, h.driver.Requests()-before)
				}
				return best
			}
			more := with(v, peerNumber(n))
			if got := least(v, v); got != 0 {
				t.Errorf("no change cost %d requests", got)
			}
			if got := least(v, more); got != 4 {
				t.Errorf("one peer more cost %d requests, want one each of nftables, flood list, FDB and neighbours", got)
			}
			if got := least(more, v); got != 4 {
				t.Errorf("one peer less cost %d requests, want 4", got)
			}
			w := with(v, peerNumber(n))
			w.Tunnels[0].Peers = w.Tunnels[0].Peers[1:]
			if got := least(v, w); got != 8 {
				t.Errorf("one peer changed cost %d requests, want 8", got)
			}
		})
	}
}

func TestNoChangeIsQuick(t *testing.T) {
	h, v := manyPeers(t, 1000)
	best := time.Hour // the machine may be busy
	for range 10 {
		start := time.Now()
		h.reconcile(false, v)
		best = min(best, time.Since(start))
	}
	if best > 10*time.Millisecond {
		t.Errorf("a pass without change took %v with 1,000 peers, want at most 10ms", best)
	}
}

func BenchmarkReconcile(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		h, v := manyPeers(b, n)
		w := with(v, peerNumber(n))
		b.Run(fmt.Sprintf("no change/%d", n), func(b *testing.B) {
			for b.Loop() {
				h.ops.Reconcile(b.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
			}
		})
		b.Run(fmt.Sprintf("full/%d", n), func(b *testing.B) {
			for b.Loop() {
				h.ops.Reconcile(b.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, true)
			}
		})
		b.Run(fmt.Sprintf("join and leave/%d", n), func(b *testing.B) {
			for b.Loop() {
				h.ops.Reconcile(b.Context(), hostops.Desired{VPCs: []hostops.VPC{w}}, false)
				h.ops.Reconcile(b.Context(), hostops.Desired{VPCs: []hostops.VPC{v}}, false)
			}
		})
		ctx := b.Context()
		allow := hostops.Allow{Target: hostops.Target{VPC: "blue", Object: "filter"}, VNI: 10000, Sources: []netip.Addr{peerNumber(n).Underlay}}
		tunnel, p := hostops.Target{VPC: "blue", Object: "mv6-10000"}, peerNumber(n)
		add := hostops.AddPeer{Target: tunnel, Peer: p.Underlay}
		fdb := hostops.SetFDB{Target: tunnel, MAC: hostops.VTEPMAC(p.VTEP), Peer: p.Underlay}
		neighbour := hostops.SetNeighbour{Target: hostops.Target{VPC: "blue", Object: "vpc-blue"}, Address: p.VTEP, MAC: fdb.MAC}
		b.Run(fmt.Sprintf("join only/%d", n), func(b *testing.B) {
			for b.Loop() {
				must(b, h.driver.Apply(ctx, allow))
				must(b, h.driver.Apply(ctx, add))
				must(b, h.driver.Apply(ctx, fdb))
				must(b, h.driver.Apply(ctx, neighbour))
				b.StopTimer()
				must(b, h.driver.Apply(ctx, hostops.RemoveNeighbour{Target: neighbour.Target, Address: p.VTEP}))
				must(b, h.driver.Apply(ctx, hostops.RemoveFDB{Target: tunnel, MAC: fdb.MAC}))
				must(b, h.driver.Apply(ctx, hostops.RemovePeer(add)))
				must(b, h.driver.Apply(ctx, hostops.Deny(allow)))
				b.StartTimer()
			}
		})
	}
}
