package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// largestBatch bounds the specs of one transaction, in bytes; etcd refuses
// requests of more than 1.5 MiB. A single spec may be larger.
const largestBatch = 1 << 20

// batch is steps that are written together or not at all.
type batch struct {
	change store.Change
	steps  []document.Step
	size   int
}

// write writes the steps, each guarded by the revision that it was planned
// from: all in one transaction if they fit, else in as few as may be.
func (a *application) write(ctx context.Context, s *session) error {
	batches := a.batches()
	total, written := 0, 0
	for _, b := range batches {
		total += len(b.steps)
	}
	for _, b := range batches {
		err := s.commit(ctx, b.change)
		if errors.Is(err, store.ErrConflict) {
			err = a.lostRace(ctx, s, b)
		}
		if err != nil {
			return fmt.Errorf("apply %s: %w; %d of %d VPCs were written", a.name, err, written, total)
		}
		written += len(b.steps)
	}
	return nil
}

func (a *application) batches() []batch {
	var list []batch
	for _, step := range a.steps {
		if step.Spec == nil {
			continue
		}
		if step.Action == document.Create {
			step.Spec.Created = cluster.At(a.now())
		}
		item, _ := store.At[*cluster.VPCSpec](a.view, cluster.KeyVPCSpec(step.Name))
		var one store.Change
		store.Put(&one, item, step.Spec)
		size := len(one.String())
		if n := len(list); n == 0 || list[n-1].change.Ops() == mvcc.MaxTxnOps || list[n-1].size+size > largestBatch {
			list = append(list, batch{})
		}
		b := &list[len(list)-1]
		b.change.Add(one)
		b.steps = append(b.steps, step)
		b.size += size
	}
	return list
}

// lostRace names the VPCs of a batch that somebody else wrote since the plan.
func (a *application) lostRace(ctx context.Context, s *session, b batch) error {
	var names []string
	for _, step := range b.steps {
		key := cluster.KeyVPCSpec(step.Name)
		planned, _ := store.At[*cluster.VPCSpec](a.view, key)
		now, err := store.Get[*cluster.VPCSpec](ctx, s.store, key)
		if now.Mod != planned.Mod || err != nil && !errors.Is(err, store.ErrNotFound) {
			names = append(names, step.Name)
		}
	}
	return failed("run it again: it plans from what is there now", "somebody else changed VPC %s since the plan was made", few(names))
}
