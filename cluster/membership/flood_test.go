package membership_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestFloods: each quota of a node is kept, with a small one so that the floods
// are short, and another node has its own.
func TestFloods(t *testing.T) {
	plenty := membership.Rate{PerSecond: 1, Burst: 10000}
	quota := membership.Quota{Requests: plenty, Streams: plenty, Writes: plenty, Bytes: membership.Rate{PerSecond: 1, Burst: 1 << 20},
		Value: 1000, Streamed: 8, Leases: 3, LeaseTTL: time.Minute, Unassigned: 4}
	g := guard(t, membership.AuthorizerConfig{Node: &quota}).run()
	n1, n2 := g.dial(g.node("n1", "blue")), g.dial(g.node("n2", "blue"))
	const tries = 9
	grant := func(ctx context.Context, c *clientv3.Client) error { _, err := c.Grant(ctx, 30); return err }
	for name, tt := range map[string]struct {
		each func(i int) call
		want int // that are done
	}{
		"leases":   {func(int) call { return grant }, quota.Leases},
		"odd VPCs": {func(i int) call { return put(cluster.KeyVPCStatus("n1", fmt.Sprint("odd", i)), "{}") }, quota.Unassigned},
		"a long lease": {func(int) call {
			return func(ctx context.Context, c *clientv3.Client) error { _, err := c.Grant(ctx, 3600); return err }
		}, 0},
		"a large value":   {func(int) call { return put(cluster.KeyNodeStatus("n1"), string(make([]byte, 1001))) }, 0},
		"large, nested":   {func(int) call { return nested(cluster.KeyNodeStatus("n1"), string(make([]byte, 1001))) }, 0},
		"watches for all": {func(int) call { return watch(cluster.PrefixNodes, prefix) }, tries}, // each ends before the next
	} {
		done, last := 0, error(nil)
		for i := range tries {
			if last = tt.each(i)(t.Context(), n1); last == nil {
				done++
			} else if code(last) != codes.ResourceExhausted {
				t.Errorf("%s: %v", name, last)
			}
		}
		if done != tt.want {
			t.Errorf("%s: %d were done, want %d (%v)", name, done, tt.want, last)
		}
	}
	g.allowAll(n2, map[string]call{"another's lease": grant})
}

func nested(key, value string) call {
	return txn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key, value)}, nil)}, nil)
}

// TestWatchFlood: on one stream or on many, no more watches are open than the
// quota says, and those that end give way to others.
func TestWatchFlood(t *testing.T) {
	quota := membership.NodeQuota()
	quota.Streamed = 8
	g := guard(t, membership.AuthorizerConfig{Node: &quota}).run()
	cli := g.dial(g.node("n1"))
	for name, ctxOf := range map[string]func(context.Context, int) context.Context{
		"one stream": func(ctx context.Context, _ int) context.Context { return ctx },
		"many streams": func(ctx context.Context, i int) context.Context {
			return metadata.AppendToOutgoingContext(ctx, "x", fmt.Sprint(i))
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		open := 0
		for i := range quota.Streamed + 4 {
			wait, stop := context.WithTimeout(ctxOf(ctx, i), 5*time.Second)
			defer stop()
			if r, ok := <-cli.Watch(wait, fmt.Sprint(cluster.PrefixNodes, i), clientv3.WithCreatedNotify()); ok && r.Err() == nil {
				open++
			}
		}
		if open != quota.Streamed {
			t.Errorf("%s: %d watches are open, want %d", name, open, quota.Streamed)
		}
		cancel()
		eventually(t, "watches can be opened again", func() bool { return watch(cluster.PrefixNodes, prefix)(t.Context(), cli) == nil })
	}
}

// TestRequestFlood: what is over the rate is not served, and the server is
// there for others.
func TestRequestFlood(t *testing.T) {
	quota := membership.NodeQuota()
	quota.Requests = membership.Rate{PerSecond: 0.001, Burst: 20}
	g := guard(t, membership.AuthorizerConfig{Node: &quota, Viewer: &quota}).run()
	n1, n2, vera := g.dial(g.node("n1")), g.dial(g.node("n2")), g.dial(g.user("vera", cluster.UserViewer))
	ada := g.dial(g.user("ada", cluster.UserAdmin))
	for name, c := range map[string]*clientv3.Client{"node": n1, "viewer": vera, "refused": nil} {
		read := get(cluster.KeyConfig)
		if c == nil {
			c, read = n2, get("/other") // refusals count
		}
		over := 0
		for range 24 {
			if code(read(t.Context(), c)) == codes.ResourceExhausted {
				over++
			}
		}
		if over < 4 { // more, as others were made before
			t.Errorf("%s: %d of 24 requests were over a burst of 20", name, over)
		}
	}
	for range 100 {
		if err := get(cluster.KeyConfig)(t.Context(), ada); err != nil {
			t.Fatalf("an admin: %v", err)
		}
	}
}
