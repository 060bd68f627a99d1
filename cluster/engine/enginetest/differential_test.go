package enginetest

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

var (
	ops  = flag.Int("ops", 2000, "random operations per stream of the differential test")
	seed = flag.Uint64("seed", 0, "seed of the only stream to run; 0 runs a fixed one and a new one")
)

func TestDifferential(t *testing.T) {
	seeds := []uint64{1, uint64(time.Now().UnixNano())}
	if *seed != 0 {
		seeds = []uint64{*seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel() // etcd looks every 100 ms for watches that start in the past
			Differential(t, seed, *ops, Etcd(t.Context(), StartEtcd(t)))
		})
	}
}

// TestDifferentialExternal does so with a stock etcd in its own process.
func TestDifferentialExternal(t *testing.T) {
	t.Parallel()
	Differential(t, uint64(time.Now().UnixNano()), *ops, Etcd(t.Context(), StartExternal(t).Secured(t)))
}

// TestDifferentialMemory keeps the suite itself right, and quick to try.
func TestDifferentialMemory(t *testing.T) {
	t.Parallel()
	Differential(t, uint64(time.Now().UnixNano()), *ops, mvcc.NewMemory(mvcc.Config{}))
}
