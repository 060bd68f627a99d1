package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// apply does what was planned, and writes into steps how far it came.
func (a *adding) apply(ctx context.Context, root *rootShell, plan addPlan, steps []addStep) error {
	show := a.progress()
	defer show.done()
	for i := range steps {
		s := &steps[i]
		if s.State != "planned" {
			continue
		}
		a.at = s.Step
		show.show("%s: %s", s.Step, s.What)
		var err error
		switch s.Step {
		case addCopy:
			err = a.copyProgram(ctx, root, s.Command, plan.file, show)
		case addJoin:
			err = a.joinNode(ctx, root, s.Command)
		case addService:
			_, err = root.run(ctx, s.Command, nil)
		case addLive:
			err = a.awaitLive(ctx, plan.node)
		}
		if err != nil {
			show.done()
			return a.stepFailed(ctx, err)
		}
		s.State = "done"
	}
	return nil
}

// stepFailed names the step in an error, and what to do if nobody knows better.
func (a *adding) stepFailed(ctx context.Context, err error) error {
	code, do := exitFailed, "nothing half done is left there; mend that and run it again: it goes on where it ended"
	r, known := errors.AsType[*refusal](err)
	switch {
	case known && r.code == exitNotSo:
		code, do = r.code, r.do
	case errors.Is(ctx.Err(), context.Canceled):
		do = "run it again to go on where it ended"
		err = errors.New("it was interrupted")
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		code, do = exitNotSo, "run it again to go on, with a longer --timeout"
		err = fmt.Errorf("not done within %s", a.bound)
	case known:
		code, do = r.code, r.do
	}
	return &refusal{code, fmt.Errorf("add node: %s, on %s: %w", a.at, a.request.target, err), do}
}

// copyProgram copies the program by a stream.
func (a *adding) copyProgram(ctx context.Context, root *rootShell, script string, file programFile, show *progress) error {
	f, err := os.Open(file.path)
	if err != nil {
		return err
	}
	defer f.Close()
	from := &countingReader{Reader: f, each: func(n int64) { show.show("copy: %.0f of %.0f MB", float64(n)/1e6, float64(file.size)/1e6) }}
	_, err = root.run(ctx, script, from)
	return err
}

// countingReader tells how much was read of a Reader.
type countingReader struct {
	io.Reader
	n    int64
	each func(n int64)
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n += int64(n)
	c.each(c.n)
	return n, err
}

// addTokenLife is how long the token of a join can be used.
const addTokenLife = 5 * time.Minute

// revokeIn bounds the revoking of a token after a join that failed.
const revokeIn = 5 * time.Second

// joinNode has the host join with a token made for it alone, which opens nothing
// any more if that fails.
func (a *adding) joinNode(ctx context.Context, root *rootShell, script string) error {
	t, _, err := a.makeToken(ctx, cluster.TokenNode, 1, addTokenLife, a.now())
	if err != nil {
		return err
	}
	_, err = root.run(ctx, script, strings.NewReader(t.String()+"\n"))
	if err == nil {
		return nil
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeIn)
	defer cancel()
	if gone := a.revokeToken(late, t.RecordID()); gone != nil && !errors.Is(gone, store.ErrNotFound) {
		a.warn("the token of the join is not revoked, and ends in %v (meshvpc cluster token revoke %s): %v", addTokenLife, t.RecordID(), gone)
	}
	return hide(err, t.String())
}

// awaitLive waits until the node's agent has reported.
func (a *adding) awaitLive(ctx context.Context, name string) error {
	err := a.follow(ctx, func(_ *store.Mirror, v *store.View) error {
		if it, ok := store.At[*cluster.Node](v, cluster.KeyNode(name)); ok && isLive(v, name, it.Value.ID) {
			return errLook
		}
		return nil
	}, cluster.KeyNode(name), cluster.KeyLive(name))
	if errors.Is(err, context.DeadlineExceeded) {
		return notSo(fmt.Sprintf("look there: %s service status, %s doctor", a.request.path, a.request.path), "node %s has joined and its agent was started, but did not report within %s", name, a.bound)
	}
	return err
}
