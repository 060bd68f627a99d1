package mvcc

import (
	"context"
	"errors"
	"time"
)

// KV is the part of the etcd v3 API that meshvpc uses: transactions, ranges,
// watches and leases. Memory satisfies it over State, cluster/engine/client
// over clientv3. It is safe for concurrent use.
type KV interface {
	// Range reads keys, linearizable, at the current revision unless the
	// request names one. A revision below the compacted one is ErrCompacted,
	// above the current one ErrFutureRevision.
	Range(ctx context.Context, r RangeRequest) (RangeResponse, error)
	// Txn applies one transaction. A failed guard is no error: Succeeded is
	// false and Responses are those of Else.
	Txn(ctx context.Context, t TxnRequest) (TxnResponse, error)
	// Watch delivers events from w.From on, whole revisions at a time and in
	// order, until ctx ends or an answer carries Err; then the channel closes.
	Watch(ctx context.Context, w WatchRequest) <-chan WatchResponse
	// Grant makes a lease and reports the TTL in force, which may be longer
	// than the one asked for.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, time.Duration, error)
	// KeepAlive renews a lease once. A lease that is gone is ErrLeaseNotFound.
	KeepAlive(ctx context.Context, id LeaseID) (time.Duration, error)
	// Revoke ends a lease and deletes its keys.
	Revoke(ctx context.Context, id LeaseID) error
}

// Errors that a KV returns, compared by errors.Is.
var (
	// ErrCompacted is returned when a revision asked for has been compacted.
	ErrCompacted = errors.New("revision has been compacted")
	// ErrFutureRevision is returned when a revision asked for does not exist yet.
	ErrFutureRevision = errors.New("revision is in the future")
	// ErrLeaseNotFound is returned when a lease never existed, expired or was revoked.
	ErrLeaseNotFound = errors.New("lease not found")
	// ErrNoLeader is returned by a watch when its server has lost the quorum.
	ErrNoLeader = errors.New("no leader")
	// ErrDuplicateKey is returned when one transaction puts a key twice.
	ErrDuplicateKey = errors.New("duplicate key in transaction")
	// ErrTooManyOps is returned when a list of a transaction exceeds MaxTxnOps.
	ErrTooManyOps = errors.New("too many operations in transaction")
	// ErrEmptyKey is returned when an operation names no key.
	ErrEmptyKey = errors.New("key is not provided")
	// ErrLeaseExists is returned when a lease is made with an ID in use.
	ErrLeaseExists = errors.New("lease exists already")
	// ErrDenied is returned when the store does not let this caller do that; it
	// was not done.
	ErrDenied = errors.New("not allowed")
	// ErrUnavailable is returned when no server answers; whether a transaction
	// was applied is unknown.
	ErrUnavailable = errors.New("store is unavailable")
)

// MaxTxnOps bounds each list of a transaction, as etcd does by default.
const MaxTxnOps = 128

// LeaseID names a lease; zero is no lease.
type LeaseID int64

// KeyValue is one key at one revision, as in etcd's mvccpb.
type KeyValue struct {
	Key            string
	Value          []byte
	CreateRevision int64 // revision of the put that created the key
	ModRevision    int64 // revision of the last put
	Version        int64 // puts since creation, from 1
	Lease          LeaseID
}

// Header tells where an answer came from.
type Header struct {
	ClusterID uint64
	Revision  int64 // of the store when the answer was made
}

// RangeRequest asks for the keys in [Key, End). An empty End means the one
// key, "\x00" means all keys from Key on.
type RangeRequest struct {
	Key, End  string
	Revision  int64 // 0 is the current one
	Limit     int64 // 0 is no limit
	KeysOnly  bool  // leaves out Value and, as etcd since 3.7, Lease
	CountOnly bool
}

// RangeResponse holds keys in ascending order. Count counts all keys of the
// range, More says that Limit cut them.
type RangeResponse struct {
	Header
	Keys  []KeyValue
	More  bool
	Count int64
}

// Prefix is the range of all keys that begin with p; of every key when p is
// empty.
func Prefix(p string) RangeRequest {
	if p == "" {
		return RangeRequest{Key: "\x00", End: "\x00"}
	}
	return RangeRequest{Key: p, End: PrefixEnd(p)}
}

// PrefixEnd is the first key after all those that begin with p; "\x00" (no
// end) when p is empty or all 0xff.
func PrefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return "\x00"
}

// Target is what a Compare looks at.
type Target uint8

// The targets of etcd's transactions. An absent key has version, create and
// mod revision and lease zero; a compare of its value fails.
const (
	TargetVersion Target = iota
	TargetCreate
	TargetMod
	TargetValue
	TargetLease
)

// Relation is how a Compare relates what is there to what was asked.
type Relation uint8

// The relations of etcd's transactions.
const (
	Equal Relation = iota
	Greater
	Less
	NotEqual
)

// Compare is one guard of a transaction. Number is used for every target but
// TargetValue, which uses Value.
type Compare struct {
	Key      string
	Target   Target
	Relation Relation
	Number   int64
	Value    []byte
}

// Absent holds when the key does not exist.
func Absent(key string) Compare { return Compare{Key: key, Target: TargetCreate} }

// Unchanged holds when the key's last put was at modRevision.
func Unchanged(key string, modRevision int64) Compare {
	return Compare{Key: key, Target: TargetMod, Number: modRevision}
}

// OpKind says what an Op does.
type OpKind uint8

// The operations of a transaction.
const (
	OpRange OpKind = iota
	OpPut
	OpDelete
)

// Op is one operation of a transaction. End, as in RangeRequest, widens ranges
// and deletes. Lease and Value belong to puts, Limit and KeysOnly to ranges.
type Op struct {
	Kind     OpKind
	Key, End string
	Value    []byte
	Lease    LeaseID
	Limit    int64
	KeysOnly bool
}

// Put, Get and Delete are the plain forms of an Op.
func Put(key string, value []byte) Op { return Op{Kind: OpPut, Key: key, Value: value} }

// Get reads one key within a transaction.
func Get(key string) Op { return Op{Kind: OpRange, Key: key} }

// Delete removes one key; an absent one is no error.
func Delete(key string) Op { return Op{Kind: OpDelete, Key: key} }

// TxnRequest applies Then when all of If hold, else Else.
type TxnRequest struct {
	If   []Compare
	Then []Op
	Else []Op
}

// TxnResponse holds one OpResponse for each operation that ran. Revision is
// the one the transaction made, or the current one if it wrote nothing.
type TxnResponse struct {
	Header
	Succeeded bool
	Responses []OpResponse
}

// OpResponse is the answer to one Op: Keys, Count and More of a range, Deleted
// of a delete.
type OpResponse struct {
	Keys    []KeyValue
	Count   int64
	More    bool
	Deleted int64
}

// Event is one change of one key. Of a deletion, KV holds the key and, in
// ModRevision, the revision that deleted it.
type Event struct {
	Deleted bool
	KV      KeyValue
}

// WatchRequest asks for the changes of [Key, End) from revision From on; zero
// is from now on.
type WatchRequest struct {
	Key, End string
	From     int64
}

// WatchResponse carries the events of one or more whole revisions, or only
// progress (no events: all up to Revision have been sent), or Err, which ends
// the watch. With ErrCompacted, Compacted is the oldest revision still there.
type WatchResponse struct {
	Header
	Events    []Event
	Compacted int64
	Err       error
}
