package main

import (
	"context"
	"errors"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// mayLoseServer refuses to take out a node whose server the others cannot do
// without. A node without a server can go.
func (s *session) mayLoseServer(ctx context.Context, name string) error {
	if _, err := store.Get[*cluster.Server](ctx, s.store, cluster.KeyServer(name)); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil && !errors.Is(err, cluster.ErrInvalid) {
		return err
	}
	r, err := clusterHealth(ctx, s)
	if err != nil {
		return err
	}
	mine, voters, healthy := -1, 0, 0
	for i, m := range r.Members {
		if m.Name == name {
			mine = i
		} else if m.Voter {
			voters++
			if m.Healthy {
				healthy++
			}
		}
	}
	switch {
	case mine < 0 || !r.Members[mine].Voter || voters > 0 && healthy > voters/2:
		return nil
	case voters == 0:
		return failed("make another server vote first: meshvpc cluster token create --role server; who votes: meshvpc cluster members",
			"remove node %s: it runs the only server that votes, and nobody could decide anything without it", name)
	default:
		return failed("start the servers that do not answer first, or take those out",
			"remove node %s: of the %d other servers that vote only %d answer, and nothing could be decided without it", name, voters, healthy)
	}
}

// revokeServer takes the server out with its node: without its record, and with its
// key in the node's, its certificate opens nothing any more.
func (s *session) revokeServer(ctx context.Context, c *store.Change, name string, node *cluster.Node) (bool, error) {
	it, err := store.Get[*cluster.Server](ctx, s.store, cluster.KeyServer(name))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return false, nil
	case err != nil && !errors.Is(err, cluster.ErrInvalid):
		return false, err
	case err == nil && it.Value.Key != "" && !slices.Contains(node.Revoked, it.Value.Key):
		node.Revoked = append(node.Revoked, it.Value.Key)
	}
	c.Remove(cluster.KeyServer(name), it.Mod)
	return true, nil
}

// awaitServerGone waits until the store has no member of that name.
func (s *session) awaitServerGone(ctx context.Context, name string) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		call, cancel := context.WithTimeout(ctx, s.call)
		list, err := s.cli.MemberList(call)
		cancel()
		if err == nil && !slices.ContainsFunc(list.Members, func(m *pb.Member) bool { return m.Name == name }) {
			return nil
		}
		select {
		case <-ctx.Done():
			return notSo("the server that leads does that: see \"meshvpc cluster members\"", "remove node %s: its server is still a member of the store", name)
		case <-tick.C:
		}
	}
}
