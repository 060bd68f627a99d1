package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// ErrNotEmpty is returned when a data directory holds a store.
var ErrNotEmpty = errors.New("the data directory holds a store")

// Snapshot is what a member's snapshot holds.
type Snapshot struct {
	Revision int64
	Values   map[string][]byte // by key
}

// ReadSnapshot reads the keys that begin with prefix from a snapshot's file.
func ReadSnapshot(path, prefix string) (Snapshot, error) {
	s := Snapshot{Values: map[string][]byte{}}
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return s, fmt.Errorf("read snapshot: %w", err)
	}
	defer func() { _ = db.Close() }() // nothing was written
	err = db.View(func(tx *bolt.Tx) error {
		keys := tx.Bucket(schema.Key.Name())
		if keys == nil {
			return errors.New("it has no keys")
		}
		return keys.ForEach(func(at, value []byte) error { // in the order of revisions
			if len(at) < 17 { // two numbers and what is between, as etcd writes them
				return fmt.Errorf("invalid revision of %d bytes", len(at))
			}
			var kv mvccpb.KeyValue
			if err := proto.Unmarshal(value, &kv); err != nil {
				return err
			}
			s.Revision = mvcc.BytesToRev(at).Main
			switch key := string(kv.Key); {
			case key == "" || !strings.HasPrefix(key, prefix): // empty: a restored store's mark
			case mvcc.IsTombstone(at):
				delete(s.Values, key)
			default:
				s.Values[key] = kv.Value
			}
			return nil
		})
	})
	if err != nil {
		return s, fmt.Errorf("read snapshot: %w", err)
	}
	return s, nil
}

// revisionBump is how far a restored store is ahead of its snapshot, so that no
// client has seen a later revision; all before it counts as compacted, so that
// each reads everything anew.
const revisionBump = 1_000_000_000

// Restore makes the data directory of a new member, alone in its cluster, from a
// snapshot's file. One that holds a store is ErrNotEmpty. What a Restore that was
// cut short left is cleared away by the next.
func Restore(cfg Config, path string) error {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return fmt.Errorf("restore store: %w", err)
	}
	unlock, err := preflight(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("restore store: data directory %s: %w", cfg.DataDir, err)
	}
	defer unlock()
	if err := CheckEmpty(cfg.DataDir); err != nil {
		return fmt.Errorf("restore store: %w", err)
	}
	var peers []string
	var initial []string
	for _, u := range cfg.urls(cfg.AdvertisePeer) {
		peers = append(peers, u.String())
		initial = append(initial, cfg.Name+"="+u.String())
	}
	half := filepath.Join(cfg.DataDir, restoring)
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("restore store: %w", err)
	}
	err = snapshot.NewV3(cfg.Logger.WithOptions(zap.IncreaseLevel(zap.WarnLevel))).Restore(snapshot.RestoreConfig{
		SnapshotPath: path, Name: cfg.Name, OutputDataDir: half, PeerURLs: peers, InitialCluster: strings.Join(initial, ","),
		InitialClusterToken: cfg.ClusterToken, RevisionBump: revisionBump, MarkCompacted: true,
	})
	if err == nil {
		err = os.Rename(filepath.Join(half, "member"), filepath.Join(cfg.DataDir, "member"))
	}
	if err = errors.Join(err, os.RemoveAll(half)); err != nil {
		return fmt.Errorf("restore store: %w", err)
	}
	return nil
}

// restoring is where in the data directory Restore works.
const restoring = "restoring"

// CheckEmpty is ErrNotEmpty for a directory with more in it than our lock and ballast, what
// Supplant put aside, and what a Restore or a Salvage that was cut short left.
func CheckEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !slices.Contains([]string{"lock", ballastName, restoring, salvaging, supplanted}, e.Name()) {
			return fmt.Errorf("%w: %s", ErrNotEmpty, filepath.Join(dir, e.Name()))
		}
	}
	return nil
}
