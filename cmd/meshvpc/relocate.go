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

// relocateWait is how long endpoints may take to leave: one after the other moves.
const relocateWait = 2 * time.Minute

// relocation is where one endpoint is, and could go.
type relocation struct {
	Endpoint string `json:"endpoint"`
	VPC      string `json:"vpc"`
	From     string `json:"from"`
	To       string `json:"to,omitempty"`     // "": nowhere
	Reason   string `json:"reason,omitempty"` // why nowhere

	epoch  int64
	alive  bool // the node that has it lives
	silent bool // observers do not hear it
}

// waitsForHost is why an endpoint whose workload must not run twice goes nowhere when its
// node is lost.
const waitsForHost = "its workload must not run twice: it waits for its host, or for \"meshvpc endpoint move --force\" once it surely has ended there"

func (r relocation) name() string { return r.Endpoint + " of VPC " + r.VPC }

// moves lists the endpoints that move by themselves and that pick says have to go, with
// where to: to the best node that may says, one endpoint after the other.
func (in *sites) moves(pick func(e *endpointRecords) bool, may func(e *endpointRecords, node string) bool) (list []relocation) {
	for _, e := range endpointsOf(in.view, (*endpointRecords).moves) {
		if e.own == nil || e.own.Node == "" || e.spec.State != cluster.EndpointActive || !pick(e) {
			continue
		}
		r := relocation{Endpoint: e.name, VPC: e.vpc, From: e.own.Node, epoch: e.own.Epoch, alive: in.view.Has(cluster.KeyLive(e.own.Node)), silent: in.silent(e.own.Node)}
		one, here := in.movable(e), func(node string) bool { return may(e, node) }
		switch to := in.chooser.Best(one, here); {
		case e.hold != nil:
			r.Reason = "it is held"
		case e.spec.Failover.Stateful() && !(r.alive && !r.silent):
			r.Reason = waitsForHost
		case to == "":
			r.Reason = in.chooser.Why(one, here)
		default:
			r.To = to
			in.chooser.Move(one, to)
		}
		list = append(list, r)
	}
	return list
}

// leaving lists the endpoints that have to leave nodes.
func (in *sites) leaving(nodes []string) []relocation {
	return in.moves(func(e *endpointRecords) bool { return slices.Contains(nodes, e.own.Node) },
		func(_ *endpointRecords, node string) bool { return !slices.Contains(nodes, node) })
}

// stuck are those that have nowhere to go.
func stuck(list []relocation) (names []string) {
	for _, r := range list {
		if r.To == "" {
			names = append(names, fmt.Sprintf("%s (%s)", r.name(), r.Reason))
		}
	}
	return names
}

func relocationTable(w io.Writer, list []relocation) {
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.Endpoint, r.VPC, r.From, cmp.Or(r.To, "nowhere"+suffix(": ", r.Reason))})
	}
	columns(w, []string{"endpoint", "vpc", "from", "to"}, rows)
}

func forceStuckFlag() cli.Flag {
	return &cli.BoolFlag{Name: "force", Usage: "also if some endpoints have nowhere to go: they stay"}
}

func (p *program) nodeDrainCommand() *cli.Command {
	return p.verb("drain", "N", "have all endpoints that can move leave a node, and none come; its tunnels stay", waitFlags(relocateWait, forceStuckFlag()),
		p.withStore(func(ctx context.Context, c *cli.Context, s *session) error {
			return p.drain(ctx, c, s, func(in *sites, name string) []string {
				if n := in.nodes[name]; n != nil && n.State != cluster.NodeLeft {
					return []string{name}
				}
				return nil
			}, func(_ *sites, name string) error {
				return failed("see \"meshvpc node list\"", "there is no node %q", clean(name))
			})
		}))
}

func (p *program) nodeResumeCommand() *cli.Command {
	return p.verb("resume", "N", "let endpoints come to a node again that was drained", storeFlags(), p.withStore(
		func(ctx context.Context, c *cli.Context, s *session) error {
			return p.resume(ctx, c, s, []string{c.Args().First()})
		}))
}

func (p *program) datacenterCommand() *cli.Command {
	return p.noun("datacenter", "all nodes of a datacenter at once",
		[]string{"meshvpc datacenter drain hetzner", "meshvpc datacenter resume hetzner"},
		p.verb("drain", "DC", "have all endpoints that can move leave a datacenter, and none come", waitFlags(relocateWait, forceStuckFlag()),
			p.withStore(func(ctx context.Context, c *cli.Context, s *session) error {
				return p.drain(ctx, c, s, (*sites).in, (*sites).noDatacenter)
			})),
		p.verb("resume", "DC", "let endpoints come to a datacenter again that was drained", storeFlags(),
			p.withStore(func(ctx context.Context, c *cli.Context, s *session) error {
				in, err := s.readSites(ctx)
				if err != nil {
					return err
				}
				nodes := in.in(c.Args().First())
				if len(nodes) == 0 {
					return in.noDatacenter(c.Args().First())
				}
				return p.resume(ctx, c, s, nodes)
			})),
	)
}

// drain has nodes drained, and waits until what can leave them has.
func (p *program) drain(ctx context.Context, c *cli.Context, s *session, of func(in *sites, name string) []string, none func(in *sites, name string) error) error {
	name := c.Args().First()
	in, err := s.readSites(ctx)
	if err != nil {
		return err
	}
	nodes := of(in, name)
	if len(nodes) == 0 {
		return none(in, name)
	}
	list := in.leaving(nodes)
	if names := stuck(list); len(names) > 0 {
		if !c.Bool("force") {
			return failed("attach them at another of their places, release them, or --force: they stay", "drain %s: these have nowhere to go: %s", name, few(names))
		}
		p.warn("these stay, as they have nowhere to go: %s", few(names))
	}
	for _, n := range nodes {
		if err := s.setNodeState(ctx, n, cluster.NodeDraining); err != nil {
			return fmt.Errorf("drain %s: %w", name, err)
		}
	}
	left := func(_ relocation, own *cluster.EndpointOwn) bool { return !slices.Contains(nodes, own.Node) }
	if err := p.awaitMoved(ctx, c, s, list, left); err != nil {
		return err
	}
	return p.print(c, list, func(w io.Writer) {
		fmt.Fprintf(w, "%s: drained; \"resume\" lets endpoints come again\n", few(nodes))
		if len(list) > 0 {
			relocationTable(w, list)
		}
	})
}

func (p *program) resume(ctx context.Context, c *cli.Context, s *session, nodes []string) error {
	for _, n := range nodes {
		switch err := s.setNodeState(ctx, n, cluster.NodeActive); {
		case errors.Is(err, store.ErrNotFound):
			return failed("see \"meshvpc node list\"", "there is no node %q", clean(n))
		case err != nil:
			return fmt.Errorf("resume %s: %w", n, err)
		}
	}
	return p.print(c, nodes, func(w io.Writer) { fmt.Fprintf(w, "%s: endpoints may come again\n", few(nodes)) })
}

// setNodeState drains or resumes a node that has not left.
func (s *session) setNodeState(ctx context.Context, node string, state cluster.NodeState) error {
	if err := cluster.CheckNodeName(node); err != nil {
		return &refusal{exitUsage, err, ""}
	}
	return edit(ctx, s, cluster.KeyNode(node), func(n *cluster.Node) error {
		if n.State == cluster.NodeLeft {
			return failed("see \"meshvpc node list\"", "node %s was removed", node)
		}
		n.State, n.GivenUp = state, nil
		return nil
	})
}

// awaitMoved waits until done says so of each of list that has somewhere to go, and
// writes where it is into it.
func (p *program) awaitMoved(ctx context.Context, c *cli.Context, s *session, list []relocation, done func(relocation, *cluster.EndpointOwn) bool) error {
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	var keys []string
	for _, r := range list {
		if r.To != "" {
			keys = append(keys, cluster.KeyEndpointOwn(r.VPC, r.Endpoint))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	bar := p.progress()
	defer bar.done()
	var still []string
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		still = nil
		for i := range list {
			r := &list[i]
			if r.To == "" {
				continue
			}
			it, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(r.VPC, r.Endpoint))
			if !ok || !done(*r, it.Value) {
				still = append(still, r.name())
				continue
			}
			r.To = it.Value.Node
		}
		bar.show("%d of %d endpoints moved", len(keys)-len(still), len(keys))
		if len(still) == 0 {
			return errLook
		}
		return nil
	}, keys...)
	if ctx.Err() == nil && wait.Err() != nil {
		return notSo("it goes on by itself: \"meshvpc failover status\"", "after %s these have not moved: %s", c.Duration("timeout"), few(still))
	}
	return err
}
