package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// await waits for every VPC that hosts have to follow, --timeout for all of
// them, and tells of each that is not as asked.
func (a *application) await(ctx context.Context, s *session) error {
	end := time.Now().Add(a.c.Duration("timeout"))
	var errs []error
	for _, step := range a.steps {
		if !step.Followed || ctx.Err() != nil {
			continue
		}
		errs = append(errs, a.awaitStep(ctx, time.Until(end).Round(time.Millisecond), s, step))
	}
	return errors.Join(errs...)
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
