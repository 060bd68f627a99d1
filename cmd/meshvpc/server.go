package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) serverCommand() *cli.Command {
	c := p.verb("server", "", "run the store and the controller on this host", []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "server `FILE` (default " + hostDirs().server() + ")"},
		logLevelFlag(),
	}, p.server)
	c.Description = "meshvpc server\nmeshvpc server --log-level debug"
	return c
}

func logLevelFlag() cli.Flag {
	return &cli.StringFlag{Name: "log-level", Usage: "debug, info, warn or error (default info, or what the config file says)"}
}

func (p *program) server(ctx context.Context, c *cli.Context) error {
	path := c.String("config")
	if path == "" {
		path = hostDirs().server()
	}
	var cfg serverConfig
	if err := readConfig(path, &cfg); err != nil {
		return notJoined(err)
	}
	log, err := newLogger(p.err, c.String("log-level"), cfg.LogLevel)
	if err != nil {
		return err
	}
	for {
		if cfg, err = checkListen(cfg, path, log); err != nil {
			return err
		}
		err := serve(ctx, cfg, path, p.ask, log)
		switch {
		case !goesOn(err):
			return err
		case ctx.Err() != nil:
			return nil
		case !errors.Is(err, errReplaced):
			continue
		}
		log.Warn("other servers took this one's place in the store: its copy is removed, and it joins them again", zap.String("data_dir", dataDir(cfg)))
		if cfg, err = rejoin(cfg, path); err != nil {
			return err
		}
	}
}

// serve runs the engine and, once it serves, the controller, until ctx ends or
// one of them fails. The controller ends first, so that it can step down.
func serve(ctx context.Context, cfg serverConfig, path string, ask askFunc, log *zap.Logger) error {
	if cfg.TLS.CAKey == "" && !cfg.Witness {
		return failed("make the cluster anew by \"meshvpc cluster init\", which writes that section and its files", "read config %s: the section tls, with ca, cert, key and ca_key, is missing", path)
	}
	if cfg.Engine == engineExternal {
		return serveExternal(ctx, cfg, path, ask, log)
	}
	if err := checkStore(cfg); err != nil {
		return err
	}
	if err := renewServer(ctx, cfg, time.Now(), log); err != nil {
		return err
	}
	guard, err := newGuard(cfg, log)
	if err != nil {
		return err
	}
	trusted, err := os.ReadFile(cfg.TLS.CA) // what the engine reads as it starts
	if err != nil {
		return fmt.Errorf("read CA: %w", err)
	}
	engine, err := newEngine(cfg, path, guard, log)
	if err != nil {
		return err
	}
	tell := newNotifier("server "+cfg.Name+", version "+version(), log)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if <-ctx.Done(); !goesOn(context.Cause(ctx)) {
			tell.stopping(ctx)
		}
		return nil
	})
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	g.Go(func() error {
		defer stopEngine()
		err := engine.Run(engineCtx)
		if err == nil && ctx.Err() == nil {
			return errors.New("serve store: it ended")
		}
		return explainEnd(ctx, cfg, engine, err, log)
	})
	g.Go(func() error {
		defer stopEngine()
		if err := awaitReady(ctx, cfg, engine); err != nil || ctx.Err() != nil {
			return err
		}
		return control(ctx, cfg, path, ownStore(cfg, engine, trusted, guard, tell, log), ask, tell, log)
	})
	g.Go(func() error {
		keepRenewed(ctx, log, func(ctx context.Context) error { return renewServer(ctx, cfg, time.Now(), log) })
		return nil
	})
	g.Go(func() error { return watchListen(ctx, cfg, path, log) })
	err = g.Wait()
	log.Info("server stopped", zap.Error(err))
	return err
}

// goesOn reports whether the server begins anew in this process.
func goesOn(err error) bool {
	return errors.Is(err, errReplaced) || errors.Is(err, errMoved) || errors.Is(err, errTrustChanged) || errors.Is(err, errTimingsChanged)
}

// storeEngine serves the store.
type storeEngine interface {
	Ready() <-chan struct{}
	Endpoints() []string
	MemberID() uint64 // of the store; 0 while it is none
	Hold(ctx context.Context) error
	Run(ctx context.Context) error
}

func newEngine(cfg serverConfig, path string, guard *membership.Authorizer, log *zap.Logger) (storeEngine, error) {
	e, err := engineConfig(cfg, path)
	if err != nil {
		return nil, err
	}
	e.Logger, e.Unary, e.Stream, e.MayObserve = log, guard.Unary, guard.Stream, guard.MayObserve
	e.HoldOthers = holdOthers(cfg, log)
	if e.Timings, err = readTimings(cfg); err != nil {
		return nil, err
	}
	if cfg.Joined != nil && etcd.IsNew(e.DataDir) {
		if err := os.RemoveAll(asideOf(cfg)); err != nil {
			return nil, fmt.Errorf("remove the store of before: %w", err)
		}
		return newJoining(cfg, e, log), nil
	}
	return etcd.New(e)
}

// dataDir is where a server keeps its store.
func dataDir(cfg serverConfig) string { return cmp.Or(cfg.DataDir, hostDirs().store()) }

// engineConfig is the engine that a server.yaml, at path, asks for.
func engineConfig(cfg serverConfig, path string) (e etcd.Config, err error) {
	if err := cluster.CheckNodeName(cfg.Name); err != nil {
		return e, fmt.Errorf("read config %s: name: %w", path, err)
	}
	if cfg.Engine != engineEtcd {
		return e, failed(`want "engine: etcd" or "engine: external"`, "read config %s: unknown engine %q", path, cfg.Engine)
	}
	var parsed [4][]netip.AddrPort
	for i, list := range []struct {
		field  string
		values []string
	}{{"listen", cfg.Listen}, {"advertise", cfg.Advertise}, {"listen_peers", cfg.ListenPeers}, {"advertise_peers", cfg.AdvertisePeers}} {
		if parsed[i], err = parseListen(path, list.field, list.values); err != nil {
			return e, err
		}
	}
	token := ""
	if cfg.Bootstrap != nil {
		token = cfg.Bootstrap.ClusterID
	}
	return etcd.Config{Name: cfg.Name, DataDir: dataDir(cfg), ListenClient: parsed[0], AdvertiseClient: parsed[1],
		ListenPeer: parsed[2], AdvertisePeer: parsed[3], ClusterToken: token,
		TLS: &etcd.TLS{CA: cfg.TLS.CA, Cert: cfg.TLS.Cert, Key: cfg.TLS.Key, Peer: membership.PeerName, Revoked: revokedFile(cfg)}}, nil
}

func serverSubject(cfg serverConfig) cluster.Subject {
	return cluster.Subject{Kind: cluster.SubjectServer, Name: cfg.Name}
}

func parseListen(path, field string, values []string) (parsed []netip.AddrPort, err error) {
	for _, v := range values {
		a, err := netip.ParseAddrPort(v)
		if err != nil {
			return nil, failed("want address:port, like [2001:db8::1]:2379", "read config %s: %s: %w", path, field, err)
		}
		parsed = append(parsed, a)
	}
	return parsed, nil
}

// retryUnavailable calls do again while the store does not answer, until ctx
// ends, which is no error.
func retryUnavailable(ctx context.Context, do func() error) error {
	for {
		err := do()
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, mvcc.ErrUnavailable) {
			return err
		}
		store.Sleep(ctx, retryEvery)
	}
}

// retryEvery keeps who is refused at once from asking all the time.
const retryEvery = 100 * time.Millisecond

// newLogger writes JSON lines to w from the first level given on.
func newLogger(w io.Writer, levels ...string) (*zap.Logger, error) {
	level := zapcore.InfoLevel
	for _, l := range levels {
		if l == "" {
			continue
		}
		parsed, err := zapcore.ParseLevel(l)
		if err != nil || parsed > zapcore.ErrorLevel {
			return nil, usage("want debug, info, warn or error", "unknown log level %q", l)
		}
		level = parsed
		break
	}
	enc := zap.NewProductionEncoderConfig()
	enc.TimeKey, enc.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	core := zapcore.NewCore(zapcore.NewJSONEncoder(enc), zapcore.Lock(zapcore.AddSync(w)), level)
	return zap.New(core), nil
}
