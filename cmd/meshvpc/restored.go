package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// restored is what `cluster restore` decided, and the server's first start writes
// into the restored store before anybody else is let in.
type restored struct {
	ClusterID string        `json:"cluster_id"`
	FormerEra int64         `json:"former_era"` // of the backup
	Era       int64         `json:"era"`        // from now on
	NodeID    string        `json:"node_id"`
	NodeKey   string        `json:"node_key"`        // hash of the node's key
	Admin     *cluster.User `json:"admin,omitempty"` // of a new credential
	AdminName string        `json:"admin_name,omitempty"`
}

// forgotten are the records that a restored store must not hold: old servers,
// tokens that may have been used since, what stood on leases.
var forgotten = []string{cluster.PrefixSrvs, cluster.PrefixToks, cluster.PrefixLive, cluster.PrefixTrust, cluster.Root + "leader/"}

// applyRestored takes the store from the former era into the new one, in one
// transaction: it happens once, however often the server starts or is cut short.
func applyRestored(ctx context.Context, kv mvcc.KV, cfg serverConfig, now time.Time, log *zap.Logger) error {
	r := cfg.Restored
	if r == nil {
		return nil
	}
	s := store.New(kv, cluster.Identity{Role: cluster.Operator})
	it, err := store.Get[*cluster.Config](ctx, s, cluster.KeyConfig)
	if err != nil {
		return fmt.Errorf("start restored store: %w", err)
	}
	c := it.Value
	switch {
	case c.ID != r.ClusterID:
		return failed("give server.yaml the data_dir of its own cluster", "start server: the store belongs to cluster %s, server.yaml to %s", clean(c.ID), r.ClusterID)
	case c.Era != r.FormerEra: // it has happened
		return restoredServer(ctx, s, cfg, now, log)
	}
	c.Era, c.Trust = r.Era, nil // hosts keep the CAs that they have
	ops, guards, err := restoredNode(ctx, s, cfg, now)
	if err != nil {
		return err
	}
	text, err := cluster.Encode(c, it.Raw())
	if err != nil {
		return fmt.Errorf("start restored store: %w", err)
	}
	ops = append(ops, mvcc.Put(cluster.KeyConfig, text))
	if r.Admin != nil {
		text, err := cluster.Encode(r.Admin, nil)
		if err != nil {
			return fmt.Errorf("start restored store: %w", err)
		}
		ops = append(ops, mvcc.Put(cluster.KeyUser(r.AdminName), text))
	}
	for _, prefix := range forgotten {
		ops = append(ops, mvcc.Op{Kind: mvcc.OpDelete, Key: prefix, End: mvcc.PrefixEnd(prefix)})
	}
	answer, err := kv.Txn(ctx, mvcc.TxnRequest{If: append(guards, mvcc.Unchanged(cluster.KeyConfig, it.Mod)), Then: ops})
	switch {
	case err != nil:
		return fmt.Errorf("start restored store: %w", err)
	case !answer.Succeeded:
		return fmt.Errorf("start restored store: %w", store.ErrConflict)
	}
	log.Info("the store was restored: hosts hold until it is confirmed", zap.Int64("era", r.Era), zap.Int64("former", r.FormerEra))
	return restoredServer(ctx, s, cfg, now, log)
}

// restoredNode has the record of this host's node name its key.
func restoredNode(ctx context.Context, s *store.Store, cfg serverConfig, now time.Time) ([]mvcc.Op, []mvcc.Compare, error) {
	key, r := cluster.KeyNode(cfg.Name), cfg.Restored
	it, err := store.Get[*cluster.Node](ctx, s, key)
	n := it.Value
	switch {
	case errors.Is(err, store.ErrNotFound):
		n = &cluster.Node{ID: r.NodeID, Datacenter: cfg.Datacenter, State: cluster.NodeActive, Agent: true, Joined: cluster.At(now)}
	case err != nil:
		return nil, nil, fmt.Errorf("start restored store: %w", err)
	case n.ID != r.NodeID:
		return nil, nil, failed("give one of the two another name", "start server: node name %s is taken by another host (id %s)", cfg.Name, clean(n.ID))
	}
	if r.NodeKey != "" {
		n.Key = r.NodeKey
	}
	text, err := cluster.Encode(n, it.Raw())
	if err != nil {
		return nil, nil, fmt.Errorf("start restored store: %w", err)
	}
	return []mvcc.Op{mvcc.Put(key, text)}, []mvcc.Compare{mvcc.Unchanged(key, it.Mod)}, nil
}

func restoredServer(ctx context.Context, s *store.Store, cfg serverConfig, now time.Time, log *zap.Logger) error {
	return ownServer(ctx, s, cfg, "the server that was restored", now, log)
}

// markFounded is a file that says that this server has had a store.
func markFounded(cfg serverConfig) string {
	return filepath.Join(filepath.Dir(cfg.TLS.Cert), "founded")
}

// checkStore refuses to start an empty store in the place of one that was there:
// hosts would take it for the one that they know, and who was shut out would not
// be.
func checkStore(cfg serverConfig) error {
	_, err := os.Stat(filepath.Join(dataDir(cfg), "member"))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if cfg.Restored != nil {
		return failed("restore it again: meshvpc cluster restore FILE", "start server: the restored store is not in %s", dataDir(cfg))
	}
	_, err = os.Stat(markFounded(cfg))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it is the first start
	}
	if err != nil {
		return err
	}
	if cfg.Joined != nil {
		return failed("take it out where an admin is (meshvpc node remove "+cfg.Name+"), and on this host: meshvpc node purge; then join again",
			"start server: its store is gone from %s", dataDir(cfg))
	}
	return failed(fmt.Sprintf("restore a backup: meshvpc cluster restore FILE (this server's own were in %s); to begin with nothing, and lose all VPCs and nodes, remove %s",
		hostDirs().snapshots(), markFounded(cfg)), "start server: its store is gone from %s", dataDir(cfg))
}
