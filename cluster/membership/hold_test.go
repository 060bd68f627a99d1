package membership_test

import (
	"context"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestHoldIsForServers: only a server with the key in its record has another hold
// still.
func TestHoldIsForServers(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	held := 0
	h := newHouse(t, func(c *membership.ServiceConfig) {
		c.Hold = func(_ context.Context, by cluster.Caller) error {
			err := g.auth.MayMove(by)
			if err == nil {
				held++
			}
			return err
		}
	})
	s2, n1 := credential(t, h.ca, "server:s2"), credential(t, h.ca, "node:n1")
	g.put(cluster.KeyServer("s2"), &cluster.Server{Datacenter: "dc1", Address: "192.0.2.2:2379", Key: keyOf(t, s2)})
	g.setNode("n1", n1, cluster.NodeActive)
	g.put(cluster.KeyUser("admin"), &cluster.User{Role: cluster.UserAdmin, Key: keyOf(t, h.admin)})
	eventually(t, "a server is known", func() bool {
		return g.auth.MayMove(cluster.Caller{Subject: cluster.Subject{Kind: cluster.SubjectServer, Name: "s2"}, Key: keyOf(t, s2)}) == nil
	})
	if err := membership.Hold(t.Context(), h.address, s2); err != nil || held != 1 {
		t.Fatalf("a server: %v, held %d times", err, held)
	}
	for name, c := range map[string]membership.Credential{
		"a node":                    n1,
		"an admin":                  h.admin,
		"another key":               credential(t, h.ca, "server:s2"),
		"a server without a record": credential(t, h.ca, "server:s9"),
		"another cluster's":         credential(t, g.ca, "server:s2"),
	} {
		if err := membership.Hold(t.Context(), h.address, c); err == nil || held != 1 {
			t.Errorf("%s: %v, held %d times", name, err, held)
		}
	}
	g.delete(cluster.KeyServer("s2"))
	eventually(t, "a server without its record is shut out", func() bool {
		return membership.Hold(t.Context(), h.address, s2) != nil
	})
}
