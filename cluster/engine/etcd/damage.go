package etcd

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.uber.org/zap"
)

// ErrDamaged is returned when a store cannot be read: its files are not as they were
// written.
var ErrDamaged = errors.New("the store is damaged")

// startEtcd is embed.StartEtcd, which ends the process when it finds the log
// damaged, or the disk full; here that is ErrDamaged, or ErrFull. What etcd had opened
// by then stays open.
func startEtcd(cfg *embed.Config, log *zap.Logger) (*embed.Etcd, *broken, error) {
	b := newBroken(cfg.Dir)
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log.WithOptions(zap.WithFatalHook(b), zap.WithPanicHook(b)))
	if err := checkDatabase(filepath.Join(cfg.Dir, "member", "snap", "db")); err != nil {
		return nil, b, err
	}
	var member *embed.Etcd
	var err error
	ended := make(chan struct{})
	go func() { // which never ends if it breaks
		defer close(ended)
		defer func() {
			if r := recover(); r != nil {
				member, err = nil, fmt.Errorf("%w: %v", ErrDamaged, r)
			}
		}()
		member, err = embed.StartEtcd(cfg)
	}()
	select {
	case <-ended:
		b.started.Store(true)
	case <-b.happened:
		if IsDisk(b.err) {
			return nil, b, b.err
		}
		return nil, b, fmt.Errorf("%w: %w", ErrDamaged, b.err)
	}
	if slices.ContainsFunc(badLog, func(bad error) bool { return errors.Is(err, bad) }) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return member, b, diskError(cfg.Dir, err)
}

// badLog are errors of who reads a log that is not as it was written.
var badLog = []error{walpb.ErrCRCMismatch, wal.ErrCRCMismatch, wal.ErrFileNotFound, wal.ErrSnapshotNotFound, wal.ErrSnapshotMismatch, wal.ErrMetadataConflict, io.ErrUnexpectedEOF}

// checkDatabase walks through a member's database as etcd will, which ends the process
// when it cannot. None is no error.
func checkDatabase(path string) (err error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // it may be shorter than it says
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, path, r)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, berrors.ErrTimeout) {
		return fmt.Errorf("open %s: %w", path, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error {
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	return errors.Join(err, db.Close())
}
