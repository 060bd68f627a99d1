package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/watcher"
	"github.com/meshvpc/meshvpc/watcher/local"
)

func (p *program) planCommand() *cli.Command {
	c := p.verb("plan", "", "print what the agent of this host would change now, and change nothing", []cli.Flag{
		timeoutFlag(10*time.Second, "how long the agent may take to answer"), outputFlag(),
	}, p.plan)
	c.Description = "meshvpc plan\nmeshvpc plan -o json"
	return c
}

func (p *program) plan(ctx context.Context, c *cli.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	var plan watcher.Plan
	err := agentClient().Get(ctx, "/v1/plan", &plan)
	if errors.Is(err, local.ErrNoAgent) {
		plan, err = p.ownPlan(ctx)
	}
	if err != nil {
		return err
	}
	return p.print(c, plan, func(w io.Writer) {
		for _, problem := range plan.Problems {
			fmt.Fprintf(w, "problem: %s\n", clean(problem))
		}
		for _, op := range plan.Operations {
			fmt.Fprintln(w, cmp.Or(op.VPC, "host")+": "+clean(op.Operation))
		}
		if len(plan.Operations) == 0 {
			fmt.Fprintln(w, "nothing to do")
		}
	})
}

// ownPlan looks at the host itself when no agent does, and takes what should
// be from the agent's cache.
func (p *program) ownPlan(ctx context.Context) (watcher.Plan, error) {
	cfg, err := readAgent("")
	if err != nil {
		return watcher.Plan{}, err
	}
	driver, err := newDriver(zap.NewNop())
	if err != nil {
		return watcher.Plan{}, fmt.Errorf("make plan: %w", err)
	}
	plan, err := watcher.OfflinePlan(ctx, driver, cfg.Node, cfg.ID, hostDirs().cache())
	return plan, errors.Join(err, driver.Close())
}
