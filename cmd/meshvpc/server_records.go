package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// startRecords writes what the store has to hold before anybody is let in.
func startRecords(ctx context.Context, kv mvcc.KV, cfg serverConfig, now time.Time, log *zap.Logger) error {
	if err := applyRestored(ctx, kv, cfg, now, log); err != nil {
		return err
	}
	if err := firstRecords(ctx, kv, cfg, now, log); err != nil {
		return err
	}
	if _, err := os.Stat(markFounded(cfg)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writeFile(markFounded(cfg), []byte(cfg.Name+"\n"))
}

// firstRecords writes what `cluster init` decided, each record only if it is
// absent: config, this node, this server, whose address follows server.yaml. A
// store with another cluster's config is refused. A record that is there and
// cannot be read stays as it is: the store must run for somebody to mend it.
func firstRecords(ctx context.Context, kv mvcc.KV, cfg serverConfig, now time.Time, log *zap.Logger) error {
	b := cfg.Bootstrap
	if b == nil {
		return nil
	}
	s := store.New(kv, cluster.Identity{Role: cluster.Operator})
	at := cluster.At(now)
	if err := firstAccess(ctx, kv, s, b); err != nil {
		return err
	}
	err := createOnce(ctx, s, log, cluster.KeyConfig, &cluster.Config{Cluster: b.Cluster, ID: b.ClusterID, Era: 1,
		UnderlayPort: b.UnderlayPort, VNIs: b.VNIs, Encryption: "none"},
		func(it store.Item[*cluster.Config]) error {
			if c := it.Value; c.ID != b.ClusterID {
				return failed("give server.yaml the data_dir of its own cluster", "start server: the store belongs to cluster %s, server.yaml to %s", clean(c.ID), b.ClusterID)
			}
			return nil
		})
	if err != nil {
		return err
	}
	err = createOnce(ctx, s, log, cluster.KeyNode(cfg.Name), &cluster.Node{ID: b.NodeID, Datacenter: cfg.Datacenter,
		State: cluster.NodeActive, Agent: true, Key: b.NodeKey, Joined: at},
		func(it store.Item[*cluster.Node]) error {
			if n := it.Value; n.ID != b.NodeID {
				return failed("give one of the two another name", "start server: node name %s is taken by another host (id %s)", cfg.Name, clean(n.ID))
			}
			return nil
		})
	if err != nil {
		return err
	}
	return ownServer(ctx, s, cfg, "the first server", now, log)
}

// ownServer writes the record of this server, or the address into it.
func ownServer(ctx context.Context, s *store.Store, cfg serverConfig, why string, now time.Time, log *zap.Logger) error {
	if len(cfg.Advertise) == 0 {
		return nil
	}
	own, err := cfg.TLS.load()
	if err != nil {
		return err
	}
	key, err := own.KeyHash()
	if err != nil {
		return err
	}
	peer := "" // beside an external store
	if peers := peerAddresses(cfg); len(peers) > 0 {
		peer = peers[0]
	}
	return createOnce(ctx, s, log, cluster.KeyServer(cfg.Name), &cluster.Server{Datacenter: cfg.Datacenter,
		Address: cfg.Advertise[0], Peer: peer, Key: key, Voter: cfg.External == nil, Why: why, Joined: cluster.At(now)},
		func(it store.Item[*cluster.Server]) error {
			return relocate(ctx, s, it, cfg.Advertise[0], peer, key)
		})
}

// firstAccess writes who may do what at first, into a store that has no record
// of ours: an admin who was revoked and a token that was used up do not come back.
func firstAccess(ctx context.Context, kv mvcc.KV, s *store.Store, b *bootstrap) error {
	if b.Admin == nil {
		return nil
	}
	all := mvcc.Prefix(cluster.Root)
	all.CountOnly = true
	r, err := kv.Range(ctx, all)
	if err != nil || r.Count > 0 {
		return err
	}
	var c store.Change
	store.Create(&c, cluster.KeyUser(firstAdmin), b.Admin)
	if b.Token != nil {
		store.Create(&c, cluster.KeyToken(b.TokenID), b.Token)
	}
	_, err = s.Commit(ctx, c)
	return err
}

// createOnce writes a record unless there is one, which check may refuse or
// change if it can be read.
func createOnce[T cluster.Record](ctx context.Context, s *store.Store, log *zap.Logger, key string, r T, check func(store.Item[T]) error) error {
	it, err := store.Get[T](ctx, s, key)
	if errors.Is(err, store.ErrNotFound) {
		var c store.Change
		store.Create(&c, key, r)
		if _, err = s.Commit(ctx, c); !errors.Is(err, store.ErrConflict) {
			return err
		}
		it, err = store.Get[T](ctx, s, key)
	}
	switch {
	case err == nil:
		return check(it)
	case cluster.Unreadable(err):
		log.Error("a record cannot be read and stays as it is", zap.String("key", key), zap.Error(err))
		return nil
	}
	return err
}
