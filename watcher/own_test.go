package watcher

import (
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// TestReadOwnOfNothing: a store that has lost all that a node said is one that was
// read.
func TestReadOwnOfNothing(t *testing.T) {
	s := store.New(mvcc.NewMemory(mvcc.Config{}), cluster.Identity{Role: cluster.Agent, Name: "n1"})
	keys, err := ReadOwn(t.Context(), s, "n1")
	if err != nil || keys == nil || len(keys) != 0 {
		t.Errorf("own records %#v, %v; want none, and not nil", keys, err)
	}
}
