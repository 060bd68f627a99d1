package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
)

func (p *program) clusterTimingsCommand() *cli.Command {
	return p.verb("timings", "TICK|auto", "how often the store's leader is heard: about the longest round trip between servers, 10ms to 1s, or auto; they begin anew one after another", append(storeFlags(),
		&cli.DurationFlag{Name: "election", Usage: "how long its silence is borne, `TIME` (default ten ticks)"},
	), p.withStore(p.clusterTimings))
}

// clusterTimings writes what the servers follow. Without them an external etcd's own
// operator sets them.
func (p *program) clusterTimings(ctx context.Context, c *cli.Context, s *session) error {
	if s.client.StoreCA != "" {
		return failed("set them where your etcd is configured", "set timings: the store is an external etcd")
	}
	if c.Args().First() == "auto" {
		if err := edit(ctx, s, cluster.KeyConfig, func(c *cluster.Config) error { c.Timings = nil; return nil }); err != nil {
			return err
		}
		return p.print(c, struct{}{}, func(w io.Writer) {
			fmt.Fprintln(w, "a LAN's, and longer ones as the servers find that they are needed (meshvpc cluster members -o json)")
		})
	}
	tick, err := time.ParseDuration(c.Args().First())
	if err != nil {
		return usage("want a time like 200ms, or auto", "invalid tick %q", clean(c.Args().First()))
	}
	election := c.Duration("election")
	if election == 0 {
		election = 10 * tick
	}
	t := cluster.TimingsOf(tick, election)
	t.Fixed = true
	if _, _, err := t.Durations(); err != nil {
		return usage("see \"meshvpc cluster timings --help\"", "%v", err)
	}
	if err := edit(ctx, s, cluster.KeyConfig, func(c *cluster.Config) error { c.Timings = t; return nil }); err != nil {
		return err
	}
	return p.print(c, t, func(w io.Writer) {
		fmt.Fprintf(w, "tick %s, election %s: the servers begin anew with that, one after another (meshvpc cluster members -o json)\n", t.Tick, t.Election)
	})
}
