package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// plan decides what to do from one reading of the cluster, and refuses all of
// it if any of it cannot be done.
func (a *application) plan(ctx context.Context, s *session) error {
	prefixes := []string{cluster.PrefixVPCs, cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVNIs, cluster.KeyConfig}
	if len(a.file.Endpoints) > 0 {
		prefixes = append(prefixes, cluster.PrefixIPs, cluster.PrefixMACs, cluster.PrefixSrvs)
	}
	v, err := s.read(ctx, nodeKeys, prefixes...)
	if err != nil {
		return err
	}
	a.view = v
	steps, problems := a.planAll()
	if bad := a.unreadable(ctx); len(bad) > 0 {
		problems = append(problems, bad...)
	} else {
		a.warnUnreadable(v)
	}
	for _, step := range steps {
		var m *mesh
		if step.Action == document.Delete && step.Kind == document.KindVPC {
			if m, err = a.readMesh(ctx, s, step.Name); err != nil {
				return err
			}
		}
		if err := a.check(step, m, steps); err != nil {
			at := step.Start
			if step.Action == document.Delete {
				at = document.Position{File: a.name}
			}
			problems = append(problems, problemAt(ctx, at, err))
		}
	}
	a.steps = steps
	return a.refuse(exitFailed, problems.Sorted())
}

// planAll plans each kind: endpoints after their VPCs are made, and before others
// are deleted.
func (a *application) planAll() ([]document.Step, document.Problems) {
	vpcs, endpoints := map[string]*cluster.VPCSpec{}, map[document.EndpointName]*cluster.EndpointSpec{}
	for it := range store.Below[cluster.Record](a.view, cluster.PrefixVPCs) {
		k, _ := cluster.ParseKey(it.Key) // it is of a kind that could be read
		switch r := it.Value.(type) {
		case *cluster.VPCSpec:
			vpcs[k.VPC] = r
		case *cluster.EndpointSpec:
			if r.IsGateway(k.Name) { // its VPC's document has it
				continue
			}
			endpoints[document.EndpointName{VPC: k.VPC, Name: k.Name}] = r
		}
	}
	steps, err := document.Plan(a.file, vpcs, a.c.Bool("prune"))
	problems, _ := errors.AsType[document.Problems](err)
	more, err := document.PlanEndpoints(a.file, endpoints, a.c.Bool("prune"))
	worse, _ := errors.AsType[document.Problems](err)
	gone := slices.IndexFunc(steps, func(s document.Step) bool { return s.Action == document.Delete })
	if gone < 0 {
		gone = len(steps)
	}
	return slices.Concat(steps[:gone], more, steps[gone:]), append(problems, worse...)
}

// unreadable refuses what there is no plan for: specs in the way that this
// build cannot read.
func (a *application) unreadable(ctx context.Context) document.Problems {
	var problems document.Problems
	places := map[string]document.Position{}
	for _, d := range a.file.VPCs {
		places[cluster.KeyVPCSpec(d.Name)] = d.Start
	}
	for _, d := range a.file.Endpoints {
		places[cluster.KeyEndpointSpec(d.VPC, d.Name)] = d.Start
	}
	for _, bad := range a.view.Problems() {
		k, err := cluster.ParseKey(bad.Key)
		if err != nil || k.Kind != cluster.KindVPCSpec && k.Kind != cluster.KindEndpoint {
			continue
		}
		what := fmt.Sprintf("VPC %q", k.VPC)
		if k.Kind == cluster.KindEndpoint {
			what = fmt.Sprintf("endpoint %q of VPC %s", k.Name, k.VPC)
		}
		at, named := places[bad.Key]
		if !named {
			at = document.Position{File: a.name}
		}
		if named || a.c.Bool("prune") && k.Kind == cluster.KindVPCSpec {
			problems = append(problems, problemAt(ctx, at, fmt.Errorf("%s cannot be read: %w", what, bad.Err)))
		}
	}
	return problems
}

// check refuses a step as the commands for one VPC do. The mesh is that of a VPC
// to delete.
func (a *application) check(step document.Step, m *mesh, all []document.Step) error {
	switch {
	case step.Kind == document.KindEndpoint:
		return a.checkEndpoint(step, all)
	case step.Action == document.Create:
		if _, readable := store.At[*cluster.VPCSpec](a.view, cluster.KeyVPCSpec(step.Name)); !readable && a.view.Has(cluster.KeyVPCSpec(step.Name)) {
			return nil // unreadable tells of it
		}
		if err := checkCreate(a.view, step.Name, step.Spec, !a.c.Bool("no-wait")); err != nil {
			return fmt.Errorf("create VPC %q: %w", step.Name, err)
		}
	case step.Action == document.Change:
		if err := checkSet(a.view, step.Name, step.Spec); err != nil {
			return fmt.Errorf("change VPC %q: %w", step.Name, err)
		}
	case step.Action == document.Delete:
		return checkDelete(m, false)
	}
	return nil
}

// checkEndpoint refuses what the VPC, as it is or is going to be, cannot give.
func (a *application) checkEndpoint(step document.Step, all []document.Step) error {
	if step.Endpoint == nil || step.Action == document.Delete {
		return nil
	}
	what := fmt.Sprintf("%s endpoint %q of VPC %s", step.Action, step.Name, step.VPC)
	of, _ := store.At[*cluster.VPCSpec](a.view, cluster.KeyVPCSpec(step.VPC))
	for _, s := range all {
		if s.Kind == document.KindVPC && s.Name == step.VPC && s.Spec != nil {
			of.Value = s.Spec
		}
	}
	switch {
	case of.Value == nil && a.view.Has(cluster.KeyVPCSpec(step.VPC)):
		return nil // unreadable tells of it
	case of.Value == nil && slices.ContainsFunc(a.file.VPCs, func(v document.VPC) bool { return v.Name == step.VPC }):
		return nil // its own mistake is told of
	case of.Value == nil:
		return failed("add a document of it, or see \"meshvpc vpc list\"", "%s: there is no such VPC", what)
	}
	if err := fitsIn(a.view, of.Value, step.VPC, step.Name, step.Endpoint); err != nil {
		return fmt.Errorf("%s: %w", what, err)
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
