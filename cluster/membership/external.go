package membership

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// External is what letting in takes where the store is an external etcd. All
// fields are required.
type External struct {
	Endpoints []string               // of the etcd, host:port
	CA        func() ([]byte, error) // that certifies its servers, PEM
	// Admit has the etcd know all who are in the records; see Roles.Sync.
	Admit func(ctx context.Context) error
	// Known reports whether the etcd has ever known a subject.
	Known func(ctx context.Context, s cluster.Subject) (bool, error)
}

// welcome has the etcd know a joiner, and tells the joiner of the etcd. The
// endpoints in answer are those of the servers: their join services.
func (e *External) welcome(ctx context.Context, answer *JoinAnswer) error {
	if err := e.Admit(ctx); err != nil {
		return err
	}
	ca, err := e.CA()
	answer.Servers, answer.Endpoints, answer.StoreCA = answer.Endpoints, e.Endpoints, string(ca)
	return err
}

// unused refuses a name that a user had before: the certificates of that one are
// good for it, since etcd knows a subject by its name alone.
func (e *External) unused(ctx context.Context, s cluster.Subject) error {
	known, err := e.Known(ctx, s)
	if err == nil && known {
		err = refusef(CodeTaken, "there was a user of the name %s, and on an external etcd a name is not given twice: choose another", s.Name)
	}
	return err
}

// RolesConfig configures Roles. Store and Set are required.
type RolesConfig struct {
	Store *store.Store // a root's
	// Set makes the users and roles of the etcd so, and returns how many writes
	// that took.
	Set func(ctx context.Context, want cluster.Accounts) (writes int, err error)
	Log *zap.Logger // nil: none
}

// Roles keeps the users and roles of an external etcd as the records say, in the
// place of an Authorizer.
type Roles struct {
	cfg RolesConfig
	log *zap.Logger
	mu  sync.Mutex // from reading to setting: what was read before is not set after
}

// NewRoles starts nothing.
func NewRoles(cfg RolesConfig) *Roles {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	return &Roles{cfg: cfg, log: cfg.Log.Named("roles")}
}

// Sync reads the records and has the etcd know who is in them. It is safe for
// concurrent use.
func (r *Roles) Sync(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	nodes, err := readable[*cluster.Node](ctx, r.cfg.Store, cluster.PrefixNodes)
	if err != nil {
		return err
	}
	users, err := readable[*cluster.User](ctx, r.cfg.Store, cluster.PrefixUsers)
	if err != nil {
		return err
	}
	servers, err := readable[*cluster.Server](ctx, r.cfg.Store, cluster.PrefixSrvs)
	if err != nil {
		return err
	}
	var names []string
	for name := range servers {
		names = append(names, name)
	}
	writes, err := r.cfg.Set(ctx, cluster.AccountsOf(nodes, users, names))
	if writes > 0 {
		r.log.Info("changed the users of the external etcd", zap.Int("writes", writes), zap.Error(err))
	}
	return err
}

// readable lists the records that can be read, by name. As for an Authorizer, what
// cannot be read gives nobody anything.
func readable[T cluster.Record](ctx context.Context, s *store.Store, prefix string) (map[string]T, error) {
	items, _, err := store.List[T](ctx, s, prefix)
	if err != nil && !cluster.Unreadable(err) {
		return nil, err
	}
	list := map[string]T{}
	for _, it := range items {
		list[it.Key[len(prefix):]] = it.Value
	}
	return list, nil
}

// How long Roles waits after a failure, and how often it looks without a reason.
const (
	rolesRetry = time.Second
	rolesEvery = time.Minute
)

// Run calls Sync whenever nodes, users or servers change, until ctx ends, then
// returns nil.
func (r *Roles) Run(ctx context.Context) error {
	return store.Look(ctx, store.MirrorConfig{Store: r.cfg.Store, Log: r.log.Named("mirror")}, func(ctx context.Context, m *store.Mirror) (time.Duration, error) {
		m.Pull()
		if err := r.Sync(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot change the users of the external etcd, will retry", zap.Error(err))
			return rolesRetry, nil
		}
		return rolesEvery, nil
	}, cluster.PrefixNodes, cluster.PrefixUsers, cluster.PrefixSrvs)
}
