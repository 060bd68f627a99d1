package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/backup"
	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// How often a server makes a backup for itself, and how many it keeps.
const (
	snapshotEvery = time.Hour
	snapshotsKept = 24
)

// snapshots are the backups that a server makes by itself, without the CA's key,
// which is on its disk anyway. None is made when nothing has changed since the
// last, or when that would take from the store the space that it needs.
type snapshots struct {
	dir      string
	ca       string // file of the CA's certificate
	endpoint string // of this server
	cli      *clientv3.Client
	save     saver
	store    *store.Store
	log      *zap.Logger
}

// run makes snapshots until ctx ends. One that fails is logged, and made the next
// time.
func (k *snapshots) run(ctx context.Context) {
	for wait := k.first(time.Now()); ; wait = snapshotEvery {
		if !store.Sleep(ctx, wait) {
			return
		}
		if err := k.take(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("cannot make a snapshot, will retry", zap.String("dir", k.dir), zap.Duration("after", snapshotEvery), zap.Error(err))
		}
	}
}

// first is how long to wait for the first snapshot: a server that starts over and
// over does not take the place of old ones by many of the same hour.
func (k *snapshots) first(now time.Time) time.Duration {
	names, err := k.list()
	if err != nil || len(names) == 0 {
		return 0
	}
	info, err := os.Stat(filepath.Join(k.dir, names[len(names)-1]))
	if err != nil {
		return 0
	}
	return min(max(info.ModTime().Add(snapshotEvery).Sub(now), 0), snapshotEvery)
}

func (k *snapshots) take(ctx context.Context) error {
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return err
	}
	names, err := k.list()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, snapshotEvery/2)
	defer cancel()
	status, err := k.cli.Status(ctx, k.endpoint)
	if err != nil {
		return fmt.Errorf("read the store's size: %w", err)
	}
	if len(names) > 0 && snapshotRevision(names[len(names)-1]) == status.Header.Revision {
		return nil
	}
	if err := etcd.CheckFree(k.dir, 2*uint64(status.DbSize)); err != nil {
		return err
	}
	ca, err := os.ReadFile(k.ca)
	if err != nil {
		return err
	}
	now := time.Now()
	half := filepath.Join(k.dir, ".new")
	m, err := writeBackup(ctx, k.cli, k.save, k.store, half, now, []backup.Part{{Name: backup.CA, Text: ca}}, true)
	if err != nil {
		return err
	}
	name := snapshotName(now, m.Revision)
	if err := os.Rename(half, filepath.Join(k.dir, name)); err != nil {
		return err
	}
	k.log.Debug("made a snapshot", zap.String("file", name), zap.Int64("revision", m.Revision))
	var errs []error
	for _, old := range surplus(append(names, name), snapshotsKept) {
		errs = append(errs, os.Remove(filepath.Join(k.dir, old)))
	}
	return errors.Join(errs...)
}

// list is the snapshots, the oldest first. What one that was cut short left
// behind is removed.
func (k *snapshots) list() (names []string, err error) {
	entries, err := os.ReadDir(k.dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case snapshotRevision(name) > 0:
			names = append(names, name)
		case strings.HasPrefix(name, ".backup-"), strings.HasPrefix(name, ".new"), strings.HasPrefix(name, "..new."):
			if err := os.RemoveAll(filepath.Join(k.dir, name)); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names, nil
}

const snapshotSuffix = ".backup"

// snapshotName sorts by time.
func snapshotName(now time.Time, revision int64) string {
	return fmt.Sprintf("%s-%d%s", cluster.At(now).Format("20060102T150405Z"), revision, snapshotSuffix)
}

// snapshotRevision is the revision that a name of snapshotName tells, 0 for
// another name.
func snapshotRevision(name string) int64 {
	rest, ok := strings.CutSuffix(name, snapshotSuffix)
	at, revision, parts := strings.Cut(rest, "-")
	n, err := strconv.ParseInt(revision, 10, 64)
	if _, bad := time.Parse("20060102T150405Z", at); !ok || !parts || err != nil || bad != nil {
		return 0
	}
	return n
}

// surplus are the oldest of names, the last of which was just made and stays
// whatever the clock says.
func surplus(names []string, keep int) []string {
	old := slices.Sorted(slices.Values(names[:len(names)-1]))
	return old[:max(len(old)-keep+1, 0)]
}
