package etcd

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"google.golang.org/protobuf/proto"
)

// WriteSnapshot makes the file of a snapshot that holds these records and nothing
// else: no history, no leases, no members, no users. It is as etcdutl takes it,
// and Restore and ReadSnapshot. There must be no file at path.
func WriteSnapshot(path string, records []*mvccpb.KeyValue) error {
	if err := writeStore(path, records); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err := appendSum(path); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

func writeStore(path string, records []*mvccpb.KeyValue) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	records = slices.SortedFunc(slices.Values(records), func(a, b *mvccpb.KeyValue) int {
		return cmp.Or(cmp.Compare(a.ModRevision, b.ModRevision), cmp.Compare(string(a.Key), string(b.Key)))
	})
	err = db.Update(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket(schema.Meta.Name()); err != nil {
			return err
		}
		keys, err := tx.CreateBucket(schema.Key.Name())
		if err != nil {
			return err
		}
		var at mvcc.Revision
		for _, r := range records {
			if at.Main == r.ModRevision {
				at.Sub++
			} else {
				at = mvcc.Revision{Main: r.ModRevision}
			}
			value, err := proto.Marshal(&mvccpb.KeyValue{Key: r.Key, Value: r.Value, CreateRevision: r.CreateRevision, ModRevision: r.ModRevision, Version: r.Version})
			if err != nil {
				return err
			}
			if err := keys.Put(mvcc.RevToBytes(at, mvcc.NewRevBytes()), value); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// appendSum puts the SHA-256 of a file at its end, where etcd's snapshots have it.
func appendSum(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	if err == nil {
		_, err = f.Write(h.Sum(nil))
	}
	return errors.Join(err, f.Sync(), f.Close())
}
