package membership

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// roster is the records that Allowed asks for, kept current by a mirror.
type roster struct {
	self  cluster.Caller // the server that it is on
	ready chan struct{}  // closed once all of it has been read

	mu    sync.RWMutex
	view  *store.View   // changes under mu only
	moved chan struct{} // closed, and another made, whenever the view has changed
}

func newRoster(self cluster.Caller) *roster {
	return &roster{self: self, ready: make(chan struct{}), view: store.NewView(), moved: make(chan struct{})}
}

// Node implements cluster.Roster.
func (r *roster) Node(name string) (*cluster.Node, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	it, ok := store.At[*cluster.Node](r.view, cluster.KeyNode(name))
	return it.Value, ok
}

// User implements cluster.Roster.
func (r *roster) User(name string) (*cluster.User, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	it, ok := store.At[*cluster.User](r.view, cluster.KeyUser(name))
	return it.Value, ok
}

// Server implements cluster.Roster. Of itself a server needs no record: it writes
// the first one, and whoever runs it has its store.
func (r *roster) Server(name string) (*cluster.Server, bool) {
	if name == r.self.Subject.Name && r.self.Subject.Kind == cluster.SubjectServer {
		return &cluster.Server{Key: r.self.Key}, true
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	it, ok := store.At[*cluster.Server](r.view, cluster.KeyServer(name))
	return it.Value, ok
}

// Revoked lists the keys of servers that were taken out, sorted.
func (r *roster) Revoked() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var keys []string
	for it := range store.Below[*cluster.Node](r.view, cluster.PrefixNodes) {
		keys = append(keys, it.Value.Revoked...)
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Assigned implements cluster.Roster.
func (r *roster) Assigned(node, vpc string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.view.Has(cluster.KeyHostVPC(node, vpc))
}

// change is closed when the roster has changed.
func (r *roster) change() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.moved
}

func (r *roster) isReady() bool {
	select {
	case <-r.ready:
		return true
	default:
		return false
	}
}

// pull takes in what the mirror has heard.
func (r *roster) pull(m *store.Mirror) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.view = m.Pull()
	if !r.isReady() && r.view.Synced(cluster.PrefixNodes) && r.view.Synced(cluster.PrefixUsers) && r.view.Synced(cluster.PrefixHosts) && r.view.Synced(cluster.PrefixSrvs) {
		close(r.ready)
	}
	close(r.moved)
	r.moved = make(chan struct{})
}

// longestPause bounds the time between a change and what follows from it.
const longestPause = 300 * time.Millisecond

// follow keeps the roster current until ctx ends, and calls changed after each
// change; for many at once, which take long, less often.
func (r *roster) follow(ctx context.Context, s *store.Store, log *zap.Logger, changed func()) error {
	return store.Look(ctx, store.MirrorConfig{Store: s, Log: log.Named("mirror")}, func(ctx context.Context, m *store.Mirror) (time.Duration, error) {
		r.pull(m)
		start := time.Now()
		changed()
		store.Sleep(ctx, min(10*time.Since(start), longestPause))
		return 0, nil
	}, cluster.PrefixNodes, cluster.PrefixUsers, cluster.PrefixHosts, cluster.PrefixSrvs)
}
