package etcd

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"
)

// ErrRunning is returned when another process serves a data directory.
var ErrRunning = errors.New("is in use by another process")

// Where in the data directory a store is laid aside by Supplant, and where Salvage
// works.
const (
	supplanted = "before-recovery"
	salvaging  = "salvaging"
)

// Member is one of a store's, as the store itself has it.
type Member struct {
	Name    string
	Clients []string // URLs
	Learner bool     // it has no vote
}

// StoredMembers are the members that the store in a data directory knows, sorted by
// name. ErrRunning while a process serves it, fs.ErrNotExist if there is none. What
// the others changed while this one was away is not in it.
func StoredMembers(dir string) (members []Member, err error) {
	path, err := storeIn(dir)
	if err != nil {
		return nil, err
	}
	unlock, err := preflight(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", dir, err)
	}
	defer unlock()
	db, err := bolt.Open(filepath.Join(path, "snap", "db"), 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return nil, fmt.Errorf("read members of the store: %w", err)
	}
	defer func() { _ = db.Close() }() // nothing was written
	err = db.View(func(tx *bolt.Tx) error {
		bucket := tx.Bucket(schema.Members.Name())
		if bucket == nil {
			return errors.New("it names none")
		}
		return bucket.ForEach(func(_, text []byte) error {
			var m struct {
				Name       string   `json:"name"`
				ClientURLs []string `json:"clientURLs"`
				IsLearner  bool     `json:"isLearner"`
			}
			err := json.Unmarshal(text, &m)
			members = append(members, Member{m.Name, m.ClientURLs, m.IsLearner})
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read members of the store: %w", err)
	}
	slices.SortFunc(members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return members, nil
}

// storeIn is where a data directory has its store: aside, if a Supplant was cut
// short.
func storeIn(dir string) (string, error) {
	var err error
	for _, name := range []string{"member", supplanted} {
		path := filepath.Join(dir, name)
		if _, err = os.Stat(path); err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", err
}

// Salvage writes a snapshot of a member's store to path, with all that it knows to
// be committed, though the other members are gone: what ForceNewCluster is for. It
// works on a copy, and needs room for two: the store stays as it is.
func Salvage(ctx context.Context, cfg Config, path string) (err error) {
	cfg.setDefaults()
	from, err := storeIn(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	unlock, err := preflight(cfg.DataDir)
	if err != nil {
		return fmt.Errorf("salvage store: data directory %s: %w", cfg.DataDir, err)
	}
	defer unlock()
	size, err := sizeOf(from)
	if err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	if err := CheckFree(cfg.DataDir, 2*size); err != nil {
		return fmt.Errorf("salvage store: disk of %s: %w", cfg.DataDir, err)
	}
	half := filepath.Join(cfg.DataDir, salvaging)
	defer func() { err = errors.Join(err, os.RemoveAll(half)) }()
	if err := errors.Join(os.RemoveAll(half), os.MkdirAll(half, 0o700)); err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	if err := os.CopyFS(filepath.Join(half, "member"), os.DirFS(from)); err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	cfg.DataDir = half
	if err := forceAlone(ctx, cfg); err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	if err := copyFile(path, filepath.Join(half, "member", "snap", "db")); err != nil { // to another disk, it may be
		return fmt.Errorf("salvage store: %w", err)
	}
	if err := appendSum(path); err != nil {
		return fmt.Errorf("salvage store: %w", err)
	}
	return nil
}

// forceAlone runs a member as the only one until it has applied what is committed.
// It serves nobody.
func forceAlone(ctx context.Context, cfg Config) (err error) {
	nowhere := []netip.AddrPort{netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)}
	cfg.ListenClient, cfg.ListenPeer, cfg.AdvertiseClient, cfg.AdvertisePeer = nowhere, nowhere, nowhere, nowhere
	cfg.Join = nil
	var stopping atomic.Bool
	log := quieted(cfg.Logger.Named("etcd"), &stopping)
	e, err := cfg.embedded(log)
	if err != nil {
		return err
	}
	e.ForceNewCluster = true
	member, broke, err := startEtcd(e, log)
	if err != nil {
		return err
	}
	defer func() { err = cmp.Or(err, closeMember(member, broke)) }()
	defer stopping.Store(true)
	select {
	case <-broke.happened:
		return broke.err
	case <-member.Server.ReadyNotify():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case err := <-member.Err():
		return err
	case <-member.Server.StopNotify():
		return ErrStopped
	}
}

// Supplant takes the store out of a data directory and puts it aside there, in the
// place of one that lies there from before; Restore is to follow. It does nothing if
// it has happened already.
func Supplant(dir string) error {
	unlock, err := preflight(dir)
	if err != nil {
		return fmt.Errorf("put store aside: data directory %s: %w", dir, err)
	}
	defer unlock()
	member, aside := filepath.Join(dir, "member"), filepath.Join(dir, supplanted)
	if _, err := os.Stat(member); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := errors.Join(os.RemoveAll(aside), os.Rename(member, aside)); err != nil {
		return fmt.Errorf("put store aside: %w", err)
	}
	return nil
}

// Supplanted is where Supplant puts the store of a data directory.
func Supplanted(dir string) string { return filepath.Join(dir, supplanted) }

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func sizeOf(dir string) (size uint64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			size += uint64(info.Size())
		}
		return err
	})
	return size, err
}
