package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// removedEvery is how often a server whose store does not answer asks the others
// whether it is one of them still.
const removedEvery = 5 * time.Second

// errReplaced ends a server whose member is out of the store while the server's
// record stands: it is to join again.
var errReplaced = errors.New("this server's member was taken out of the store")

// replaceAfter is how long a server is silent before another takes its vote, 0 for
// the default.
func replaceAfter(cfg serverConfig) (time.Duration, error) {
	if cfg.ReplaceAfter == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(cfg.ReplaceAfter)
	if err != nil || d < time.Second {
		return 0, failed(`want a duration of 1s or more, like "10m"`, "read server.yaml: replace_after: invalid duration %q", cfg.ReplaceAfter)
	}
	return d, nil
}

// awaitReady waits for the engine, and ends with an error when the others say that
// this server, or its member, was taken out: one that was off then hears it from
// nobody else.
func awaitReady(ctx context.Context, cfg serverConfig, engine storeEngine) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-engine.Ready():
			return nil
		case <-time.After(removedEvery):
		}
		if err := standing(ctx, cfg, engine.MemberID()); isOut(err) {
			return err
		}
	}
}

// watchRemoved does the same for a server that runs, until ctx ends. own is a
// client of its own store.
func watchRemoved(ctx context.Context, cfg serverConfig, engine storeEngine, own *clientv3.Client) error {
	for {
		if !store.Sleep(ctx, removedEvery) {
			return nil
		}
		call, cancel := context.WithTimeout(ctx, removedEvery)
		_, err := own.Get(call, cluster.KeyConfig)
		cancel()
		waits := errors.Is(err, rpctypes.ErrGRPCNotSupportedForLearner) // it has no vote yet
		if err == nil || waits || ctx.Err() != nil {
			continue
		}
		if err := standing(ctx, cfg, engine.MemberID()); isOut(err) {
			return err
		}
	}
}

// explainEnd says why the engine has ended. One whose member was removed asks the
// others what that means, until one says it.
func explainEnd(ctx context.Context, cfg serverConfig, engine storeEngine, err error, log *zap.Logger) error {
	switch {
	case etcd.IsDisk(err):
		return explainDisk(cfg, err)
	case errors.Is(err, etcd.ErrDamaged):
		return explainDamage(context.WithoutCancel(ctx), cfg, err)
	case !errors.Is(err, etcd.ErrStopped):
		return err
	}
	for {
		out := standing(ctx, cfg, engine.MemberID())
		switch {
		case isOut(out):
			return out
		case ctx.Err() != nil || !errors.Is(err, etcd.ErrRemoved):
			return err
		}
		log.Warn("this server's member was removed from the store; asking the others whether it may join again", zap.Error(out))
		store.Sleep(ctx, removedEvery)
	}
}

// explainDamage says how a damaged store is mended, unless its server was removed
// anyway.
func explainDamage(ctx context.Context, cfg serverConfig, err error) error {
	if len(otherEndpoints(cfg)) > 0 {
		if out := standing(ctx, cfg, 0); isOut(out) {
			return out
		}
	}
	return failed(wayBack(cfg), "start server: %w", err)
}

// wayBack is how a server comes back whose store is lost.
func wayBack(cfg serverConfig) string {
	snapshots := hostDirs().snapshots()
	if len(otherEndpoints(cfg)) > 0 {
		return fmt.Sprintf("the other servers have it: where an admin is, meshvpc node remove %s; here, one after the other, meshvpc server (which says that it was removed), meshvpc node purge, meshvpc cluster join; if no other is left: meshvpc cluster restore FILE (this server's own are in %s)",
			cfg.Name, snapshots)
	}
	return fmt.Sprintf("move %s away and restore a backup: meshvpc cluster restore FILE (this server's own are in %s)", filepath.Join(dataDir(cfg), "member"), snapshots)
}

// isOut reports whether the others have said that this server, or its member, is
// out.
func isOut(err error) bool {
	_, said := errors.AsType[*refusal](err)
	return said || errors.Is(err, errReplaced)
}

// standing asks the other servers what this one is to them: nil if it is a member
// with the ID, 0 for one that has none yet; else isOut, or why nobody says.
func standing(ctx context.Context, cfg serverConfig, id uint64) error {
	c, err := cfg.TLS.load()
	if err != nil {
		return fmt.Errorf("ask other servers: %w", err)
	}
	members, err := askServers(ctx, otherJoins(cfg), defaultCall, func(ctx context.Context, address string) ([]uint64, error) {
		return membership.StillServes(ctx, address, c)
	})
	r, refused := errors.AsType[*membership.Refusal](err)
	switch {
	case refused && r.Code == membership.CodeRemoved:
		return removedServer(cfg)
	case err != nil:
		return fmt.Errorf("ask other servers: %w", err)
	case len(members) > 0 && id != 0 && !slices.Contains(members, id):
		return errReplaced
	}
	return nil
}

// asideOf is where a store goes that is about to be removed.
func asideOf(cfg serverConfig) string { return dataDir(cfg) + ".replaced" }

// rejoin makes of a server whose member is gone one that joins with an empty store.
// What is in the old one the others have. After each step a start of the server
// comes here again, or goes on.
func rejoin(cfg serverConfig, path string) (serverConfig, error) {
	node := ""
	switch {
	case cfg.Joined != nil:
		node = cfg.Joined.NodeID
	case cfg.Bootstrap != nil:
		node = cfg.Bootstrap.NodeID
	case cfg.Restored != nil:
		node = cfg.Restored.NodeID
	}
	cfg.Joined = &joinedServer{NodeID: node, Others: otherEndpoints(cfg)}
	cfg.Bootstrap, cfg.Restored = nil, nil
	if err := writeConfig(path, cfg); err != nil {
		return cfg, err
	}
	aside := asideOf(cfg)
	if err := os.RemoveAll(aside); err != nil {
		return cfg, fmt.Errorf("remove the old store: %w", err)
	}
	if err := os.Remove(markFounded(cfg)); err != nil && !errors.Is(err, fs.ErrNotExist) { // checkStore: an empty store is what is wanted
		return cfg, fmt.Errorf("remove the old store: %w", err)
	}
	if err := os.Rename(dataDir(cfg), aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return cfg, fmt.Errorf("remove the old store: %w", err)
	}
	if err := os.RemoveAll(aside); err != nil {
		return cfg, fmt.Errorf("remove the old store: %w", err)
	}
	return cfg, nil
}
