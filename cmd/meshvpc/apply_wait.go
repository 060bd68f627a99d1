package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// await waits for every VPC that hosts have to follow, --timeout for all of
// them, and tells of each that is not as asked.
func (a *application) await(ctx context.Context, s *session) error {
	end := time.Now().Add(a.c.Duration("timeout"))
	var errs []error
	for _, step := range a.steps {
		if !step.Followed || step.Kind != document.KindVPC || ctx.Err() != nil {
			continue
		}
		errs = append(errs, a.awaitStep(ctx, time.Until(end).Round(time.Millisecond), s, step))
	}
	if ctx.Err() == nil {
		errs = append(errs, a.awaitEndpoints(ctx, max(time.Until(end), endpointsLeast), s))
	}
	return errors.Join(errs...)
}

// endpointsLeast is how long endpoints are waited for when VPCs took all the time.
const endpointsLeast = time.Second

// awaitEndpoints waits until the controller has given all endpoints what they ask
// for, and says of one that has not what it is.
func (a *application) awaitEndpoints(ctx context.Context, left time.Duration, s *session) error {
	awaited := map[string]document.Step{} // by the prefix of its records
	var vpcs []string
	for _, step := range a.steps {
		if step.Followed && step.Kind == document.KindEndpoint {
			awaited[cluster.PrefixEndpoints(step.VPC)+step.Name+"/"] = step
			vpcs = append(vpcs, cluster.PrefixEndpoints(step.VPC))
		}
	}
	if len(awaited) == 0 {
		return nil
	}
	slices.Sort(vpcs)
	vpcs = slices.Compact(vpcs)
	wait, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	var still []string
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		if slices.ContainsFunc(vpcs, func(prefix string) bool { return !v.Synced(prefix) }) {
			return nil
		}
		still = still[:0]
		for _, prefix := range slices.Sorted(maps.Keys(awaited)) {
			if why := awaits(v, prefix, awaited[prefix]); why != "" {
				still = append(still, awaited[prefix].Name+why)
			}
		}
		if len(still) == 0 {
			return errLook
		}
		return nil
	}, vpcs...)
	if ctx.Err() == nil && wait.Err() != nil {
		return notSo("see \"meshvpc endpoint list\"", "apply %s: endpoints are not as asked yet: %s", a.name, few(still))
	}
	return err
}

// awaits says what an endpoint lacks, "" if nothing.
func awaits(v *store.View, prefix string, step document.Step) string {
	own, has := store.At[*cluster.EndpointOwn](v, prefix+"own")
	switch {
	case step.Action == document.Delete && (has || v.Has(prefix+"spec")):
		return " (it is being deleted)"
	case step.Action == document.Delete:
		return ""
	case !has:
		return " (no controller has taken it up yet)"
	case own.Value.Reason != "":
		return " (" + clean(own.Value.Reason) + ")"
	case step.Endpoint.Node != "" && own.Value.Node != step.Endpoint.Node:
		return " (it is not at " + step.Endpoint.Node + " yet)"
	}
	return ""
}

// awaitStep waits for one VPC; without time left it only looks.
func (a *application) awaitStep(ctx context.Context, left time.Duration, s *session, step document.Step) error {
	var m *mesh
	var err error
	switch {
	case left <= 0:
		m, err = a.look(ctx, s, step)
	case step.Action == document.Delete:
		err = a.awaitGone(ctx, left, s, step.Name)
	default:
		m, err = a.awaitReady(ctx, left, s, step.Name)
	}
	if err != nil || !forPeople(a.c) {
		return err
	}
	if step.Action == document.Delete {
		_, err = fmt.Fprintf(a.out, "VPC %s is deleted\n", step.Name)
		return err
	}
	r := m.peers()
	_, err = fmt.Fprintf(a.out, "VPC %s is ready: VNI %d, MTU %d, %s, encryption: none\n", r.VPC, r.VNI, r.MTU, counted(len(r.Members), "member"))
	return err
}

// look is whether a VPC is as asked by now.
func (a *application) look(ctx context.Context, s *session, step document.Step) (*mesh, error) {
	v, err := s.read(ctx, func(v *store.View) []string { return statusPrefixes(v, step.Name) }, meshPrefixes(step.Name)...)
	if err != nil {
		return nil, err
	}
	m := meshOf(v, step.Name)
	r := m.report()
	do := "it goes on by itself: \"meshvpc vpc status " + step.Name + "\" shows how far it is"
	switch {
	case step.Action == document.Delete && m.exists():
		return nil, notSo(do, "delete VPC %q: it awaits %s", step.Name, cmp.Or(few(m.heldBy()), "the controller"))
	case step.Action != document.Delete && !r.Ready:
		return nil, notSo(do, "wait for VPC %q: it awaits %s", step.Name, r.awaited())
	}
	return m, nil
}
