package controller

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// filled is a store with one VPC of so many members, made by step itself.
func filled(b *testing.B, members int, transport cluster.Transport) *mvcc.Memory {
	kv := wished(b, members, transport)
	for fill(b, kv) {
	}
	return kv
}

// wished is a store with the nodes and the spec of a VPC.
func wished(b *testing.B, members int, transport cluster.Transport) *mvcc.Memory {
	kv := mvcc.NewMemory(mvcc.Config{})
	put := func(key string, r cluster.Record) {
		b.Helper()
		v, err := cluster.Encode(r, nil)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := kv.Txn(b.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, v)}}); err != nil {
			b.Fatal(err)
		}
	}
	put(cluster.KeyConfig, &cluster.Config{ID: "c", Era: 1, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange})
	blue := spec("all", "10.100.0.0/16")
	blue.Transport = transport
	put(cluster.KeyVPCSpec("blue"), blue)
	for i := range members {
		name := fmt.Sprintf("h%04d", i)
		put(cluster.KeyNode(name), node(name))
		put(cluster.KeyNodeStatus(name), report(name, fmt.Sprintf("192.168.%d.%d", i/250, i%250+1), 1500))
	}
	return kv
}

// fill makes one pass by a new leader, and reports whether it did anything.
func fill(b *testing.B, kv *mvcc.Memory) bool {
	s := store.New(kv, cluster.Identity{Role: cluster.Controller})
	es := firstOf(newState().believe(viewOf(b, kv), time.Now()))
	for _, e := range es {
		if _, err := s.Commit(b.Context(), e.change); err != nil {
			b.Fatal(err)
		}
	}
	return len(es) > 0
}

func firstOf(es []effect, _ time.Time) []effect { return es }

// BenchmarkPass measures a pass that finds nothing to do.
func BenchmarkPass(b *testing.B) {
	for _, members := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			view := viewOf(b, filled(b, members, ""))
			s := newState()
			for b.Loop() {
				if es, _ := s.believe(view, time.Unix(0, 0)); len(es) != 0 {
					b.Fatalf("%d effects, first %s", len(es), es[0].change.Why)
				}
			}
		})
	}
}

// BenchmarkJoin measures from the put of a node's report to its member record
// at a watcher, with so many members there.
func BenchmarkJoin(b *testing.B) {
	for _, members := range []int{10, 100, 1000} {
		b.Run(fmt.Sprint(members), func(b *testing.B) {
			kv := filled(b, members, "")
			c, err := New(Config{Store: store.New(kv, cluster.Identity{Role: cluster.Controller}), Name: "a", Ask: honest})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			wg.Go(func() { _ = c.Run(ctx) })
			defer wg.Wait()
			defer cancel()
			r := mvcc.Prefix(cluster.PrefixMembers("blue"))
			watch := kv.Watch(ctx, mvcc.WatchRequest{Key: r.Key, End: r.End})
			put := func(key string, rec cluster.Record) {
				v, err := cluster.Encode(rec, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := kv.Txn(ctx, mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, v)}}); err != nil {
					b.Fatal(err)
				}
			}
			i := 0
			join := func() {
				name := fmt.Sprintf("j%d", i)
				put(cluster.KeyNode(name), node(name))
				put(cluster.KeyNodeStatus(name), report(name, fmt.Sprintf("10.%d.%d.%d", 1+i/62500, i/250%250, i%250+1), 1500))
				<-watch
				i++
			}
			join() // elected, and warm
			for b.Loop() {
				join()
			}
		})
	}
}

// BenchmarkPairs measures passes over a p2p VPC of so many members, which has
// members·(members-1)/2 pairs: one at rest, and all that a VPC takes from
// nothing, their transactions included.
func BenchmarkPairs(b *testing.B) {
	for _, members := range []int{10, 50, 200} {
		b.Run(fmt.Sprintf("rest/%d", members), func(b *testing.B) {
			view := viewOf(b, filled(b, members, cluster.P2P))
			s := newState()
			for b.Loop() {
				if es, _ := s.believe(view, time.Unix(0, 0)); len(es) != 0 {
					b.Fatalf("%d effects, first %s", len(es), es[0].change.Why)
				}
			}
		})
		b.Run(fmt.Sprintf("new/%d", members), func(b *testing.B) {
			var passes, planning, worst float64
			for b.Loop() {
				b.StopTimer()
				kv := wished(b, members, cluster.P2P)
				b.StartTimer()
				s, st := newState(), store.New(kv, cluster.Identity{Role: cluster.Controller})
				for done := false; !done; {
					view := viewOf(b, kv)
					began := time.Now()
					es, _ := s.believe(view, time.Unix(0, 0))
					took := time.Since(began).Seconds() * 1e3
					passes, planning, worst = passes+1, planning+took, max(worst, took)
					for _, e := range es {
						rev, err := st.Commit(b.Context(), e.change)
						if e.settle(rev, err); err != nil {
							b.Fatal(err)
						}
					}
					done = len(es) == 0
				}
			}
			b.ReportMetric(passes/float64(b.N), "passes/op")
			b.ReportMetric(planning/float64(b.N), "planning-ms/op")
			b.ReportMetric(worst, "worst-pass-ms")
		})
	}
}

// BenchmarkEndpoints measures a pass that finds nothing to do, over so many endpoints,
// of which all are attached.
func BenchmarkEndpoints(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			kv := filled(b, 3, "")
			put := func(key string, r cluster.Record) {
				value, err := cluster.Encode(r, nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := kv.Txn(b.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, value)}}); err != nil {
					b.Fatal(err)
				}
			}
			blue := spec("all", "10.100.0.0/16")
			blue.Network.IPv4 = netip.MustParsePrefix("10.10.0.0/16")
			put(cluster.KeyVPCSpec("blue"), blue)
			for i := range n {
				name := fmt.Sprintf("e%05d", i)
				put(cluster.KeyEndpointSpec("blue", name), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Node: fmt.Sprintf("h%04d", i%3)})
			}
			for fill(b, kv) {
			}
			for i := range n {
				name, at := fmt.Sprintf("e%05d", i), fmt.Sprintf("h%04d", i%3)
				put(cluster.KeyEndpointStatus(at, "blue", name), &cluster.EndpointStatus{NodeID: "id-" + at, State: cluster.PortReady, Era: 1, Epoch: 1})
			}
			view := viewOf(b, kv)
			s := newState()
			for b.Loop() {
				if es, _ := s.believe(view, time.Unix(0, 0)); len(es) != 0 {
					b.Fatalf("%d effects, first %s", len(es), es[0].change.Why)
				}
			}
		})
	}
}
