package watcher

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// fences is what the agent knows of the fences beside what memory holds of them.
type fences struct {
	at   int64                // store revision that they were last read up to; 0: not since the start
	part bool                 // some of them cannot be read: nothing is said
	due  bool                 // one came or went, and has not been said to be in the kernel
	told *cluster.FenceStatus // as last reported
}

// absorbFences takes the fences into memory and reports whether any came or went.
// One goes by a list without it that was read whole, and by nothing else: neither by
// a store that is away, nor by records that do not count, nor by one that cannot be
// read any more.
func (a *Agent) absorbFences(view *store.View, r records) (changed bool) {
	if a.hold != "" || !r.synced || !view.Synced(cluster.PrefixFences) {
		return false
	}
	var now map[string]*cluster.Fence
	now, a.fences.part = readFences(view, a.memory.Fences)
	first := a.fences.at == 0
	a.fences.at, a.memory.fencesRead = view.Revision(cluster.PrefixFences), true
	if maps.EqualFunc(now, a.memory.Fences, sameFence) {
		a.fences.due = a.fences.due || first && len(now) > 0
		return first
	}
	for node, f := range now {
		if old := a.memory.Fences[node]; old == nil || !sameFence(old, f) {
			a.log.Warn("node is fenced", zap.String("node", node), zap.String("reason", f.Why))
		}
	}
	for node := range a.memory.Fences {
		if now[node] == nil {
			a.log.Info("node is fenced no more", zap.String("node", node))
		}
	}
	if a.memory.fenced(a.cfg.Node, a.cfg.NodeID) != nil && now[a.cfg.Node] == nil {
		a.gate.freed = a.now
	}
	a.memory.Fences, a.fences.due = now, true
	return true
}

// readFences reads the fences. One that cannot be read is as it was: then what is
// returned is part of what the store says.
func readFences(view *store.View, old map[string]*cluster.Fence) (now map[string]*cluster.Fence, part bool) {
	put := func(key string, f *cluster.Fence) {
		if now == nil {
			now = map[string]*cluster.Fence{}
		}
		now[strings.TrimPrefix(key, cluster.PrefixFences)] = f
	}
	for it := range store.Below[*cluster.Fence](view, cluster.PrefixFences) {
		put(it.Key, it.Value)
	}
	for _, p := range view.Problems() {
		node, is := strings.CutPrefix(p.Key, cluster.PrefixFences)
		part = part || is
		if is && now[node] == nil && old[node] != nil {
			put(p.Key, old[node])
		}
	}
	return now, part
}

func sameFence(a, b *cluster.Fence) bool {
	return a.NodeID == b.NodeID && a.Why == b.Why && a.Since.Equal(b.Since.Time) && slices.Equal(a.Underlay, b.Underlay)
}

// fenced is the fence of a node, nil if it has none.
func (m *memory) fenced(node, id string) *cluster.Fence {
	if f := m.Fences[node]; f != nil && f.NodeID == id {
		return f
	}
	return nil
}

// outside lists, sorted, the addresses that nothing is to be taken from: those that
// the fences name, and those that the nodes have in VPCs of this host by now.
func (m *memory) outside(me string) (all []netip.Addr) {
	for node, f := range m.Fences {
		if node == me {
			continue
		}
		all = append(all, f.Underlay...)
		for _, v := range m.VPCs {
			if p := v.Members[node]; p != nil && p.NodeID == f.NodeID {
				all = append(all, p.Underlays()...)
			}
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// reportFences says up to which revision the fences are in the kernel, when one came
// or went and they are.
func (a *Agent) reportFences() {
	if !a.fences.due || a.fences.part || !a.host0.Fenced || a.mute() {
		return
	}
	s := &cluster.FenceStatus{NodeID: a.cfg.NodeID, Revision: a.fences.at}
	own := *s // as in report
	a.write(cluster.KeyFenceStatus(a.cfg.Node), &own, 0)
	a.fences.told, a.fences.due = s, false
}

// compareFences sees that the store holds what was said of fences, as compareOwn does.
func (a *Agent) compareFences(keys []mvcc.KeyValue) {
	if a.fences.told == nil {
		return
	}
	key, own := cluster.KeyFenceStatus(a.cfg.Node), *a.fences.told
	a.fences.due = a.fences.due || !slices.ContainsFunc(keys, func(kv mvcc.KeyValue) bool { return kv.Key == key && holds(kv.Value, &own) })
}

// validateFences holds what was read from the cache to what could have been accepted.
func (m *memory) validateFences() error {
	for node, f := range m.Fences {
		if err := cluster.CheckNodeName(node); err != nil {
			return err
		}
		if f == nil {
			return fmt.Errorf("%w fence of %s: null", cluster.ErrInvalid, node)
		}
		if err := f.Validate(); err != nil {
			return fmt.Errorf("fence of %s: %w", node, err)
		}
	}
	return nil
}
