package observe

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// settleFor is how long a witness waits after a change of any VPC until it looks for
// what else has changed: it reads all of them.
const settleFor = 200 * time.Millisecond

// Witness observes, until ctx ends, what can move in all VPCs, as a node that has no
// part in any: while its record says that it has no agent, which would do that.
func Witness(ctx context.Context, cfg Config) error {
	o, err := New(cfg)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return o.Run(ctx) })
	g.Go(func() error {
		m := store.MirrorConfig{Store: cfg.Store, Log: o.log.Named("vpcs")}
		return store.Look(ctx, m, func(ctx context.Context, m *store.Mirror) (time.Duration, error) {
			if d, ok := allOf(m.Pull(), cfg.Node); ok {
				o.Observe(d)
			}
			store.Sleep(ctx, settleFor)
			return 0, nil
		}, cluster.KeyConfig, cluster.KeyNode(cfg.Node), cluster.PrefixVPCs)
	})
	return g.Wait()
}

// allOf is the duty of a node without an agent; ok is false while not all is read.
func allOf(v *store.View, me string) (d Duty, ok bool) {
	if !v.Synced(cluster.KeyConfig) || !v.Synced(cluster.KeyNode(me)) || !v.Synced(cluster.PrefixVPCs) {
		return d, false
	}
	c, ok := store.At[*cluster.Config](v, cluster.KeyConfig)
	if !ok {
		return d, false
	}
	d.Timings = c.Value.Failover.Timings()
	n, ok := store.At[*cluster.Node](v, cluster.KeyNode(me))
	if !ok || n.Value.Agent || n.Value.State == cluster.NodeLeft {
		return d, true
	}
	for it := range store.Below[*cluster.VPCNet](v, cluster.PrefixVPCs) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			if s := ScopeOf(v, k.VPC); s != nil {
				d.Scopes = append(d.Scopes, s)
			}
		}
	}
	return d, true
}
