package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// datacenterPlan is `failover plan DC -o json`: what its loss would mean.
type datacenterPlan struct {
	Datacenter string       `json:"datacenter"`
	Nodes      []string     `json:"nodes"`
	Endpoints  []relocation `json:"endpoints"`
	// Quorum reports whether the servers elsewhere could decide anything.
	Quorum   bool     `json:"quorum"`
	Warnings []string `json:"warnings"`
}

// planOf says what the loss of a datacenter would mean.
func (in *sites) planOf(dc string) (plan datacenterPlan, err error) {
	plan = datacenterPlan{Datacenter: dc, Nodes: in.in(dc), Warnings: []string{}}
	if len(plan.Nodes) == 0 {
		return plan, in.noDatacenter(dc)
	}
	plan.Endpoints = in.leaving(plan.Nodes)
	if names := stuck(plan.Endpoints); len(names) > 0 {
		plan.Warnings = append(plan.Warnings, "these would answer nowhere: "+few(names))
	}
	in.wait(plan.Endpoints)
	q := quorumOf(in.view)
	if plan.Quorum = q.Survives(dc); !plan.Quorum {
		plan.Warnings = append(plan.Warnings, strandedText(&q, dc)+"; "+strandedMend(&q))
	}
	return plan, nil
}

// wait has endpoints that must not run twice go nowhere: what a node that is drained
// would hand over, one that is lost does not. That is as it is meant to be, and no warning.
func (in *sites) wait(list []relocation) {
	for i := range list {
		r := &list[i]
		it, ok := store.At[*cluster.EndpointSpec](in.view, cluster.KeyEndpointSpec(r.VPC, r.Endpoint))
		if ok && r.To != "" && it.Value.Failover.Stateful() {
			r.To, r.Reason = "", waitsForHost
		}
	}
}

func (p *program) failoverPlan(ctx context.Context, c *cli.Context, s *session) error {
	in, err := s.readSites(ctx)
	if err != nil {
		return err
	}
	plan, err := in.planOf(c.Args().First())
	if err != nil {
		return err
	}
	return p.print(c, plan, func(w io.Writer) {
		fmt.Fprintf(w, "if %s is lost (%s):\n", plan.Datacenter, few(plan.Nodes))
		if len(plan.Endpoints) == 0 {
			fmt.Fprintln(w, "no endpoint that moves by itself is there")
		} else {
			relocationTable(w, plan.Endpoints)
		}
		for _, warning := range plan.Warnings {
			fmt.Fprintf(w, "warning: %s\n", warning)
		}
	})
}

// failoverReturn moves what prefers a datacenter back to it, after showing it.
func (p *program) failoverReturn(ctx context.Context, c *cli.Context, s *session) error {
	dc := c.Args().First()
	in, err := s.readSites(ctx)
	if err != nil {
		return err
	}
	if len(in.in(dc)) == 0 {
		return in.noDatacenter(dc)
	}
	list := in.moves(
		func(e *endpointRecords) bool {
			now, _ := e.spec.Failover.Place.Rank(e.own.Node, in.nodes[e.own.Node])
			home := in.home(e, dc)
			return in.nodes[e.own.Node] != nil && in.nodes[e.own.Node].Datacenter != dc && home >= 0 && home < now
		},
		func(_ *endpointRecords, node string) bool { return in.nodes[node].Datacenter == dc })
	if len(list) > 0 {
		relocationTable(p.err, list)
		if err := p.confirm(c, "datacenter", dc); err != nil {
			return err
		}
	}
	return p.relocate(ctx, c, s, list, true)
}

// home is the best rank that a datacenter's nodes have for an endpoint, -1 for none.
func (in *sites) home(e *endpointRecords, dc string) int {
	best := -1
	for _, name := range in.in(dc) {
		if rank, ok := e.spec.Failover.Place.Rank(name, in.nodes[name]); ok && (best < 0 || rank < best) {
			best = rank
		}
	}
	return best
}

// relocate writes where endpoints are to go, and waits until they are there. What a
// silent node has goes where failover finds best. Where they go they stay: it is preferred
// until somebody ends that, unless they go home.
func (p *program) relocate(ctx context.Context, c *cli.Context, s *session, list []relocation, home bool) error {
	if names := stuck(list); len(names) > 0 {
		p.warn("these stay: %s", few(names))
	}
	for _, r := range list {
		if r.To == "" || r.silent {
			continue
		}
		err := edit(ctx, s, cluster.KeyEndpointSpec(r.VPC, r.Endpoint), func(spec *cluster.EndpointSpec) error {
			spec.Failover.MoveTo, spec.ForcedFrom = cluster.InEpoch{Node: r.To, Epoch: r.epoch}, cluster.InEpoch{}
			if spec.Failover.Preferred = r.To; home {
				spec.Failover.Preferred = ""
			}
			if !r.alive {
				spec.ForcedFrom = cluster.InEpoch{Node: r.From, Epoch: r.epoch}
			}
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("move %s: %w", r.name(), err)
		}
	}
	err := p.awaitMoved(ctx, c, s, list, func(r relocation, own *cluster.EndpointOwn) bool { return own.Epoch > r.epoch && own.Node != r.From })
	if err != nil {
		return err
	}
	return p.print(c, list, func(w io.Writer) {
		if len(list) == 0 {
			fmt.Fprintln(w, "nothing to move")
			return
		}
		relocationTable(w, list)
	})
}

func (p *program) failoverDatacenterCommands() []*cli.Command {
	force := &cli.BoolFlag{Name: "force", Usage: "also from nodes that do not answer, and in safe mode: only when they surely serve nothing any more"}
	return []*cli.Command{
		p.verb("plan", "DC", "what the loss of a datacenter would mean; nothing is done", storeFlags(), p.withStore(p.failoverPlan)),
		p.verb("run", "DC", "move everything that can move out of a datacenter now", waitFlags(relocateWait, force), p.withStore(p.failoverRun)),
		p.verb("return", "DC", "move what prefers a datacenter back to it", waitFlags(relocateWait, yesFlag()), p.withStore(p.failoverReturn)),
		p.failoverDrillCommand(),
	}
}
