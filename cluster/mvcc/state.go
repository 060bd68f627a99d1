package mvcc

import (
	"slices"
	"time"

	"github.com/tidwall/btree"
)

// State is a store at its current revision with its history back to the
// compacted one. It is not safe for concurrent use, and the zero value is not
// usable: NewState makes one. Headers of its answers carry no ClusterID.
type State struct {
	revision  int64
	compacted int64 // -1 before the first compaction, as in etcd

	current  *btree.Map[string, KeyValue]
	versions *btree.BTreeG[version] // every put and deletion since compacted
	log      []change               // events by revision, from compacted on
	leases   *btree.Map[LeaseID, time.Duration]
	attached *btree.BTreeG[attachment] // keys by lease
}

// version is what a key was from KV.ModRevision on.
type version = Event

// change is all events of one revision.
type change struct {
	revision int64
	events   []Event
}

type attachment struct {
	lease LeaseID
	key   string
}

// NewState is an empty store, at revision 1.
func NewState() *State {
	return &State{
		revision:  1,
		compacted: -1,
		current:   new(btree.Map[string, KeyValue]),
		versions:  newTree(lessVersion),
		leases:    new(btree.Map[LeaseID, time.Duration]),
		attached:  newTree(lessAttachment),
	}
}

func newTree[T any](less func(a, b T) bool) *btree.BTreeG[T] {
	return btree.NewBTreeGOptions(less, btree.Options{NoLocks: true})
}

func lessVersion(a, b version) bool {
	if a.KV.Key != b.KV.Key {
		return a.KV.Key < b.KV.Key
	}
	return a.KV.ModRevision < b.KV.ModRevision
}

func lessAttachment(a, b attachment) bool {
	if a.lease != b.lease {
		return a.lease < b.lease
	}
	return a.key < b.key
}

// Clone is an independent copy. It costs nothing at first: what both have is
// shared until one of them changes it.
func (s *State) Clone() *State {
	return &State{
		revision:  s.revision,
		compacted: s.compacted,
		current:   s.current.Copy(),
		versions:  s.versions.Copy(),
		log:       slices.Clip(s.log), // so that the clone appends elsewhere
		leases:    s.leases.Copy(),
		attached:  s.attached.Copy(),
	}
}

// Revision is the current one.
func (s *State) Revision() int64 { return s.revision }

// Compacted is the oldest revision that can be read, 0 when nothing was
// compacted.
func (s *State) Compacted() int64 { return max(s.compacted, 0) }

// Range reads keys at one revision. Errors: ErrEmptyKey, ErrCompacted,
// ErrFutureRevision.
func (s *State) Range(r RangeRequest) (RangeResponse, error) {
	resp := RangeResponse{Header: Header{Revision: s.revision}}
	switch {
	case r.Key == "":
		return RangeResponse{}, ErrEmptyKey
	case r.Revision > s.revision:
		return RangeResponse{}, ErrFutureRevision
	case r.Revision > 0 && r.Revision < s.compacted:
		return RangeResponse{}, ErrCompacted
	}
	s.scan(r.Key, r.End, r.Revision, func(kv KeyValue) {
		resp.Count++
		if r.CountOnly || r.Limit > 0 && resp.Count > r.Limit {
			return
		}
		if r.KeysOnly {
			kv.Value, kv.Lease = nil, 0
		}
		resp.Keys = append(resp.Keys, kv)
	})
	resp.More = !r.CountOnly && int64(len(resp.Keys)) < resp.Count
	return resp, nil
}

// scan calls visit for each key of the range, ascending, as it was at
// revision; zero or less is the current one.
func (s *State) scan(key, end string, revision int64, visit func(KeyValue)) {
	if revision <= 0 || revision == s.revision {
		s.current.Ascend(key, func(k string, kv KeyValue) bool {
			if !Within(key, end, k) {
				return false
			}
			visit(kv)
			return true
		})
		return
	}
	var last version // the newest so far of the key in hand
	emit := func() {
		if last.KV.Key != "" && !last.Deleted {
			visit(last.KV)
		}
	}
	s.versions.Ascend(version{KV: KeyValue{Key: key}}, func(v version) bool {
		if !Within(key, end, v.KV.Key) {
			return false
		}
		if v.KV.ModRevision > revision {
			return true
		}
		if v.KV.Key != last.KV.Key {
			emit()
		}
		last = v
		return true
	})
	emit()
}

// Within reports whether k is in the range [key, end) as RangeRequest means it.
func Within(key, end, k string) bool {
	switch end {
	case "":
		return k == key
	case "\x00":
		return k >= key
	}
	return key <= k && k < end
}

// Grant makes a lease with an ID of the caller's choice. The TTL is kept for
// whoever watches over the deadline. Errors: ErrLeaseNotFound for ID zero,
// ErrLeaseExists.
func (s *State) Grant(id LeaseID, ttl time.Duration) error {
	if id == 0 {
		return ErrLeaseNotFound
	}
	if _, ok := s.leases.Get(id); ok {
		return ErrLeaseExists
	}
	s.leases.Set(id, ttl)
	return nil
}

// Revoke ends a lease and deletes its keys, in order, in one revision. It
// returns ErrLeaseNotFound when there is no such lease.
func (s *State) Revoke(id LeaseID) error {
	if _, ok := s.leases.Get(id); !ok {
		return ErrLeaseNotFound
	}
	w := writer{State: s, revision: s.revision + 1}
	for _, k := range s.LeaseKeys(id) {
		w.remove(k)
	}
	s.leases.Delete(id)
	w.commit()
	return nil
}

// Leases lists the leases with their TTLs.
func (s *State) Leases() map[LeaseID]time.Duration {
	m := make(map[LeaseID]time.Duration, s.leases.Len())
	s.leases.Scan(func(id LeaseID, ttl time.Duration) bool {
		m[id] = ttl
		return true
	})
	return m
}

// LeaseKeys lists the keys attached to a lease, ascending.
func (s *State) LeaseKeys(id LeaseID) []string {
	var keys []string
	s.attached.Ascend(attachment{lease: id}, func(a attachment) bool {
		if a.lease != id {
			return false
		}
		keys = append(keys, a.key)
		return true
	})
	return keys
}
