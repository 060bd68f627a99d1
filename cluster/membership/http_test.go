package membership_test

import (
	"net/http"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// TestPlainHTTP: what etcd serves beside gRPC is closed, but for its metrics to
// who may see how a server is.
func TestPlainHTTP(t *testing.T) {
	g := guard(t, membership.AuthorizerConfig{}).run()
	vera, revoked := g.user("vera", cluster.UserViewer), g.user("rita", cluster.UserAdmin)
	g.delete(cluster.KeyUser("rita"))
	g.shutOut(g.dial(revoked))
	node := g.node("n1")
	server := credential(t, g.ca, "server:s2")
	g.put(cluster.KeyServer("s2"), &cluster.Server{Address: "192.0.2.2:2379", Key: keyOf(t, server)})
	g.known(server)
	for name, tt := range map[string]struct {
		by      membership.Credential
		metrics int
	}{
		"a server": {server, http.StatusOK}, "a viewer": {vera, http.StatusOK},
		"a node": {node, http.StatusForbidden}, "who was revoked": {revoked, http.StatusForbidden},
	} {
		transport := &http.Transport{TLSClientConfig: membership.Dialer(tt.by.Load)}
		defer transport.CloseIdleConnections()
		for _, path := range []string{"/metrics", "/health", "/health?serializable=true", "/version", "/debug/vars", "/debug/pprof/", "/livez", "/readyz",
			"/livez/x", "/readyz/data_corruption", "/v3/kv/range", "/"} {
			want := http.StatusNotFound
			if path == "/metrics" {
				want = tt.metrics
			}
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				req, err := http.NewRequestWithContext(t.Context(), method, g.engine.Endpoints()[0]+path, nil)
				if err != nil {
					t.Fatal(err)
				}
				answer, err := (&http.Client{Transport: transport}).Do(req)
				if err != nil {
					t.Fatal(err)
				}
				answer.Body.Close()
				if answer.StatusCode != want {
					t.Errorf("%s: %s %s: %s, want %d", name, method, path, answer.Status, want)
				}
			}
		}
	}
}
