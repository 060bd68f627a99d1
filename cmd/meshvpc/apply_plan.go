package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// plan decides what to do from one reading of the cluster, and refuses all of
// it if any of it cannot be done.
func (a *application) plan(ctx context.Context, s *session) error {
	v, err := s.read(ctx, nodeKeys, cluster.PrefixVPCs, cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVNIs, cluster.KeyConfig)
	if err != nil {
		return err
	}
	a.view = v
	current := map[string]*cluster.VPCSpec{}
	for it := range store.Below[*cluster.VPCSpec](v, cluster.PrefixVPCs) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			current[k.VPC] = it.Value
		}
	}
	steps, err := document.Plan(a.file, current, a.c.Bool("prune"))
	problems, _ := errors.AsType[document.Problems](err)
	if bad := a.unreadable(ctx); len(bad) > 0 {
		problems = append(problems, bad...)
	} else {
		a.warnUnreadable(v)
	}
	for _, step := range steps {
		var m *mesh
		if step.Action == document.Delete {
			if m, err = a.readMesh(ctx, s, step.Name); err != nil {
				return err
			}
		}
		if err := a.check(step, m); err != nil {
			at := document.Position{File: a.name}
			if step.Document != nil {
				at = step.Document.Start
			}
			problems = append(problems, problemAt(ctx, at, err))
		}
	}
	a.steps = steps
	return a.refuse(exitFailed, problems.Sorted())
}

// unreadable refuses what there is no plan for: specs in the way that this
// build cannot read.
func (a *application) unreadable(ctx context.Context) document.Problems {
	var problems document.Problems
	places := map[string]document.Position{}
	for _, d := range a.file.VPCs {
		places[d.Name] = d.Start
	}
	for _, bad := range a.view.Problems() {
		k, err := cluster.ParseKey(bad.Key)
		if err != nil || k.Kind != cluster.KindVPCSpec {
			continue
		}
		at, named := places[k.VPC]
		if !named {
			at = document.Position{File: a.name}
		}
		if named || a.c.Bool("prune") {
			problems = append(problems, problemAt(ctx, at, fmt.Errorf("VPC %q cannot be read: %w", k.VPC, bad.Err)))
		}
	}
	return problems
}

// check refuses a step as the commands for one VPC do. The mesh is that of a VPC
// to delete.
func (a *application) check(step document.Step, m *mesh) error {
	switch step.Action {
	case document.Create:
		if _, readable := store.At[*cluster.VPCSpec](a.view, cluster.KeyVPCSpec(step.Name)); !readable && a.view.Has(cluster.KeyVPCSpec(step.Name)) {
			return nil // unreadable tells of it
		}
		if err := checkCreate(a.view, step.Name, step.Spec, !a.c.Bool("no-wait")); err != nil {
			return fmt.Errorf("create VPC %q: %w", step.Name, err)
		}
	case document.Change:
		if err := checkSet(a.view, step.Name, step.Spec); err != nil {
			return fmt.Errorf("change VPC %q: %w", step.Name, err)
		}
	case document.Delete:
		return checkDelete(m, false)
	}
	return nil
}

// problemAt is an error with its remedy, in one line.
func problemAt(ctx context.Context, at document.Position, err error) document.Problem {
	text := err.Error()
	if _, do := remedy(ctx, err); do != "" {
		text += " (" + do + ")"
	}
	return document.Problem{Position: at, Text: text}
}

// refuse tells each problem on a line of its own, and returns the error that
// ends the command; nil if err is.
func (a *application) refuse(code int, err error) error {
	problems, ok := errors.AsType[document.Problems](err)
	if !ok {
		return err
	}
	for _, one := range problems {
		fmt.Fprintln(a.err, oneLine(one.String()))
	}
	do := "mend it and run it again"
	if code == exitUsage {
		do += `; "meshvpc schema" describes what a file can hold`
	}
	return &refusal{code, fmt.Errorf("apply %s: %s, nothing was written", a.name, counted(len(problems), "mistake")), do}
}
