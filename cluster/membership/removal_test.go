package membership_test

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// allowedToStay is what a caller that was removed may still see of a watch; the
// test does not end there for a slow machine, it reports how long it took.
const allowedToStay = time.Second

// watching opens a watch and waits until the server says so.
func (g *guarded) watching(c membership.Credential, key string) <-chan mvcc.WatchResponse {
	g.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	g.t.Cleanup(cancel)
	return client.New(g.dial(c)).Watch(ctx, mvcc.WatchRequest{Key: key, End: mvcc.PrefixEnd(key)})
}

// wantsEvent waits for the event of a write to key.
func (g *guarded) wantsEvent(w <-chan mvcc.WatchResponse, key string) {
	g.t.Helper()
	if _, err := g.server.Put(g.t.Context(), key, "x"); err != nil {
		g.t.Fatal(err)
	}
	for {
		select {
		case r := <-w:
			switch {
			case r.Err != nil:
				g.t.Fatalf("watch ended: %v", r.Err)
			case len(r.Events) > 0:
				return
			}
		case <-time.After(time.Minute):
			g.t.Fatal("no event within a minute")
		}
	}
}

// wantsEnd waits for the end of a watch, and then writes what it would have told.
func (g *guarded) wantsEnd(w <-chan mvcc.WatchResponse, key string) {
	g.t.Helper()
	start := time.Now()
	for r := range w {
		if len(r.Events) > 0 {
			g.t.Errorf("%s was told", r.Events[0].KV.Key)
		}
		if r.Err != nil && !errors.Is(r.Err, mvcc.ErrDenied) {
			g.t.Errorf("watch ended by %v", r.Err)
		}
	}
	if d := time.Since(start); d > allowedToStay {
		g.t.Logf("ended only after %v", d)
	}
	if _, err := g.server.Put(g.t.Context(), key, "after"); err != nil {
		g.t.Fatal(err)
	}
}

// TestRemovedNode: what it has open ends, its next call is refused, and it is
// left with what it needs to clean up.
func TestRemovedNode(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	c := g.node("n1", "blue")
	n1 := g.dial(c)
	vpc, nodes, own := g.watching(c, cluster.PrefixVPC("blue")), g.watching(c, cluster.PrefixNodes), g.watching(c, cluster.PrefixHost("n1"))
	g.wantsEvent(vpc, cluster.KeyVPCPing("blue"))
	g.setNode("n1", c, cluster.NodeLeft)
	g.wantsEnd(vpc, cluster.KeyVPCPing("blue"))
	for range nodes { // may have told of that
	}
	g.refuseAll(n1, map[string]call{
		"its VPC": get(cluster.PrefixVPC("blue"), prefix), "nodes": get(cluster.PrefixNodes, prefix),
		"watch its VPC": watch(cluster.PrefixVPC("blue"), prefix), "servers": get(cluster.PrefixSrvs, prefix),
	})
	g.wantsEvent(own, cluster.KeyHostVPC("n1", "blue"))
	lease, err := n1.Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	g.allowAll(n1, map[string]call{
		"config": get(cluster.KeyConfig), "its record": get(cluster.KeyNode("n1")), "what it is told": get(cluster.PrefixHost("n1"), prefix),
		"its report": txn(nil, []clientv3.Op{clientv3.OpPut(cluster.KeyVPCStatus("n1", "blue"), "{}"),
			clientv3.OpPut(cluster.KeyLive("n1"), "{}", clientv3.WithLease(lease.ID))}, nil),
	})
	g.delete(cluster.KeyNode("n1"))
	for r := range own {
		if len(r.Events) > 0 {
			t.Errorf("%s was told", r.Events[0].KV.Key)
		}
	}
	g.refuseAll(n1, map[string]call{"config": get(cluster.KeyConfig), "its report": put(cluster.KeyVPCStatus("n1", "blue"), "{}")})
}

// TestNodeThatLeavesAVPC: its watch of that VPC ends, the others go on.
func TestNodeThatLeavesAVPC(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	c := g.node("n1", "blue", "red")
	blue, red := g.watching(c, cluster.PrefixVPC("blue")), g.watching(c, cluster.PrefixVPC("red"))
	g.wantsEvent(blue, cluster.KeyVPCPing("blue"))
	g.delete(cluster.KeyHostVPC("n1", "blue"))
	g.wantsEnd(blue, cluster.KeyVPCPing("blue"))
	g.wantsEvent(red, cluster.KeyVPCPing("red"))
}

// TestAssignedAtOnce: a host that hears of its assignment reads the VPC before
// the authorizer may have heard of it.
func TestAssignedAtOnce(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	c := g.node("n1")
	n1, own := g.dial(c), g.watching(c, cluster.PrefixHost("n1"))
	for _, vpc := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		g.wantsEvent(own, cluster.KeyHostVPC("n1", vpc))
		g.allowAll(n1, map[string]call{"read": get(cluster.PrefixVPC(vpc), prefix)})
	}
}

// TestReplacedKey: a certificate of the former key has nothing any more.
func TestReplacedKey(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	old := g.node("n1", "blue")
	vpc := g.watching(old, cluster.PrefixVPC("blue"))
	g.wantsEvent(vpc, cluster.KeyVPCPing("blue"))
	renewed := g.node("n1", "blue")
	g.wantsEnd(vpc, cluster.KeyVPCPing("blue"))
	g.refuseAll(g.dial(old), map[string]call{"report": put(cluster.KeyNodeStatus("n1"), "{}"), "read": get(cluster.PrefixVPC("blue"), prefix)})
	g.allowAll(g.dial(renewed), map[string]call{"report": put(cluster.KeyNodeStatus("n1"), "{}"), "read": get(cluster.PrefixVPC("blue"), prefix)})
}

// TestRevokedUser: watches end, and so do all of clientv3's on one stream; the
// next call is refused. So it is with a role that is less.
func TestRevokedUser(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	ada, vera := g.user("ada", cluster.UserAdmin), g.user("vera", cluster.UserViewer)
	tokens, nodes := g.watching(ada, cluster.PrefixToks), g.watching(vera, cluster.PrefixNodes)
	shared := g.dial(vera).Watch(t.Context(), cluster.PrefixVPCs, prefix, clientv3.WithCreatedNotify())
	<-shared
	g.wantsEvent(tokens, cluster.KeyToken("t"))
	g.wantsEvent(nodes, cluster.KeyNode("n9"))
	g.put(cluster.KeyUser("ada"), &cluster.User{Role: cluster.UserViewer, Key: keyOf(t, ada)})
	g.wantsEnd(tokens, cluster.KeyToken("t"))
	g.delete(cluster.KeyUser("vera"))
	g.wantsEnd(nodes, cluster.KeyNode("n9"))
	for r := range shared {
		if len(r.Events) > 0 {
			t.Errorf("%s was told", r.Events[0].Kv.Key)
		}
	}
	g.refuseAll(g.dial(vera), map[string]call{"read": get(cluster.PrefixNodes, prefix), "watch": watch(cluster.PrefixNodes, prefix)})
	g.refuseAll(g.dial(ada), map[string]call{"write": put(cluster.KeyNode("n9"), "{}")})
}

// TestRenewalsEnd: the stream by which clientv3 renews a lease ends with the
// node's record.
func TestRenewalsEnd(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	c := g.node("n1")
	n1 := g.dial(c)
	lease, err := n1.Grant(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	renewals, err := n1.KeepAlive(t.Context(), lease.ID)
	if err != nil {
		t.Fatal(err)
	}
	if r := <-renewals; r == nil || r.TTL == 0 {
		t.Fatalf("renewal = %v", r)
	}
	g.delete(cluster.KeyNode("n1"))
	g.shutOut(n1)
	g.refuseAll(n1, map[string]call{"renew": leasesOf(lease.ID)["renew it"], "put on it": leasesOf(lease.ID)["put on it"]})
	eventually(t, "the lease ends, though it was to be renewed for ever", func() bool {
		r, err := g.server.TimeToLive(t.Context(), lease.ID)
		return err == nil && r.TTL <= 0
	})
}
