package main

import (
	"context"
	"crypto/tls"
	"errors"
	"io/fs"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/engine/external"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// serveExternal runs the controller, the join service and what keeps the users of
// an external etcd, until ctx ends or one of them fails.
func serveExternal(ctx context.Context, cfg serverConfig, path string, ask askFunc, log *zap.Logger) error {
	if cfg.External == nil || len(cfg.External.Endpoints) == 0 {
		return failed("mend that file, or make the cluster anew by \"meshvpc cluster init --engine external\"", "read config %s: the section external, with endpoints, ca, cert and key, is missing", path)
	}
	if err := renewServer(ctx, cfg, time.Now(), log); err != nil {
		return err
	}
	tell := newNotifier("server "+cfg.Name+", version "+version(), log)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { tell.stopping(ctx); return nil })
	g.Go(func() error {
		keepRenewed(ctx, log, func(ctx context.Context) error { return renewServer(ctx, cfg, time.Now(), log) })
		return nil
	})
	g.Go(func() error { return watchListen(ctx, cfg, path, log) })
	g.Go(func() error {
		if err := awaitExternal(ctx, cfg, log); err != nil || ctx.Err() != nil {
			return err
		}
		root, err := cfg.External.dial(log)
		if err != nil {
			return err
		}
		defer root.Close()
		b, err := secure(ctx, cfg, root, log)
		if err != nil || ctx.Err() != nil {
			return err
		}
		return control(ctx, cfg, path, b, ask, tell, log)
	})
	err := g.Wait()
	log.Info("server stopped", zap.Error(err))
	return err
}

// awaitExternal waits until the etcd takes connections, of the operator and of
// this server's certificate. That it never will, or takes those without any, is an
// error.
func awaitExternal(ctx context.Context, cfg serverConfig, log *zap.Logger) error {
	e, said := cfg.External, ""
	for {
		err := checkExternal(ctx, cfg)
		if ctx.Err() != nil {
			return nil
		}
		if _, final := errors.AsType[*refusal](err); err == nil || final {
			return err
		}
		if err.Error() != said {
			said = err.Error()
			log.Warn("the external etcd does not answer, will retry", zap.Strings("endpoints", e.Endpoints), zap.Error(err))
		}
		if !store.Sleep(ctx, externalWait) {
			return nil
		}
	}
}

// checkExternal holds what the operator has set against what is needed. An error
// that is no refusal may pass.
func checkExternal(ctx context.Context, cfg serverConfig) error {
	e := cfg.External
	theirs, err := membership.StoreDialer(e.load)
	if err != nil {
		return e.explain(err)
	}
	if err := e.reach(ctx, theirs); err != nil {
		if _, untrusted := errors.AsType[*tls.CertificateVerificationError](err); untrusted || errors.Is(err, external.ErrRefused) {
			return e.explain(err)
		}
		return err
	}
	nobody := theirs.Clone()
	nobody.GetClientCertificate = nil
	if err := e.reach(ctx, nobody); err == nil {
		return failed("run each member of it with --client-cert-auth and --trusted-ca-file", "external etcd: it lets clients in that show no certificate")
	} else if !errors.Is(err, external.ErrRefused) {
		return err
	}
	ours, err := membership.StoreDialer(cfg.TLS.load)
	if err != nil {
		return e.explain(err)
	}
	if err := e.reach(ctx, ours); errors.Is(err, external.ErrRefused) {
		return failed("add "+cfg.TLS.CA+" to the file that its --trusted-ca-file names, on each member, and restart them one at a time",
			"external etcd: it does not take certificates of this cluster's CA")
	} else if err != nil {
		return err
	}
	return nil
}

// secure writes the first records as the etcd's root, has the etcd know who is in
// them, and switches its authentication on if it is off: only then may others come.
func secure(ctx context.Context, cfg serverConfig, root *clientv3.Client, log *zap.Logger) (b backing, err error) {
	e, kv := cfg.External, client.New(root)
	var state external.State
	err = retryUnavailable(ctx, func() error {
		call, cancel := context.WithTimeout(ctx, defaultCall)
		defer cancel()
		state, err = external.Look(call, root, cluster.Root)
		if errors.Is(err, context.DeadlineExceeded) {
			return errors.Join(mvcc.ErrUnavailable, err)
		}
		return e.explain(err)
	})
	if err != nil || ctx.Err() != nil {
		return b, err
	}
	if err := foundedExternal(cfg, state); err != nil {
		return b, err
	}
	if !state.Enabled && state.Others > 0 {
		return b, e.explain(external.ErrShared)
	}
	if err := retryUnavailable(ctx, func() error { return startRecords(ctx, kv, cfg, time.Now(), log) }); err != nil || ctx.Err() != nil {
		return b, err
	}
	accounts := external.NewAccounts(root)
	roles := membership.NewRoles(membership.RolesConfig{Store: store.New(kv, cluster.Identity{Role: cluster.Operator}), Set: accounts.Set, Log: log})
	if err := retryUnavailable(ctx, func() error { return roles.Sync(ctx) }); err != nil || ctx.Err() != nil {
		return b, err
	}
	if !state.Enabled {
		operator, err := e.operator()
		if err != nil {
			return b, err
		}
		if err := external.Enable(ctx, root, state, operator); err != nil {
			return b, e.explain(err)
		}
		log.Info("switched authentication of the external etcd on", zap.String("root", operator))
	}
	ready := make(chan struct{})
	close(ready)
	return backing{endpoints: e.urls(), ready: ready, save: saveRecords,
		dial: func(context.Context) (*clientv3.Client, error) {
			own, err := membership.StoreDialer(cfg.TLS.load)
			if err != nil {
				return nil, err
			}
			return client.Dial(client.Config{Endpoints: e.urls(), TLS: own, Logger: log})
		},
		tend: func(ctx context.Context, _ *clientv3.Client) error { return roles.Run(ctx) },
		external: &membership.External{Endpoints: e.Endpoints, CA: func() ([]byte, error) { return os.ReadFile(e.CA) }, Admit: roles.Sync,
			Known: func(ctx context.Context, s cluster.Subject) (bool, error) { return accounts.Has(ctx, s.String()) }}}, nil
}

// foundedExternal refuses to begin with no records in the place of those that were
// there, as checkStore does.
func foundedExternal(cfg serverConfig, s external.State) error {
	if s.Records > 0 {
		return nil
	}
	_, err := os.Stat(markFounded(cfg))
	switch {
	case errors.Is(err, fs.ErrNotExist) && cfg.Restored == nil:
		return nil // it is the first start
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return failed("restore a backup: meshvpc cluster restore FILE --engine external ... (this server's own are in "+hostDirs().snapshots()+"); to begin with nothing, and lose all VPCs and nodes, remove "+markFounded(cfg),
		"start server: its records are gone from the external etcd")
}
