package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// failoverRun moves everything out of a datacenter now. From nodes that live that is a
// planned move; with --force those that observers have found down are given up: then
// failover fences them and moves what they have, also in safe mode.
func (p *program) failoverRun(ctx context.Context, c *cli.Context, s *session) error {
	dc := c.Args().First()
	in, err := s.readSites(ctx)
	if err != nil {
		return err
	}
	nodes := in.in(dc)
	if len(nodes) == 0 {
		return in.noDatacenter(dc)
	}
	list := in.leaving(nodes)
	if err := in.mayRun(dc, list, c.Bool("force")); err != nil {
		return err
	}
	lost := silentOf(list)
	if err := s.giveUp(ctx, in, lost, cluster.At(p.now())); err != nil {
		return fmt.Errorf("run failover of %s: %w", dc, err)
	}
	if err := p.relocate(ctx, c, s, list, false); err != nil {
		return err
	}
	return s.takeBack(ctx, lost) // it has been done
}

// mayRun refuses, without force, to move what could be served twice.
func (in *sites) mayRun(dc string, list []relocation, force bool) error {
	for _, r := range list {
		if r.To == "" || r.alive && !r.silent || force {
			continue
		}
		hint := "wait for what failover does by itself (meshvpc failover status), or --force once that host surely serves it no more"
		if why := in.safeMode(); why != "" {
			hint = "failover is frozen, and will not do it by itself (" + why + "); --force once that host surely serves it no more: it moves what " + dc + " has, and nothing else"
		}
		return failed(hint, "run failover of %s: %s has %s and does not answer: it could be served twice", dc, r.From, r.name())
	}
	return nil
}

// safeMode says why failover is frozen, "" if it is not.
func (in *sites) safeMode() string {
	if it, ok := store.At[*cluster.Judgement](in.view, cluster.KeyJudgement); ok {
		return clean(it.Value.SafeMode)
	}
	return ""
}

// silent reports whether observers hear nothing of a node's agent.
func (in *sites) silent(node string) bool {
	class := in.judged[node]
	return class == cluster.ClassDown || class == cluster.ClassAgentDown || class == cluster.ClassLinkSplit && !in.view.Has(cluster.KeyLive(node))
}

// silentOf are the nodes that are silent and have something that can go, sorted.
func silentOf(list []relocation) (nodes []string) {
	for _, r := range list {
		if r.silent && r.To != "" {
			nodes = append(nodes, r.From)
		}
	}
	slices.Sort(nodes)
	return slices.Compact(nodes)
}

// giveUp says of nodes that they are lost, as they are in the view.
func (s *session) giveUp(ctx context.Context, in *sites, nodes []string, at cluster.Time) error {
	for _, name := range nodes {
		word := &cluster.GivenUp{At: at}
		if it, ok := store.At[*cluster.Live](in.view, cluster.KeyLive(name)); ok {
			word.Incarnation, word.Counter = it.Value.Incarnation, it.Value.Counter
		}
		if err := edit(ctx, s, cluster.KeyNode(name), func(n *cluster.Node) error { n.GivenUp = word; return nil }); err != nil {
			return fmt.Errorf("give up %s: %w", name, err)
		}
	}
	return nil
}

// takeBack ends the word of giveUp.
func (s *session) takeBack(ctx context.Context, nodes []string) error {
	for _, name := range nodes {
		err := edit(ctx, s, cluster.KeyNode(name), func(n *cluster.Node) error { n.GivenUp = nil; return nil })
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("end the word that %s is lost: %w", name, err)
		}
	}
	return nil
}

// safeModeWords is the line of `failover status` about safe mode.
func safeModeWords(why string) string {
	if why == "" {
		return "no"
	}
	return why + "\n            \"meshvpc failover run DC --force\" moves what a datacenter has all the same, and nothing else"
}
