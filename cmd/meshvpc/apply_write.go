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
			return fmt.Errorf("apply %s: %w; %d of %d objects were written", a.name, err, written, total)
		}
		written += len(b.steps)
	}
	return nil
}

func (a *application) batches() []batch {
	var list []batch
	for _, step := range a.steps {
		if step.Spec == nil && step.Endpoint == nil {
			continue
		}
		one := a.changeOf(step)
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

// changeOf is the write of one step.
func (a *application) changeOf(step document.Step) (c store.Change) {
	created := cluster.At(a.now())
	if step.Kind == document.KindEndpoint {
		if step.Action == document.Create {
			step.Endpoint.Created = created
		}
		item, _ := store.At[*cluster.EndpointSpec](a.view, keyOf(step))
		store.Put(&c, item, step.Endpoint)
		return c
	}
	if step.Action == document.Create {
		step.Spec.Created = created
	}
	item, _ := store.At[*cluster.VPCSpec](a.view, keyOf(step))
	store.Put(&c, item, step.Spec)
	return c
}

func keyOf(step document.Step) string {
	if step.Kind == document.KindEndpoint {
		return cluster.KeyEndpointSpec(step.VPC, step.Name)
	}
	return cluster.KeyVPCSpec(step.Name)
}

// lostRace names the objects of a batch that somebody else wrote since the plan.
func (a *application) lostRace(ctx context.Context, s *session, b batch) error {
	var names []string
	for _, step := range b.steps {
		key := keyOf(step)
		planned, _ := store.At[cluster.Record](a.view, key)
		now, err := store.Get[cluster.Record](ctx, s.store, key)
		if now.Mod != planned.Mod || err != nil && !errors.Is(err, store.ErrNotFound) {
			names = append(names, step.Kind+" "+step.Name)
		}
	}
	return failed("run it again: it plans from what is there now", "somebody else changed %s since the plan was made", few(names))
}
