package main

import (
	"context"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/membership/voters"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// backing is a server's store.
type backing struct {
	endpoints []string // URLs
	dial      func(ctx context.Context) (*clientv3.Client, error)
	dialOwn   func() (*clientv3.Client, error) // this server alone; nil: it is an external etcd
	ready     <-chan struct{}                  // closed once others may use it
	// tend does what the store needs done, by a client of it, until ctx ends.
	tend     func(ctx context.Context, cli *clientv3.Client) error
	hold     func(ctx context.Context, by cluster.Caller) error // the store, still; nil: it is an external etcd
	external *membership.External                               // nil: the store is our own
	save     saver
	trusted  []byte // the CAs that it has loaded, PEM; nil: it is an external etcd
}

// ownStore is the store that this server is a member of, behind its guard.
func ownStore(cfg serverConfig, engine storeEngine, trusted []byte, guard *membership.Authorizer, tell *notifier, log *zap.Logger) backing {
	return backing{endpoints: engine.Endpoints(), trusted: trusted, ready: guard.Ready(), save: saveSnapshot, hold: holdFor(engine, guard),
		dial:    func(ctx context.Context) (*clientv3.Client, error) { return dialVoters(ctx, cfg, engine, log) },
		dialOwn: func() (*clientv3.Client, error) { return dialOwn(cfg, engine, log) },
		tend: func(ctx context.Context, cli *clientv3.Client) error {
			return tendOwn(ctx, cfg, engine, cli, guard, tell, log)
		}}
}

// tendOwn keeps the guard's look at the records, the store's members, and what
// this server knows of the others.
func tendOwn(ctx context.Context, cfg serverConfig, engine storeEngine, cli *clientv3.Client, guard *membership.Authorizer, tell *notifier, log *zap.Logger) error {
	endpoints := engine.Endpoints()
	own, err := dialOwn(cfg, engine, log)
	if err != nil {
		return err
	}
	defer own.Close()
	grace, err := replaceAfter(cfg)
	if err != nil {
		return err
	}
	keeping := membership.KeeperConfig{Policy: voters.Policy{Grace: grace}, Client: own, Own: endpoints[0],
		Store: store.New(client.New(own), cluster.Identity{Role: cluster.Operator}), Log: log}
	if cfg.Witness { // it has no controller, which says that of other servers
		keeping.Alive, keeping.AliveEvery = tell.alive, tell.every()
	}
	members := membership.NewKeeper(keeping)
	seen := own // who waits for others to be ready, while these wait for it, waits long
	if learns(ctx, engine, own) {
		seen = cli
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return guard.Run(ctx, store.New(client.New(seen), cluster.Identity{Role: cluster.Controller}))
	})
	g.Go(func() error { return members.Run(ctx) })
	g.Go(func() error { return announce(ctx, cfg, engine.MemberID(), cli, log) })
	g.Go(func() error { return watchRemoved(ctx, cfg, engine, own) })
	g.Go(func() error { keepEndpoints(ctx, cli, log, endpoints...); return nil })
	return g.Wait()
}

// control writes the first records if the store is new, then tends the store and
// runs the controller and the join service. A witness has no controller, and observes
// other nodes.
func control(ctx context.Context, cfg serverConfig, path string, b backing, ask askFunc, tell *notifier, log *zap.Logger) error {
	cli, err := b.dial(ctx)
	if err != nil {
		return err
	}
	defer cli.Close()
	kv := client.New(cli)
	if err := retryUnavailable(ctx, func() error { return startRecords(ctx, kv, cfg, time.Now(), log) }); err != nil {
		return err
	}
	joins, err := newJoinService(cfg, path, b, ask, cli, log)
	if err != nil {
		return err
	}
	keep := &snapshots{dir: hostDirs().snapshots(), ca: cfg.TLS.CA, endpoint: b.endpoints[0], cli: cli, save: b.save,
		store: store.New(kv, cluster.Identity{Role: cluster.Operator}), log: log.Named("snapshots")}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		select {
		case <-b.ready:
			log.Info("server ready", zap.String("name", cfg.Name), zap.Strings("endpoints", b.endpoints))
		case <-ctx.Done():
		}
		return nil
	})
	g.Go(func() error { return b.tend(ctx, cli) })
	g.Go(func() error { keep.run(ctx); return nil })
	g.Go(func() error { return joins.Run(ctx) })
	if b.trusted != nil {
		g.Go(func() error {
			select {
			case <-b.ready:
			case <-ctx.Done():
				return nil
			}
			s := store.New(kv, cluster.Identity{Role: cluster.Operator})
			now, err := readTimings(cfg)
			if err != nil {
				return err
			}
			mine := turn{cfg.Name, s, cli}
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return mine.follow(ctx, cfg, now, log) })
			g.Go(func() error { newPace(cfg.Name, s, cli, b.endpoints[0], log).run(ctx); return nil })
			g.Go(func() error {
				return followTrust(ctx, s, log, func(ctx context.Context, t *cluster.Trust) (bool, error) {
					return serverTrust(ctx, cfg, b.trusted, mine, t, log)
				})
			})
			return g.Wait()
		})
	}
	if cfg.Witness { // it has no agent, which would observe other nodes
		g.Go(func() error {
			return observe.Witness(ctx, observe.Config{Node: cfg.Name, Log: log,
				Store: store.New(kv, cluster.Identity{Role: cluster.Agent, Name: cfg.Name})})
		})
	} else {
		bell := newAlarms(filepath.Join(hostDirs().config, "notify.d"), log)
		g.Go(func() error {
			return runController(ctx, b, cli, tell, controller.Config{Name: cfg.Name, Log: log, Alarm: bell.raise,
				Ask: func(ctx context.Context, q controller.Question) error { return ask(ctx, q.Key, q.Address) }})
		})
		g.Go(func() error { bell.run(ctx); return nil })
	}
	return g.Wait()
}

// runController runs the controller by this server's own store, as soon as that has a
// vote: a write that another server was asked for is lost with that server, and would be
// waited for just when its loss is to be dealt with. An external etcd is dialed by cli.
func runController(ctx context.Context, b backing, cli *clientv3.Client, tell *notifier, cfg controller.Config) error {
	if b.dialOwn != nil {
		own, err := b.dialOwn()
		if err != nil {
			return err
		}
		defer own.Close()
		for !hasVote(ctx, own, b.endpoints[0]) {
			tell.alive()
			if !store.Sleep(ctx, time.Second) {
				return nil
			}
		}
		cli = own
	}
	cfg.Store = store.New(client.New(cli), cluster.Identity{Role: cluster.Controller})
	cfg.Alive, cfg.AliveEvery = tell.alive, tell.every()
	ctl, err := controller.New(cfg)
	if err != nil {
		return err
	}
	return ctl.Run(ctx)
}

// hasVote reports whether the store of this server answers, and votes.
func hasVote(ctx context.Context, own *clientv3.Client, endpoint string) bool {
	ctx, cancel := context.WithTimeout(ctx, defaultCall)
	defer cancel()
	st, err := own.Status(ctx, endpoint)
	return err == nil && !st.IsLearner
}

// newJoinService is who lets in joiners, by the store that cli dials.
func newJoinService(cfg serverConfig, path string, b backing, ask askFunc, cli *clientv3.Client, log *zap.Logger) (*membership.Service, error) {
	listen, err := parseListen(path, "listen_join", cfg.ListenJoin)
	if err != nil {
		return nil, err
	}
	service := membership.ServiceConfig{Listen: listen, Store: store.New(client.New(cli), cluster.Identity{Role: cluster.Operator}),
		CA: cfg.TLS.loadCA, Credential: cfg.TLS.load, External: b.external, Hold: b.hold, Ask: ask, Version: version(), Log: log}
	if b.external == nil {
		service.Members = cli
	}
	if cfg.Witness {
		service.CA = func() (*membership.CA, error) {
			return nil, &membership.Refusal{Code: membership.CodeWitness, Reason: "server " + cfg.Name + " is a witness, which has no CA key and certifies nobody"}
		}
	}
	return membership.NewService(service)
}
