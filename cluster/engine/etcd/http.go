package etcd

import (
	"crypto/tls"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// observable takes the place of what etcd serves by plain HTTP to its clients. A
// question after its health would be a read by way of all members, and what the
// process was started with is nobody's business.
func observable(may func(tls.ConnectionState) bool) map[string]http.Handler {
	handlers := map[string]http.Handler{}
	for _, path := range []string{"/health", "/livez", "/livez/", "/readyz", "/readyz/", "/version", "/debug/"} {
		handlers[path] = http.NotFoundHandler()
	}
	metrics := promhttp.Handler()
	handlers["/metrics"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || !may(*r.TLS) {
			http.Error(w, "not allowed", http.StatusForbidden)
			return
		}
		metrics.ServeHTTP(w, r)
	})
	return handlers
}
