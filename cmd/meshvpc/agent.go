package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/client"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher"
	"github.com/meshvpc/meshvpc/watcher/hooks"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// agentProcs is how many processors the agent uses at a time. It waits most of
// the time, and its goroutines hand little things to each other: waking another
// thread for each costs more than what it does.
const agentProcs = 1

// trimAfter is when the agent gives back what its start has mapped.
const trimAfter = 5 * time.Second

// endpointsEvery is how often the agent asks the servers which servers there
// are.
const endpointsEvery = 45 * time.Second

func (p *program) agentCommand() *cli.Command {
	c := p.verb("agent", "", "keep this host's part of every VPC as the records say", []cli.Flag{
		&cli.StringFlag{Name: "config", Usage: "agent `FILE` (default " + hostDirs().agent() + ")"},
		logLevelFlag(),
	}, p.agent)
	c.Description = "meshvpc agent\nmeshvpc agent --log-level debug"
	return c
}

func (p *program) agent(ctx context.Context, c *cli.Context) error {
	runtime.GOMAXPROCS(agentProcs)
	ctx, stop := context.WithCancel(ctx)
	var memory sync.WaitGroup
	memory.Go(func() { keepSpare(ctx) })
	defer memory.Wait()
	defer stop()
	cfg, err := readAgent(c.String("config"))
	if err != nil {
		return err
	}
	log, err := newLogger(p.err, c.String("log-level"), cfg.LogLevel)
	if err != nil {
		return err
	}
	if err := setSlack(); err != nil {
		log.Debug("timers are as exact as usual", zap.Error(err))
	}
	driver, err := takeHost(ctx, func() (hostops.Driver, error) { return newDriver(log) })
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	err = p.watch(ctx, cfg, driver, log)
	if closed := driver.Close(); err == nil && closed != nil {
		err = fmt.Errorf("stop agent: %w", closed)
	}
	log.Info("agent stopped", zap.Error(err))
	return err
}

// How long another may have the host when an agent starts: "meshvpc plan" for a
// moment, an agent that ends for up to 5 s.
const (
	hostWithin = 6 * time.Second
	hostAgain  = 100 * time.Millisecond
)

// takeHost opens the host's driver, and waits for another who has the host.
func takeHost(ctx context.Context, open func() (hostops.Driver, error)) (hostops.Driver, error) {
	ctx, cancel := context.WithTimeout(ctx, hostWithin)
	defer cancel()
	again := time.NewTicker(hostAgain)
	defer again.Stop()
	for {
		driver, err := open()
		if !errors.Is(err, hostops.ErrBusy) {
			return driver, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-again.C:
		}
	}
}

// checkHost refuses a host that cannot carry VPCs.
func checkHost(ctx context.Context, driver hostops.Driver) error {
	problems := driver.Check(ctx)
	if len(problems) == 0 {
		return nil
	}
	text := problems[0].Reason
	for _, more := range problems[1:] {
		text += "; " + more.Reason
	}
	return failed("run the agent as root on a host whose kernel has vxlan, bridge, veth and nftables", "start agent: %s", text)
}

// watch runs the host agent until ctx ends. A store that does not answer is no
// reason to stop: the agent works from its cache.
func (p *program) watch(ctx context.Context, cfg agentConfig, driver hostops.Driver, log *zap.Logger) error {
	underlay, err := underlaySpecs(cfg.Underlay)
	if err != nil {
		return err
	}
	cfg.Endpoints = withKnown(cfg.Endpoints)
	urls, err := storeURLs(cfg.Endpoints, cfg.TLS != nil)
	if err != nil {
		return err
	}
	var connections client.Connections
	dial := client.Config{Endpoints: urls, Dialer: connections.Dial, Logger: log}
	if cfg.TLS != nil {
		if dial.TLS, err = membership.StoreDialer(cfg.TLS.load); err != nil {
			return err
		}
		if cfg.TLS.StoreCA != "" {
			dial.SyncInterval = 0 // what an external etcd advertises may be for its own network
		}
	}
	cli, err := client.Dial(dial)
	if err != nil {
		return err
	}
	defer cli.Close()
	d := hostDirs()
	here := newPresence(cfg.TLS, log)
	tell := newNotifier("node "+cfg.Node+", version "+version(), log)
	agent, err := watcher.New(watcher.Config{
		Node: cfg.Node, NodeID: cfg.ID, Driver: driver, Underlay: underlay,
		Store: store.New(client.New(cli), cluster.Identity{Role: cluster.Agent, Name: cfg.Node}),
		Hint:  func() netip.Addr { return towards(slices.Concat(cfg.Servers, cfg.Endpoints)) },
		Check: func(ctx context.Context) error { return checkHost(ctx, driver) },
		Moved: func(now cluster.Underlay) {
			here.move(now)
			dropLost(&connections, log)
		},
		Alive: tell.alive, AliveEvery: tell.every(),
		Cache:  d.cache(),
		Socket: d.socket(),
		Prober: observe.Open,
		Hooks:  hooks.Programs{Dir: d.workloads()},
		BootID: bootID(), OS: osName(), Version: version(), Log: log,
	})
	if err != nil {
		return err
	}
	log.Info("agent starts", zap.String("node", cfg.Node), zap.Strings("endpoints", cfg.Endpoints), zap.String("version", version()))
	trim := time.AfterFunc(trimAfter, func() {
		if err := releaseText(); err != nil {
			log.Debug("program text stays mapped", zap.Error(err))
		}
	})
	defer trim.Stop()
	g, ctx := errgroup.WithContext(ctx)
	if cfg.TLS != nil {
		g.Go(func() error {
			keepRenewed(ctx, log, func(ctx context.Context) error { return renewAgent(ctx, cfg, log) })
			return nil
		})
	}
	if cfg.TLS != nil && cfg.TLS.StoreCA == "" {
		g.Go(func() error {
			s := store.New(client.New(cli), cluster.Identity{Role: cluster.Agent, Name: cfg.Node})
			return followTrust(ctx, s, log, func(ctx context.Context, t *cluster.Trust) (bool, error) {
				return agentTrust(ctx, cfg, t, log)
			})
		})
	}
	g.Go(func() error { here.run(ctx); return nil })
	g.Go(func() error { return agent.Run(ctx) })
	g.Go(func() error { keepEndpoints(ctx, cli, log); return nil })
	g.Go(func() error { tell.stopping(ctx); return nil })
	return g.Wait()
}

// dropLost ends the connections to the store that come from an address that
// this host has lost.
func dropLost(c *client.Connections, log *zap.Logger) {
	own, err := ownAddresses()
	if err != nil {
		log.Warn("cannot see which connections are lost", zap.Error(err))
		return
	}
	n := c.DropLost(func(a netip.Addr) bool { return slices.Contains(own, a) })
	if n > 0 {
		log.Info("dialling the store anew, from another address", zap.Int("connections", n))
	}
}

// towards is the address that this host reaches the first of the endpoints
// from that it has a route to. No packet is sent. Names are not resolved: that
// could take long.
func towards(endpoints []string) netip.Addr {
	for _, e := range endpoints {
		hp, err := hostPort(e, clientPort)
		if err != nil {
			continue
		}
		ap, err := netip.ParseAddrPort(hp)
		if err != nil {
			continue
		}
		conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(ap))
		if err != nil {
			continue
		}
		local := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		_ = conn.Close() // nothing was sent
		return local
	}
	return netip.Addr{}
}
