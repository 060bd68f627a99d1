package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// drillWait is how long each way of a drill may take: a node hands over two a second.
const drillWait = 10 * time.Minute

func (p *program) failoverDrillCommand() *cli.Command {
	return p.verb("drill", "[DC]", "practise: drain a datacenter for real, measure it, and bring all back", waitFlags(drillWait, yesFlag(),
		&cli.BoolFlag{Name: "history", Usage: "show the drills that there were, and do nothing"},
		&cli.BoolFlag{Name: "abort", Usage: "bring home what a drill that was interrupted has moved"},
	), p.withStore(p.failoverDrill))
}

func (p *program) failoverDrill(ctx context.Context, c *cli.Context, s *session) error {
	in, err := s.readSites(ctx)
	if err != nil {
		return err
	}
	dc := c.Args().First()
	if c.Bool("history") {
		return p.drillHistory(c, in, dc)
	}
	d, err := p.drillOf(c, in, dc)
	if err != nil {
		return err
	}
	if d.Ended.IsZero() && c.Bool("abort") {
		d.State, d.Reason = cluster.DrillReturning, "aborted"
	}
	if err := s.saveDrill(ctx, d); err != nil {
		return err
	}
	return p.runDrill(ctx, c, s, d)
}

// drillOf is the drill to run: one that is not over, or a new one if it will go well.
func (p *program) drillOf(c *cli.Context, in *sites, dc string) (*cluster.Drill, error) {
	if d := in.unfinished(); d != nil {
		if d.Datacenter != dc {
			return nil, failed("go on with it by \"meshvpc failover drill "+d.Datacenter+"\", or --abort it there", "drill %s: a drill of %s is not over", clean(dc), d.Datacenter)
		}
		fmt.Fprintf(p.err, "going on with the drill of %s that began at %s\n", dc, d.Began.Format(time.RFC3339))
		return d, nil
	}
	if c.Bool("abort") {
		return nil, failed("see \"meshvpc failover drill --history\"", "drill %s: none is under way", clean(dc))
	}
	d, err := in.newDrill(dc, cluster.At(p.now()))
	if err != nil {
		return nil, err
	}
	return d, p.confirm(c, "datacenter", dc)
}

// unfinished is the drill that is under way, nil for none.
func (in *sites) unfinished() *cluster.Drill {
	for it := range store.Below[*cluster.Drill](in.view, cluster.PrefixDrills) {
		if it.Value.Ended.IsZero() {
			return it.Value
		}
	}
	return nil
}

// newDrill refuses what would not go well.
func (in *sites) newDrill(dc string, now cluster.Time) (*cluster.Drill, error) {
	plan, err := in.planOf(dc)
	if err != nil {
		return nil, err
	}
	no := func(format string, args ...any) (*cluster.Drill, error) {
		return nil, failed("see \"meshvpc failover plan "+dc+"\" and \"meshvpc failover status\"", "drill %s: %s", dc, fmt.Sprintf(format, args...))
	}
	switch why := in.safeMode(); {
	case len(plan.Endpoints) == 0:
		return no("no endpoint that moves by itself is there")
	case len(plan.Endpoints) > cluster.MaxDrilled:
		return no("it has %d endpoints, and a drill is of %d at most", len(plan.Endpoints), cluster.MaxDrilled)
	case why != "":
		return no("failover is frozen: %s", why)
	case len(plan.Warnings) > 0:
		return no("its loss would not go well: %s", plan.Warnings[0])
	}
	for _, name := range plan.Nodes {
		if why := in.unfit(name); why != "" && in.nodes[name].Agent {
			return no("%s cannot take back what it has: %s", name, why)
		}
	}
	d := &cluster.Drill{Datacenter: dc, State: cluster.DrillLeaving, Began: now, Nodes: plan.Nodes}
	for _, r := range plan.Endpoints {
		d.Endpoints = append(d.Endpoints, cluster.Drilled{VPC: r.VPC, Endpoint: r.Endpoint, Home: r.From})
	}
	return d, nil
}

// saveDrill writes a drill as it is now.
func (s *session) saveDrill(ctx context.Context, d *cluster.Drill) error {
	key := cluster.KeyDrill(d.Began.Time)
	it, err := store.Get[*cluster.Drill](ctx, s.store, key)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	it.Key = key
	var c store.Change
	store.Put(&c, it, d)
	if err := s.commit(ctx, c); err != nil {
		return fmt.Errorf("write how far the drill is: %w", err)
	}
	return nil
}

// runDrill has all leave and return. Whatever goes wrong on the way out, also an
// interrupt, all goes home.
func (p *program) runDrill(ctx context.Context, c *cli.Context, s *session, d *cluster.Drill) error {
	run := newDrilling(d)
	if d.State == cluster.DrillLeaving {
		switch err := p.leave(ctx, c, s, run); {
		case ctx.Err() != nil:
			d.Reason = "interrupted"
		case err != nil:
			d.Reason = cluster.CleanText(oneLine(err.Error()))
		}
		if d.Reason != "" {
			p.warn("%s; all is brought home, which goes on by \"meshvpc failover drill %s --abort\" if it is interrupted, too", d.Reason, d.Datacenter)
		}
	}
	home, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Duration("timeout"))
	defer cancel()
	d.State = cluster.DrillReturning
	if err := s.saveDrill(home, d); err != nil {
		return err
	}
	if err := p.comeHome(home, c, s, run); err != nil {
		return err
	}
	d.State, d.Ended = cluster.DrillDone, cluster.At(p.now())
	if d.Reason != "" {
		d.State = cluster.DrillFailed
	}
	if err := errors.Join(s.saveDrill(home, d), s.forgetDrills(home)); err != nil {
		return err
	}
	err := p.print(c, d, func(w io.Writer) { drillText(w, d) })
	if err == nil && d.State == cluster.DrillFailed {
		return failed("see \"meshvpc failover status\"; all is home", "drill %s: %s", d.Datacenter, d.Reason)
	}
	return err
}

// leave drains the datacenter, and waits until all serve elsewhere.
func (p *program) leave(ctx context.Context, c *cli.Context, s *session, run *drilling) error {
	for _, n := range run.drill.Nodes {
		if err := s.setNodeState(ctx, n, cluster.NodeDraining); err != nil {
			return err
		}
	}
	return p.awaitDrill(ctx, c, s, run)
}

// comeHome has each endpoint that is not at home return there.
func (p *program) comeHome(ctx context.Context, c *cli.Context, s *session, run *drilling) error {
	for _, n := range run.drill.Nodes {
		if err := s.setNodeState(ctx, n, cluster.NodeActive); err != nil {
			return err
		}
	}
	for i := range run.drill.Endpoints {
		e := &run.drill.Endpoints[i]
		own, err := store.Get[*cluster.EndpointOwn](ctx, s.store, cluster.KeyEndpointOwn(e.VPC, e.Endpoint))
		switch {
		case errors.Is(err, store.ErrNotFound) || err == nil && own.Value.Node == e.Home:
			continue
		case err != nil:
			return err
		}
		err = edit(ctx, s, cluster.KeyEndpointSpec(e.VPC, e.Endpoint), func(spec *cluster.EndpointSpec) error {
			spec.Failover.MoveTo = cluster.InEpoch{Node: e.Home, Epoch: own.Value.Epoch}
			return nil
		})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("bring %s of VPC %s home: %w", e.Endpoint, e.VPC, err)
		}
	}
	return p.awaitDrill(ctx, c, s, run)
}

// awaitDrill waits until all are where the drill wants them.
func (p *program) awaitDrill(ctx context.Context, c *cli.Context, s *session, run *drilling) error {
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	bar := p.progress()
	defer bar.done()
	var still []string
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		if !v.Synced(cluster.PrefixVPCs) || !v.Synced(cluster.PrefixStat) {
			return nil
		}
		still = run.watch(v, p.now())
		bar.show("drill %s: %s: %d of %d endpoints", run.drill.Datacenter, run.drill.State, len(run.drill.Endpoints)-len(still), len(run.drill.Endpoints))
		if len(still) == 0 {
			return errLook
		}
		return nil
	}, cluster.PrefixVPCs, cluster.PrefixStat)
	if ctx.Err() == nil && wait.Err() != nil || errors.Is(err, context.DeadlineExceeded) {
		return notSo("go on by \"meshvpc failover drill "+run.drill.Datacenter+" --abort\"", "%s: after %s these do not serve where they should: %s", run.drill.State, c.Duration("timeout"), few(still))
	}
	return err
}

// drills are all that are kept, the oldest first.
func (in *sites) drills() []store.Item[*cluster.Drill] {
	return slices.Collect(store.Below[*cluster.Drill](in.view, cluster.PrefixDrills))
}

// forgetDrills deletes the oldest of too many.
func (s *session) forgetDrills(ctx context.Context) error {
	items, _, err := store.List[*cluster.Drill](ctx, s.store, cluster.PrefixDrills)
	if err != nil {
		return err
	}
	for _, it := range items[:max(len(items)-cluster.MaxDrills, 0)] {
		var c store.Change
		c.Remove(it.Key, it.Mod)
		if err := s.commit(ctx, c); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("forget an old drill: %w", err)
		}
	}
	return nil
}

func (p *program) drillHistory(c *cli.Context, in *sites, dc string) error {
	list := []*cluster.Drill{}
	for _, it := range in.drills() {
		if dc == "" || it.Value.Datacenter == dc {
			list = append(list, it.Value)
		}
	}
	return p.print(c, list, func(w io.Writer) {
		for _, d := range list {
			fmt.Fprintln(w, drillLine(d))
		}
		if len(list) == 0 {
			fmt.Fprintln(w, "no drill: meshvpc failover drill DC")
		}
	})
}

// drillLine is a drill in one line.
func drillLine(d *cluster.Drill) string {
	var away, back float64
	for _, e := range d.Endpoints {
		away, back = max(away, e.Away), max(back, e.Back)
	}
	return fmt.Sprintf("%s at %s: %s%s; %d endpoints, away in %.3fs and back in %.3fs at most", d.Datacenter, d.Began.Format(time.RFC3339),
		d.State, suffix(": ", clean(d.Reason)), len(d.Endpoints), away, back)
}

func drillText(w io.Writer, d *cluster.Drill) {
	fmt.Fprintln(w, drillLine(d))
	var rows [][]string
	for _, e := range d.Endpoints {
		rows = append(rows, []string{e.Endpoint, e.VPC, e.Home, cmp.Or(e.To, "-"), fmt.Sprintf("%.3f", e.Away), fmt.Sprintf("%.3f", e.Back)})
	}
	columns(w, []string{"endpoint", "vpc", "home", "was at", "away s", "back s"}, rows)
}
