package store

import (
	"bytes"
	"iter"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// View is what a Mirror holds: the records below the prefixes that it follows,
// decoded once each. It changes only in Mirror.Pull, or by the Feeds that it is
// handed to, and belongs to the goroutine that calls them.
type View struct {
	records  btree.Map[string, *entry]
	problems btree.Map[string, error] // why records cannot be decoded
	sections map[string]*section
}

type entry struct {
	kv   mvcc.KeyValue
	good cluster.Record // the last value that could be decoded, nil if none
}

type section struct {
	synced   bool
	revision int64
	lists    int
	staleErr error
	stale    time.Time
}

// Problem is a record that cannot be used as it is.
type Problem struct {
	Key string
	Err error
	Mod int64 // revision of the write that cannot be used
}

// NewView returns a View of nothing, for whoever feeds it by Feeds.
func NewView() *View { return &View{sections: map[string]*section{}} }

// Drop forgets a prefix that is not followed any more.
func (v *View) Drop(prefix string) {
	delete(v.sections, prefix)
	v.forget(prefix, func(string) bool { return true })
}

// Synced reports whether prefix has been read whole.
func (v *View) Synced(prefix string) bool {
	s := v.sections[prefix]
	return s != nil && s.synced
}

// Revision is the store revision that the view of prefix has reached.
func (v *View) Revision(prefix string) int64 {
	if s := v.sections[prefix]; s != nil {
		return s.revision
	}
	return 0
}

// Lists counts how often prefix has been read whole: more than once means that
// events were lost or the store went back in time.
func (v *View) Lists(prefix string) int {
	if s := v.sections[prefix]; s != nil {
		return s.lists
	}
	return 0
}

// Stale returns since when, and why, some prefix has had no contact with the
// store; the zero time if all have.
func (v *View) Stale() (since time.Time, err error) {
	for _, s := range v.sections {
		if s.staleErr != nil && (since.IsZero() || s.stale.Before(since)) {
			since, err = s.stale, s.staleErr
		}
	}
	return since, err
}

// Problems lists the records that could not be decoded, by key.
func (v *View) Problems() []Problem {
	var ps []Problem
	v.problems.Scan(func(key string, err error) bool {
		e, _ := v.records.Get(key)
		ps = append(ps, Problem{key, err, e.kv.ModRevision})
		return true
	})
	return ps
}

// At returns the record at key: its last good value if the present one cannot
// be decoded. It reports false if there is none.
func At[T cluster.Record](v *View, key string) (Item[T], bool) {
	e, ok := v.records.Get(key)
	if !ok {
		return Item[T]{Key: key}, false
	}
	return typed[T](e)
}

// Below yields the records of type T whose key begins with prefix, by key.
func Below[T cluster.Record](v *View, prefix string) iter.Seq[Item[T]] {
	return func(yield func(Item[T]) bool) {
		v.records.Ascend(prefix, func(key string, e *entry) bool {
			if !strings.HasPrefix(key, prefix) {
				return false
			}
			it, ok := typed[T](e)
			return !ok || yield(it)
		})
	}
}

// Has reports whether key exists, decodable or not.
func (v *View) Has(key string) bool {
	_, ok := v.records.Get(key)
	return ok
}

func typed[T cluster.Record](e *entry) (Item[T], bool) {
	r, ok := e.good.(T)
	return Item[T]{
		Key: e.kv.Key, Value: r, Create: e.kv.CreateRevision, Mod: e.kv.ModRevision,
		raw: e.kv.Value, lease: e.kv.Lease,
	}, ok
}

// apply takes in what the feed of a prefix told.
func (v *View) apply(prefix string, b batch) {
	s := v.sections[prefix]
	if s == nil {
		s = &section{}
		v.sections[prefix] = s
	}
	if b.err != nil {
		if s.staleErr == nil {
			s.stale = b.at
		}
		s.staleErr = b.err
		return
	}
	s.staleErr = nil
	if b.list {
		v.replace(prefix, b.keys)
		s.synced = true
		s.lists++
	}
	for _, e := range b.events {
		if e.Deleted {
			v.remove(e.KV.Key)
		} else {
			v.put(e.KV)
		}
	}
	if b.rev != 0 {
		s.revision = b.rev
	}
}

// put takes one key as the store has it.
func (v *View) put(kv mvcc.KeyValue) {
	was, _ := v.records.Get(kv.Key)
	if was != nil && same(was.kv, kv) {
		return
	}
	e := &entry{kv: kv}
	r, err := cluster.Decode(kv.Key, kv.Value)
	switch {
	case err == nil:
		e.good = r
		v.problems.Delete(kv.Key)
	default:
		v.problems.Set(kv.Key, err)
		if was != nil {
			e.good = was.good
		}
	}
	v.records.Set(kv.Key, e)
}

func (v *View) remove(key string) {
	v.records.Delete(key)
	v.problems.Delete(key)
}

// replace makes the view of prefix equal to keys, sorted as a list returns
// them.
func (v *View) replace(prefix string, keys []mvcc.KeyValue) {
	listed := make(map[string]bool, len(keys))
	for _, kv := range keys {
		listed[kv.Key] = true
	}
	v.forget(prefix, func(key string) bool { return !listed[key] })
	for _, kv := range keys {
		v.put(kv)
	}
}

// forget drops what lies under prefix and gone agrees to.
func (v *View) forget(prefix string, gone func(key string) bool) {
	var drop []string
	v.records.Ascend(prefix, func(key string, _ *entry) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		if within(prefix, key) && gone(key) {
			drop = append(drop, key)
		}
		return true
	})
	for _, key := range drop {
		v.remove(key)
	}
}

// within reports whether key belongs to prefix: below it if it ends with a
// slash, else the one key.
func within(prefix, key string) bool {
	return key == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(key, prefix)
}

func same(a, b mvcc.KeyValue) bool {
	return a.Key == b.Key && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision &&
		a.Version == b.Version && a.Lease == b.Lease && bytes.Equal(a.Value, b.Value)
}
