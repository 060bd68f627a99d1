package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// defaultCall bounds each call of a command to the store.
const defaultCall = 5 * time.Second

// session is a command's connection to the store, as an operator.
type session struct {
	cli       *clientv3.Client
	store     *store.Store
	client    clientConfig
	endpoints []string
	source    string // where the endpoints come from
	call      time.Duration
	untimely  *untimely // nil: the credential is not the client's
}

// withStore runs do with a session, and names the endpoints if the store does
// not answer.
func (p *program) withStore(do func(ctx context.Context, c *cli.Context, s *session) error) func(context.Context, *cli.Context) error {
	return func(ctx context.Context, c *cli.Context) error {
		path := clientPath(c.String("config"))
		s, err := openSession(path, c.Duration("timeout"))
		if err != nil {
			return err
		}
		defer s.cli.Close()
		if err := do(ctx, c, s); err != nil {
			return s.explain(ctx, err)
		}
		if err := s.renewClient(ctx, path, p.now()); err != nil {
			p.warn("the certificate in %s is old and cannot be renewed: %v", path, err)
		}
		return nil
	}
}

// renewClient puts a younger certificate into a client file when it is time, and the
// CAs that the cluster has now.
func (s *session) renewClient(ctx context.Context, path string, now time.Time) error {
	if s.client.CA == "" {
		return nil
	}
	if it, err := store.Get[*cluster.Config](ctx, s.store, cluster.KeyConfig); err == nil && it.Value.Trust != nil {
		return trustOfClient(ctx, path, s.client.joins(s.endpoints), it.Value.Trust)
	} // else it goes by the CA that it has
	fresh, due, err := renewDue(ctx, s.client.joins(s.endpoints), s.client.credential(), now, s.call)
	if err != nil || !due {
		return err
	}
	return writeConfig(path, s.client.with(fresh))
}

// openSession dials the endpoints of a client file. It does not wait for an
// answer.
func openSession(path string, call time.Duration) (*session, error) {
	var cfg clientConfig
	if err := readConfig(path, &cfg); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = &refusal{exitFailed, err, "name a client file by --config or MESHVPC_CONFIG, or run this on a node of the cluster"}
		}
		return nil, err
	}
	if len(cfg.Endpoints) == 0 {
		return nil, failed("mend that file", "read config %s: endpoints is empty", path)
	}
	return dialSession(cfg, path, call)
}

func dialSession(cfg clientConfig, source string, call time.Duration) (*session, error) {
	if call <= 0 || call > defaultCall {
		call = defaultCall
	}
	secure := cfg.CA != ""
	if secure && isOurs(cfg.CA) {
		cfg.Endpoints = withKnown(cfg.Endpoints)
	}
	urls, err := storeURLs(cfg.Endpoints, secure)
	if err != nil {
		return nil, err
	}
	dial, clocks := client.Config{Endpoints: urls}, &untimely{}
	if secure {
		if dial.TLS, err = membership.StoreDialer(cfg.credential().Load); err != nil {
			return nil, fmt.Errorf("read config %s: %w", source, err)
		}
		clocks.notice(dial.TLS)
	}
	cli, err := client.Dial(dial)
	if err != nil {
		return nil, err
	}
	s := store.New(client.New(cli), cluster.Identity{Role: cluster.Operator}).WithTimeout(call)
	return &session{cli: cli, store: s, client: cfg, endpoints: cfg.Endpoints, source: source, call: call, untimely: clocks}, nil
}

// explain names the endpoints in the error of a store that did not answer.
func (s *session) explain(ctx context.Context, err error) error {
	if _, known := errors.AsType[*refusal](err); known || !errors.Is(err, mvcc.ErrUnavailable) || ctx.Err() != nil {
		return err
	}
	if s.untimely != nil {
		if why := s.untimely.explain(ctx, s.endpoints, s.client.credential(), time.Now()); why != nil {
			return why
		}
	}
	return &unreachable{s.endpoints, s.call, s.source, err}
}

// errLook ends a follow that has seen enough.
var errLook = errors.New("seen enough")

// follow keeps prefixes in memory and calls look whenever something changed,
// until look returns an error (errLook: that is all) or ctx ends. Look may
// follow more.
func (s *session) follow(ctx context.Context, look func(m *store.Mirror, v *store.View) error, prefixes ...string) error {
	err := store.Look(ctx, store.MirrorConfig{Store: s.store}, func(_ context.Context, m *store.Mirror) (time.Duration, error) {
		return 0, look(m, m.Pull())
	}, prefixes...)
	switch {
	case errors.Is(err, errLook):
		return nil
	case err == nil:
		return ctx.Err()
	}
	return err
}

// read brings prefixes into a View, each whole at one revision, and follows
// what more finds in it. A store that does not answer is an error.
func (s *session) read(ctx context.Context, more func(v *store.View) []string, prefixes ...string) (*store.View, error) {
	var got *store.View
	asked := more == nil
	err := s.follow(ctx, func(m *store.Mirror, v *store.View) error {
		if _, err := v.Stale(); err != nil {
			return err
		}
		for _, p := range prefixes {
			if !v.Synced(p) {
				return nil
			}
		}
		if !asked {
			asked = true
			if found := more(v); len(found) > 0 {
				prefixes = append(prefixes, found...)
				m.Follow(prefixes...)
				return nil
			}
		}
		got = v
		return errLook
	}, prefixes...)
	return got, err
}

// commit writes a change as the operator.
func (s *session) commit(ctx context.Context, c store.Change) error {
	_, err := s.store.Commit(ctx, c)
	return err
}

// edit reads the record at key, lets change alter it, and writes it unless
// somebody else did meanwhile; then it does so again.
func edit[T cluster.Record](ctx context.Context, s *session, key string, change func(T) error) error {
	for range 8 {
		item, err := store.Get[T](ctx, s.store, key)
		if err != nil {
			return err
		}
		if err := change(item.Value); err != nil {
			return err
		}
		var c store.Change
		store.Put(&c, item, item.Value)
		if err = s.commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("write %s: %w", key, store.ErrConflict)
}

// warnUnreadable tells of the records in v that cannot be decoded.
func (p *program) warnUnreadable(v *store.View) {
	for _, problem := range v.Problems() {
		p.warn("%s cannot be read and is passed over: %v (see it by \"meshvpc get %s\")", problem.Key, problem.Err, problem.Key)
	}
}
