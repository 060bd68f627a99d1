package watcher

import (
	"context"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// ReadOwn reads the records that the agent of node writes. It is never nil
// without an error.
func ReadOwn(ctx context.Context, s *store.Store, node string) ([]mvcc.KeyValue, error) {
	status, _, err := s.Read(ctx, cluster.PrefixStatus(node))
	if err != nil {
		return nil, err
	}
	live, _, err := s.Read(ctx, cluster.KeyLive(node))
	if err != nil {
		return nil, err
	}
	return slices.Concat([]mvcc.KeyValue{}, status, live), nil
}

// compareOwn sees that the store holds what was reported: somebody may have
// deleted or spoiled it, or the store went back in time. What is missing is
// reported again; a report of a VPC that this host has nothing of is deleted.
func (a *Agent) compareOwn(keys []mvcc.KeyValue) {
	if a.mute() {
		return
	}
	good := map[string]bool{}
	for _, kv := range keys {
		if _, err := cluster.Decode(kv.Key, kv.Value); err == nil {
			good[kv.Key] = true
		}
		prefix := cluster.KeyVPCStatus(a.cfg.Node, "")
		if vpc, ok := strings.CutPrefix(kv.Key, prefix); ok && a.memory.VPCs[vpc] == nil {
			a.write(kv.Key, nil, 0)
		}
	}
	if !good[cluster.KeyNodeStatus(a.cfg.Node)] && !a.memory.Left { // the controller clears away what left
		a.node = nil
	}
	if !good[cluster.KeyLive(a.cfg.Node)] {
		a.live = 0
	}
	for vpc, r := range a.reports {
		if r.written != nil && !good[cluster.KeyVPCStatus(a.cfg.Node, vpc)] {
			delete(a.reports, vpc)
		}
	}
}
