package membership_test

import (
	"slices"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestRemovedServer: another server's certificate opens the store while its record
// says so; what it has open ends with that, and its key is told to be revoked.
func TestRemovedServer(t *testing.T) {
	var (
		mu      sync.Mutex
		revoked [][]string
	)
	g := guard(t, membership.AuthorizerConfig{Revoked: func(keys []string) {
		mu.Lock()
		defer mu.Unlock()
		revoked = append(revoked, keys)
	}}).run()
	c := credential(t, g.ca, "server:s2")
	cli := g.dial(c)
	g.shutOut(cli)
	g.put(cluster.KeyServer("s2"), &cluster.Server{Address: "192.0.2.2:2379", Key: keyOf(t, c)})
	g.known(c)
	if _, err := cli.Put(t.Context(), "outside of ours", "x"); err != nil {
		t.Errorf("a server may not write: %v", err)
	}
	watch := cli.Watch(t.Context(), cluster.Root, clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	if r := <-watch; r.Err() != nil {
		t.Fatal(r.Err())
	}
	g.put(cluster.KeyNode("s2"), &cluster.Node{ID: "id-2", Datacenter: "dc1", State: cluster.NodeLeft, Revoked: []string{keyOf(t, c)}})
	g.delete(cluster.KeyServer("s2"))
	for r := range watch { // until it ends
		if r.Err() != nil {
			break
		}
	}
	g.shutOut(cli)
	eventually(t, "the key is revoked", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(revoked) == 2 && revoked[0] == nil && slices.Equal(revoked[1], []string{keyOf(t, c)})
	})
}
