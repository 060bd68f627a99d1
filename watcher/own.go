package watcher

import (
	"bytes"
	"context"
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
	requests, _, err := s.Read(ctx, cluster.PrefixRequests(node))
	if err != nil {
		return nil, err
	}
	return append(append(append([]mvcc.KeyValue{}, status...), live...), requests...), nil
}

// compareOwn sees that the store holds what was reported: somebody may have
// deleted or spoiled it, or the store went back in time. What is not so is
// reported again; a report of a VPC that this host has nothing of is deleted, and
// a request that nobody wants. It reports whether memory changed.
func (a *Agent) compareOwn(view *store.View, keys []mvcc.KeyValue) (changed bool) {
	if a.mute() {
		return false
	}
	have := map[string][]byte{}
	lease := mvcc.LeaseID(0)
	for _, kv := range keys {
		have[kv.Key] = kv.Value
		if kv.Key == cluster.KeyLive(a.cfg.Node) {
			lease = kv.Lease
		}
		vpc, ok := strings.CutPrefix(kv.Key, cluster.KeyVPCStatus(a.cfg.Node, ""))
		if ok && a.memory.VPCs[vpc] == nil {
			a.write(kv.Key, nil, 0)
		}
	}
	if a.node != nil && !a.memory.Left { // the controller clears away what left
		own := *a.node
		if !holds(have[cluster.KeyNodeStatus(a.cfg.Node)], &own) {
			a.node = nil
		}
	}
	if _, err := cluster.Decode(cluster.KeyLive(a.cfg.Node), have[cluster.KeyLive(a.cfg.Node)]); err != nil || lease != a.live {
		a.live = 0
	}
	for vpc, r := range a.reports {
		if r.written == nil {
			continue
		}
		own := *r.written
		if !holds(have[cluster.KeyVPCStatus(a.cfg.Node, vpc)], &own) {
			delete(a.reports, vpc)
		}
	}
	a.compareFences(keys)
	changed = a.forgetDeletes(view, have)
	a.compareEndpoints(have)
	a.compareClaims(have)
	return changed
}

// holds reports whether value is what is written for r.
func holds(value []byte, r cluster.Record) bool {
	b, err := cluster.Encode(r, nil)
	return err == nil && bytes.Equal(b, value)
}
