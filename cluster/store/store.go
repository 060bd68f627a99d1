package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Errors compared by errors.Is.
var (
	// ErrNotFound is returned when a record does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict is returned when a guard did not hold: somebody else wrote.
	ErrConflict = errors.New("somebody else changed it first")
	// ErrFenced is returned when this writer is no longer the leader.
	ErrFenced = errors.New("no longer the leader")
	// ErrTooLarge is returned when a change does not fit one transaction.
	ErrTooLarge = errors.New("change does not fit one transaction")
)

// DefaultTimeout bounds each call to the store.
const DefaultTimeout = 5 * time.Second

// Store reads and writes records in the name of one identity. It is safe for
// concurrent use.
type Store struct {
	kv      mvcc.KV
	as      cluster.Identity
	timeout time.Duration
	fence   *mvcc.Compare
}

// New returns a Store over kv that writes as the given identity.
func New(kv mvcc.KV, as cluster.Identity) *Store {
	return &Store{kv: kv, as: as, timeout: DefaultTimeout}
}

// WithTimeout returns a copy of s whose calls end after d.
func (s *Store) WithTimeout(d time.Duration) *Store {
	c := *s
	c.timeout = d
	return &c
}

// WithFence returns a copy of s whose every commit also requires that key was
// created at createRevision; if not, Commit returns ErrFenced.
func (s *Store) WithFence(key string, createRevision int64) *Store {
	c := *s
	c.fence = &mvcc.Compare{Key: key, Target: mvcc.TargetCreate, Number: createRevision}
	return &c
}

// KV is the connection below.
func (s *Store) KV() mvcc.KV { return s.kv }

// As is the identity that s writes as.
func (s *Store) As() cluster.Identity { return s.as }

// Item is a record with the revisions that guard its next write. The zero
// Item stands for a record that does not exist.
type Item[T cluster.Record] struct {
	Key    string
	Value  T
	Create int64 // revision of its creation
	Mod    int64 // revision of its last write
	raw    []byte
	lease  mvcc.LeaseID
}

// Raw is the record as the store holds it.
func (i Item[T]) Raw() []byte { return i.raw }

// Get reads one record, linearizable. An absent one is ErrNotFound; one that
// cannot be decoded is the error of cluster.Decode, and Item still has its
// revisions and bytes.
func Get[T cluster.Record](ctx context.Context, s *Store, key string) (Item[T], error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	r, err := s.kv.Range(ctx, mvcc.RangeRequest{Key: key})
	if err != nil {
		return Item[T]{}, fmt.Errorf("read %s: %w", key, err)
	}
	if len(r.Keys) == 0 {
		return Item[T]{}, fmt.Errorf("read %s: %w", key, ErrNotFound)
	}
	return itemOf[T](r.Keys[0])
}

// List reads all records of type T below prefix at one revision, which it
// returns; records of other types there are passed over. Records that cannot
// be decoded are left out and joined into the error; the others are valid.
func List[T cluster.Record](ctx context.Context, s *Store, prefix string) ([]Item[T], int64, error) {
	keys, header, err := s.Read(ctx, prefix)
	if err != nil {
		return nil, 0, err
	}
	var (
		items []Item[T]
		errs  []error
	)
	for _, kv := range keys {
		it, err := itemOf[T](kv)
		switch {
		case errors.Is(err, errOtherType):
		case err != nil:
			errs = append(errs, err)
		default:
			items = append(items, it)
		}
	}
	return items, header.Revision, errors.Join(errs...)
}

var errOtherType = errors.New("record is of another type")

func itemOf[T cluster.Record](kv mvcc.KeyValue) (Item[T], error) {
	it := Item[T]{Key: kv.Key, Create: kv.CreateRevision, Mod: kv.ModRevision, raw: kv.Value, lease: kv.Lease}
	r, err := cluster.Decode(kv.Key, kv.Value)
	if err != nil {
		return it, err
	}
	v, ok := r.(T)
	if !ok {
		return it, fmt.Errorf("record %s: %w: %T", kv.Key, errOtherType, r)
	}
	it.Value = v
	return it, nil
}

// page is how many keys one Range of a long list asks for.
const page = 5000

// Read reads everything below prefix (or the one key, if prefix does not end
// with a slash; or all, if it is empty) at one revision, in pages. The header's
// revision is that one.
func (s *Store) Read(ctx context.Context, prefix string) ([]mvcc.KeyValue, mvcc.Header, error) {
	req := rangeOf(prefix)
	req.Limit = page
	var (
		keys   []mvcc.KeyValue
		header mvcc.Header
	)
	for {
		r, err := s.readPage(ctx, req)
		if err != nil {
			return nil, header, fmt.Errorf("list %s: %w", prefix, err)
		}
		switch {
		case req.Revision == 0:
			header = r.Header
			req.Revision = r.Revision
		case r.ClusterID != header.ClusterID:
			return nil, header, fmt.Errorf("list %s: %w", prefix, errOtherCluster)
		}
		if keys == nil {
			keys = slices.Clip(r.Keys)
		} else {
			keys = append(keys, r.Keys...)
		}
		if !r.More || len(r.Keys) == 0 {
			return keys, header, nil
		}
		req.Key = r.Keys[len(r.Keys)-1].Key + "\x00"
	}
}

func (s *Store) readPage(ctx context.Context, req mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return s.kv.Range(ctx, req)
}

// rangeOf is the range below a prefix that ends with a slash, else one key.
func rangeOf(prefix string) mvcc.RangeRequest {
	if n := len(prefix); n > 0 && prefix[n-1] != '/' {
		return mvcc.RangeRequest{Key: prefix}
	}
	return mvcc.Prefix(prefix)
}
