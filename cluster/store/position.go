package store

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/fnv"
	"slices"

	"github.com/tidwall/btree"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// position is how far a feed has come in the store's history, with enough of
// it to know that history again.
type position struct {
	mvcc.Header                            // all up to Revision has been told; 0 is nothing
	keys        *btree.Map[string, uint64] // all keys at Revision, by fingerprint
	newest      string                     // the key of the newest event up to Revision; of a list its newest key
}

// listed is the position after a whole list.
func listed(h mvcc.Header, keys []mvcc.KeyValue) position {
	p := position{Header: h, keys: new(btree.Map[string, uint64])}
	var mod int64
	for _, kv := range keys {
		p.keys.Set(kv.Key, fingerprint(kv))
		if kv.ModRevision > mod {
			mod, p.newest = kv.ModRevision, kv.Key
		}
	}
	return p
}

// heard moves p past an answer of a watch. An answer with events promises
// nothing about later ones: etcd sends a long backlog in several answers which
// all have the newest revision in their header.
func (p *position) heard(w mvcc.WatchResponse) {
	if len(w.Events) == 0 {
		p.Revision = max(p.Revision, w.Revision)
		return
	}
	for _, e := range w.Events {
		if e.Deleted {
			p.keys.Delete(e.KV.Key)
		} else {
			p.keys.Set(e.KV.Key, fingerprint(e.KV))
		}
		p.newest, p.Revision = e.KV.Key, e.KV.ModRevision
	}
}

// clone is a copy that stays as it is when p moves on. It costs nothing at
// first: what both have is shared until p changes it.
func (p *position) clone() position {
	c := *p
	c.keys = p.keys.Copy()
	return c
}

// knows reports whether r is what the store answered to req at p.
func (p *position) knows(req mvcc.RangeRequest, r mvcc.RangeResponse) bool {
	if req.CountOnly {
		return r.Count == int64(p.keys.Len())
	}
	var (
		known []uint64
		more  bool
	)
	p.keys.Ascend(req.Key, func(key string, sum uint64) bool {
		within := mvcc.Within(req.Key, req.End, key)
		more = within && int64(len(known)) == req.Limit
		if !within || more {
			return false
		}
		known = append(known, sum)
		return true
	})
	return more == r.More && slices.EqualFunc(known, r.Keys, func(sum uint64, kv mvcc.KeyValue) bool {
		return sum == fingerprint(kv)
	})
}

// fingerprint tells a key, with all that the store says of it, from any other.
func fingerprint(kv mvcc.KeyValue) uint64 {
	b := make([]byte, 0, 512)
	for _, n := range []int64{kv.CreateRevision, kv.ModRevision, kv.Version, int64(kv.Lease), int64(len(kv.Key))} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	b = append(append(b, kv.Key...), kv.Value...)
	h := fnv.New64a()
	_, _ = h.Write(b)
	return h.Sum64()
}

// checkPage is how many keys a check compares.
const checkPage = 64

// check asks whether the store's history is what a position knows of it.
// Compaction hides that: ErrCompacted. Where the keys do not fit in a page,
// their number and the newest one tell nearly always; a page of the others is
// compared from the key from on, and the next check is to go on from next.
func (s *Store) check(ctx context.Context, prefix string, at position, from string) (next string, err error) {
	whole := rangeOf(prefix)
	whole.Limit = checkPage
	if at.keys.Len() <= checkPage {
		_, err := s.recall(ctx, at, whole)
		return "", err
	}
	count, page := whole, whole
	count.CountOnly = true
	page.Key = max(page.Key, from)
	for _, req := range []mvcc.RangeRequest{count, {Key: at.newest, Limit: 1}, page} {
		if next, err = s.recall(ctx, at, req); err != nil {
			return from, err
		}
	}
	return next, nil
}

// recall asks for keys as they were at a position, and compares them. What the
// answer left out begins at rest, which is empty if that is nothing.
func (s *Store) recall(ctx context.Context, at position, req mvcc.RangeRequest) (rest string, err error) {
	req.Revision = at.Revision
	r, err := s.readPage(ctx, req)
	switch {
	case errors.Is(err, mvcc.ErrFutureRevision):
		return "", errOtherHistory
	case err != nil:
		return "", err
	case r.ClusterID != at.ClusterID:
		return "", errOtherCluster
	case !at.knows(req, r):
		return "", errOtherHistory
	case r.More:
		rest = r.Keys[len(r.Keys)-1].Key + "\x00"
	}
	return rest, nil
}
