package allocator_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/enginetest"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// synced is an embedded etcd that writes through to the disk.
func synced(b *testing.B) mvcc.KV {
	b.Helper()
	ports := enginetest.FreePorts(b, 2)
	engine, err := etcd.New(etcd.Config{Name: "a", DataDir: b.TempDir() + "/store", ListenClient: ports[:1], ListenPeer: ports[1:]})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	select {
	case <-engine.Ready():
	case err := <-ended:
		b.Fatal(err)
	}
	cli, err := client.Dial(client.Config{Endpoints: engine.Endpoints()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cancel()
		if err := errors.Join(cli.Close(), <-ended); err != nil {
			b.Error(err)
		}
	})
	return client.New(cli)
}

// BenchmarkAllocate allocates VNIs from 50 goroutines, each transaction
// acknowledged by an embedded etcd, and looks at what the store holds then: no
// VNI twice, and none free below the highest.
func BenchmarkAllocate(b *testing.B) {
	s := store.New(synced(b), cluster.Identity{Role: cluster.Controller})
	a := allocator.New()
	a.Refresh(store.NewView(), 1)
	var n atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				claim, err := a.ClaimVNI(cluster.VNIRange{First: 1, Last: cluster.MaxVNI}, fmt.Sprintf("v%d", i), nil)
				if err != nil {
					b.Error(err)
					return
				}
				var c store.Change
				claim.AddTo(&c)
				rev, err := s.Commit(context.Background(), c)
				claim.Settle(rev, err)
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "allocations/s")
	keys, _, err := s.Read(context.Background(), cluster.PrefixVNIs)
	if err != nil || len(keys) != b.N {
		b.Fatalf("%d VNIs are held, want %d; %v", len(keys), b.N, err)
	}
	if last := mvcc.KeyValue(keys[len(keys)-1]).Key; last != cluster.KeyAllocVNI(cluster.VNI(b.N)) {
		b.Errorf("the highest is %s: some below are free", last)
	}
}
