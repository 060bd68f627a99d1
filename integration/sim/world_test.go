package sim

import (
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// TestRestoreAtTheSameRevision has a store go over to a history that is as long as
// its own: what was read of the one is not told of the other.
func TestRestoreAtTheSameRevision(t *testing.T) {
	w := New(Config{Quiet: true})
	key := cluster.KeyAllocVNI(100)
	hold := func(holder string) *mvcc.State {
		t.Helper()
		value, err := cluster.Encode(&cluster.Allocation{Holder: holder}, nil)
		if err == nil {
			_, err = w.kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, value)}})
		}
		if err != nil {
			t.Fatal(err)
		}
		w.written()
		return w.kv.Snapshot()
	}
	begin := w.kv.Snapshot()
	blue := hold("blue")
	w.restore(begin)
	red := hold("red")
	for _, history := range []*mvcc.State{red, blue, red} {
		w.restore(history)
		want, err := w.kv.Range(t.Context(), mvcc.Prefix(cluster.PrefixAlloc))
		if err != nil {
			t.Fatal(err)
		}
		got, err := w.list(mvcc.Prefix(cluster.PrefixAlloc))
		if err != nil || len(got.Keys) != 1 || string(got.Keys[0].Value) != string(want.Keys[0].Value) {
			t.Errorf("list = %v, %v; want %v", got.Keys, err, want.Keys)
		}
	}
}
