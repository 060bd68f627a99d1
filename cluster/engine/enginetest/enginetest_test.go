package enginetest

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestMemory(t *testing.T) {
	t.Parallel() // leases take their time
	Run(t, func(*testing.T) Store { return mvcc.NewMemory(mvcc.Config{}) })
}

func TestEtcd(t *testing.T) {
	t.Parallel()
	Run(t, func(t *testing.T) Store { return Etcd(t.Context(), StartEtcd(t)) })
}

// TestExternal holds a stock etcd in its own process to the same contract, over
// TLS and with authentication on.
func TestExternal(t *testing.T) {
	t.Parallel()
	Run(t, func(t *testing.T) Store { return Etcd(t.Context(), StartExternal(t).Secured(t)) })
}
