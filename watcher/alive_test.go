package watcher

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// stuckDriver does not return from looking at the host until it may.
type stuckDriver struct {
	hostops.Driver
	may chan struct{}
}

func (d stuckDriver) Observe(ctx context.Context, full bool) (hostops.State, error) {
	<-d.may
	return d.Driver.Observe(ctx, full)
}

// TestAlive: an agent is alive once it has seen its host, and says so as often as
// asked though nothing happens; one that is stuck is not.
func TestAlive(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		name := w.node(1)
		driver, err := w.hosts[name].Open()
		if err != nil {
			t.Fatal(err)
		}
		defer driver.Close()
		var calls atomic.Int64
		may := make(chan struct{})
		a, err := New(Config{
			Node: name, NodeID: "id-" + name, Driver: stuckDriver{driver, may}, Cache: filepath.Join(w.caches, name),
			Store: store.New(w.kv, cluster.Identity{Role: cluster.Agent, Name: name}), Underlay: []UnderlaySpec{{Device: "u0"}},
			Alive: func() { calls.Add(1) }, AliveEvery: 2 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		w.settle(time.Minute)
		if n := calls.Load(); n != 0 {
			t.Errorf("alive %d times while it is stuck in its first pass, want none", n)
		}
		close(may)
		w.settle(10 * time.Second)
		before := calls.Load()
		if before == 0 {
			t.Error("not alive after the first pass")
		}
		w.settle(20 * time.Second)
		if n := calls.Load() - before; n < 10 || n > 20 {
			t.Errorf("alive %d times in 20 s at rest; want once in 2 s, and for what happens", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
