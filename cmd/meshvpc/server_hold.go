package main

import (
	"context"
	"sync"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// holdOthers is for etcd.Config.HoldOthers: it asks the servers with these store
// URLs, all at a time. One that does not answer may lose what it proposes in that
// moment; the lead is handed over all the same.
func holdOthers(cfg serverConfig, log *zap.Logger) func(ctx context.Context, urls []string) {
	return func(ctx context.Context, urls []string) {
		var asking sync.WaitGroup
		for _, endpoint := range addressesOf(urls) {
			asking.Go(func() {
				if err := holdOne(ctx, cfg, endpoint); err != nil {
					log.Warn("a server does not hold still while the lead is handed over", zap.String("endpoint", endpoint), zap.Error(err))
				}
			})
		}
		asking.Wait()
	}
}

func holdOne(ctx context.Context, cfg serverConfig, endpoint string) error {
	address, c, err := asking(cfg, endpoint)
	if err != nil {
		return err
	}
	return membership.Hold(ctx, address, c)
}

// asking is the join service of the server with a store address, and what a server
// asks it with.
func asking(cfg serverConfig, endpoint string) (address string, c membership.Credential, err error) {
	if c, err = cfg.TLS.load(); err != nil {
		return "", c, err
	}
	address, err = joinService(endpoint)
	return address, c, err
}

// holdFor has a store hold still for who may ask for that.
func holdFor(engine storeEngine, guard *membership.Authorizer) func(ctx context.Context, by cluster.Caller) error {
	return func(ctx context.Context, by cluster.Caller) error {
		if err := guard.MayMove(by); err != nil {
			return err
		}
		return engine.Hold(ctx)
	}
}
