package watcher

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// denying is a store that lets nobody write one key.
type denying struct {
	*mvcc.Memory
	key   string
	asked int // transactions with it
}

func (d *denying) Txn(ctx context.Context, t mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	if slices.ContainsFunc(t.Then, func(op mvcc.Op) bool { return op.Key == d.key }) {
		d.asked++
		return mvcc.TxnResponse{}, mvcc.ErrDenied
	}
	return d.Memory.Txn(ctx, t)
}

// TestDeniedReport: a report that the store denies keeps no other from being
// written, and is not tried for ever.
func TestDeniedReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := &denying{Memory: mvcc.NewMemory(mvcc.Config{}), key: cluster.KeyVPCStatus("n1", "red")}
		w := newWriter(store.New(kv, cluster.Identity{Role: cluster.Agent, Name: "n1"}), zap.NewNop())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { w.run(ctx); close(done) }()
		for _, vpc := range []string{"blue", "red", "white"} {
			w.put(Write{Key: cluster.KeyVPCStatus("n1", vpc), Record: &cluster.VPCStatus{NodeID: "id", State: cluster.HostMember}})
		}
		time.Sleep(time.Minute) // of the bubble's clock
		for vpc, want := range map[string]int{"blue": 1, "red": 0, "white": 1} {
			r, err := kv.Range(t.Context(), mvcc.RangeRequest{Key: cluster.KeyVPCStatus("n1", vpc)})
			if err != nil || len(r.Keys) != want {
				t.Errorf("%s: %d records, %v; want %d", vpc, len(r.Keys), err, want)
			}
		}
		if kv.asked > 2 {
			t.Errorf("what is denied was asked for %d times", kv.asked)
		}
		cancel()
		<-done
	})
}
