package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) clusterJoinCommand() *cli.Command {
	return p.verb("join", "ADDR", "make this host a node of the cluster whose store is at ADDR", []cli.Flag{
		&cli.StringFlag{Name: "datacenter", Usage: "`NAME` of the datacenter that this host is in (required)"},
		&cli.StringFlag{Name: "name", Usage: "`NAME` of this node (default: the host's name)"},
		underlayFlag(),
		timeoutFlag(defaultCall, "how long the store may take to answer"),
		outputFlag(),
	}, p.clusterJoin)
}

// joinReport is `cluster join -o json`.
type joinReport struct {
	Cluster    string   `json:"cluster"`
	Node       string   `json:"node"`
	Datacenter string   `json:"datacenter"`
	Endpoints  []string `json:"endpoints"`
}

// clusterJoin creates the node's record, then the host's files. The id is on
// disk before it is in the store, so that a join that was cut short goes on
// under the same id.
func (p *program) clusterJoin(ctx context.Context, c *cli.Context) error {
	d := hostDirs()
	endpoint, err := hostPort(c.Args().First(), clientPort)
	if err != nil {
		return err
	}
	dc, err := datacenterOf(c)
	if err != nil {
		return err
	}
	had, rejoin, err := joinedAs(d)
	if err != nil {
		return err
	}
	given := c.String("name")
	if given == "" && rejoin {
		given = had.Node
	}
	name, err := chooseName(given, os.Hostname)
	if err != nil {
		return err
	}
	if rejoin && had.Node != name {
		return failed("take that node out first: meshvpc node remove "+had.Node+", then meshvpc node purge on this host",
			"join cluster as %s: this host is node %s already (%s)", name, had.Node, d.agent())
	}
	have, err := hostAddresses()
	if err != nil {
		return err
	}
	if _, _, err := checkUnderlay(c.StringSlice("underlay"), have); err != nil {
		return err
	}
	s, err := dialSession([]string{endpoint}, "the command line", c.Duration("timeout"))
	if err != nil {
		return err
	}
	defer s.cli.Close()
	agent := agentConfig{Node: name, ID: cmp.Or(had.ID, randomID()), Endpoints: []string{endpoint}, Underlay: c.StringSlice("underlay")}
	if rejoin && !c.IsSet("underlay") {
		agent.Underlay = had.Underlay
	}
	r, err := p.join(ctx, s, d, agent, dc, rejoin)
	if err != nil {
		return s.explain(ctx, err)
	}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "node %s in datacenter %s is in cluster %s\nstart with:   meshvpc agent\n", r.Node, r.Datacenter, r.Cluster)
	})
}

// joinedAs is the agent.yaml of a host that joined before.
func joinedAs(d dirs) (agentConfig, bool, error) {
	var had agentConfig
	err := readConfig(d.agent(), &had)
	if errors.Is(err, fs.ErrNotExist) {
		return agentConfig{}, false, nil
	}
	return had, err == nil, err
}

func (p *program) join(ctx context.Context, s *session, d dirs, agent agentConfig, dc string, rejoin bool) (joinReport, error) {
	r := joinReport{Node: agent.Node, Datacenter: dc}
	config, err := s.awaitConfig(ctx)
	if err != nil {
		return r, err
	}
	servers, _, err := store.List[*cluster.Server](ctx, s.store, cluster.PrefixSrvs)
	if err != nil {
		return r, err
	}
	for _, it := range servers {
		if !slices.Contains(agent.Endpoints, it.Value.Address) {
			agent.Endpoints = append(agent.Endpoints, it.Value.Address)
		}
	}
	prior, err := nameHolder(ctx, s, agent)
	if err != nil {
		return r, err
	}
	r.Cluster, r.Endpoints = clean(config.Cluster), agent.Endpoints
	files := []file{{d.client(), clientConfig{Endpoints: agent.Endpoints}}, {d.agent(), agent}}
	if rejoin {
		for _, f := range files {
			if err := writeConfig(f.path, f.config); err != nil {
				return r, err
			}
		}
	} else if err := writeConfigs(files...); err != nil {
		return r, err
	}
	if prior.Value != nil && prior.Value.ID == agent.ID {
		r.Datacenter = clean(prior.Value.Datacenter)
		return r, nil
	}
	var change store.Change
	store.Put(&change, prior, &cluster.Node{ID: agent.ID, Datacenter: dc, State: cluster.NodeActive, Agent: true, Joined: cluster.At(p.now())})
	err = s.commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		err = errors.Join(os.Remove(d.agent()), os.Remove(d.client()))
		if _, taken := nameHolder(ctx, s, agent); taken != nil {
			err = taken
		} else if err == nil {
			err = store.ErrConflict
		}
	}
	return r, err
}

// awaitConfig reads the cluster's config, and waits for it a little: a server
// that has just been started serves before it has written its first records.
func (s *session) awaitConfig(ctx context.Context) (*cluster.Config, error) {
	wait, cancel := context.WithTimeout(ctx, s.call)
	defer cancel()
	var config *cluster.Config
	answered := false
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		if _, err := v.Stale(); err != nil {
			return err
		}
		answered = answered || v.Synced(cluster.KeyConfig)
		if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok {
			config = it.Value
			return errLook
		}
		for _, problem := range v.Problems() {
			return problem.Err
		}
		return nil
	}, cluster.KeyConfig)
	switch {
	case err != nil && wait.Err() != nil && ctx.Err() == nil && answered:
		return nil, failed(`start "meshvpc server" on the first node and try again`, "join cluster: the store at %s holds no cluster", s.endpoints[0])
	case err != nil && wait.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("%w: %w", mvcc.ErrUnavailable, err)
	}
	return config, err
}

// nameHolder returns the record to replace: none, this node's own, or one of a
// node that has left for good. Any other means that the name is taken.
func nameHolder(ctx context.Context, s *session, agent agentConfig) (store.Item[*cluster.Node], error) {
	key := cluster.KeyNode(agent.Node)
	it, err := store.Get[*cluster.Node](ctx, s.store, key)
	if errors.Is(err, store.ErrNotFound) {
		return store.Item[*cluster.Node]{Key: key}, nil
	}
	if err != nil {
		return it, err
	}
	n := it.Value
	switch {
	case n.State == cluster.NodeLeft && n.ID == agent.ID:
		return it, failed("run \"meshvpc node purge\" on this host, then join again", "join cluster: this host was removed from it as node %s", agent.Node)
	case n.ID == agent.ID:
		return it, nil
	case n.State == cluster.NodeLeft:
		left, _, err := s.store.Read(ctx, cluster.PrefixHost(agent.Node))
		if err == nil && len(left) > 0 {
			err = failed("try again when it is gone from \"meshvpc node show "+agent.Node+"\", or choose another --name",
				"join cluster: the removed node of the name %s is still leaving its VPCs", agent.Node)
		}
		return it, err
	}
	return it, failed("choose another name by --name; if that host is gone for good: meshvpc node remove "+agent.Node,
		"join cluster: node name %s is taken by a host in datacenter %s (id %s, joined %s)",
		agent.Node, clean(n.Datacenter), clean(n.ID), n.Joined.Format("2006-01-02 15:04:05"))
}
