package main

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
)

// removedEvery is how often a server whose store does not answer asks the others
// whether it is one of them still.
const removedEvery = 5 * time.Second

// awaitReady waits for the engine, and ends with an error when the others say that
// this server was taken out: one that was off then hears it from nobody else.
func awaitReady(ctx context.Context, cfg serverConfig, engine storeEngine) error {
	for {
		if wasRemoved(ctx, cfg) {
			return removedServer(cfg)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-engine.Ready():
			return nil
		case <-time.After(removedEvery):
		}
	}
}

// watchRemoved does the same for a server that runs, until ctx ends. own is a
// client of its own store.
func watchRemoved(ctx context.Context, cfg serverConfig, own *clientv3.Client) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(removedEvery):
		}
		call, cancel := context.WithTimeout(ctx, removedEvery)
		_, err := own.Get(call, cluster.KeyConfig)
		cancel()
		waits := errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) // it has no vote yet
		if err != nil && !waits && ctx.Err() == nil && wasRemoved(ctx, cfg) {
			return removedServer(cfg)
		}
	}
}

// wasRemoved asks the other servers.
func wasRemoved(ctx context.Context, cfg serverConfig) bool {
	c, err := cfg.TLS.load()
	if err != nil {
		return false
	}
	_, err = askServers(otherJoins(cfg), func(address string) (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, defaultCall)
		defer cancel()
		return struct{}{}, membership.StillServes(ctx, address, c)
	})
	r, refused := errors.AsType[*membership.Refusal](err)
	return refused && r.Code == membership.CodeRemoved
}
