package store

import (
	"bytes"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/btree"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// View is what a Mirror holds: the records below the prefixes that it follows,
// decoded once each. It changes only in Mirror.Pull, or by the Feeds that it is
// handed to, and belongs to the goroutine that calls them. Records are shared by
// whoever reads them: nobody changes one.
type View struct {
	sections map[string]*section // by prefix
	lists    *Lists              // nil: shared with no other View
}

type entry struct {
	kv   mvcc.KeyValue
	good cluster.Record // the last value that could be decoded, nil if none
}

// section is what the View holds of one prefix.
type section struct {
	*recordSet
	problems btree.Map[string, error] // why records cannot be decoded
	synced   bool
	revision int64
	lists    int
	staleErr error
	stale    time.Time
}

// recordSet is the records of a prefix.
type recordSet struct {
	records btree.Map[string, *entry]
	made    any // of records, see Made

	// Of what Views share, which never changes: the event after it that one of
	// them heard first, and what it went on to.
	shared bool
	event  mvcc.Event
	next   *recordSet
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
func (v *View) Drop(prefix string) { delete(v.sections, prefix) }

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
	for _, s := range v.sections {
		s.problems.Scan(func(key string, err error) bool {
			e, _ := s.records.Get(key)
			ps = append(ps, Problem{key, err, e.kv.ModRevision})
			return true
		})
	}
	slices.SortFunc(ps, func(a, b Problem) int { return strings.Compare(a.Key, b.Key) })
	return ps
}

// At returns the record at key: its last good value if the present one cannot
// be decoded. It reports false if there is none.
func At[T cluster.Record](v *View, key string) (Item[T], bool) {
	e := v.get(key)
	if e == nil {
		return Item[T]{Key: key}, false
	}
	return typed[T](e)
}

// Below yields the records of type T whose key begins with prefix, by key.
func Below[T cluster.Record](v *View, prefix string) iter.Seq[Item[T]] {
	return func(yield func(Item[T]) bool) {
		for e := range v.below(prefix) {
			if it, ok := typed[T](e); ok && !yield(it) {
				return
			}
		}
	}
}

// Has reports whether key exists, decodable or not.
func (v *View) Has(key string) bool { return v.get(key) != nil }

// Made is what of makes of the records of a prefix that v follows: it is called
// again only after they changed. Views that share their records share it, too, so
// nobody changes it. One kind of thing is made of a prefix.
func Made[T any](v *View, prefix string, of func() T) T {
	s := v.sections[prefix]
	if s == nil {
		return of()
	}
	made, ok := s.made.(T)
	if !ok {
		made = of()
		s.made = made
	}
	return made
}

// get is the entry of key, nil if there is none.
func (v *View) get(key string) *entry {
	s := v.holding(key)
	if s == nil {
		return nil
	}
	e, _ := s.records.Get(key)
	return e
}

// below yields the entries whose key begins with prefix, by key.
func (v *View) below(prefix string) iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		more := true
		for _, s := range v.within(prefix) {
			s.records.Ascend(prefix, func(key string, e *entry) bool {
				more = strings.HasPrefix(key, prefix) && yield(e)
				return more
			})
			if !more {
				return
			}
		}
	}
}

// holding is the section that key belongs to, nil if none is followed.
func (v *View) holding(key string) *section {
	if s := v.sections[key]; s != nil {
		return s
	}
	for i := len(key) - 1; i >= 0; i-- {
		if key[i] == '/' {
			if s := v.sections[key[:i+1]]; s != nil {
				return s
			}
		}
	}
	return v.sections[""]
}

// within lists, by prefix, the sections that hold keys which begin with prefix.
func (v *View) within(prefix string) []*section {
	if s := v.holding(prefix); s != nil {
		return []*section{s}
	}
	var list []*section
	for _, p := range slices.Sorted(maps.Keys(v.sections)) {
		if strings.HasPrefix(p, prefix) {
			list = append(list, v.sections[p])
		}
	}
	return list
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
		s = &section{recordSet: &recordSet{}}
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
		v.lists.replace(s, prefix, b.keys)
		s.synced = true
		s.lists++
	}
	for _, e := range b.events {
		s.hear(e)
	}
	if b.rev != 0 {
		s.revision = b.rev
	}
}

// hear takes one event.
func (s *section) hear(e mvcc.Event) {
	if !s.shared {
		s.take(e)
		return
	}
	was := s.recordSet
	if was.next != nil && was.event.Deleted == e.Deleted && same(was.event.KV, e.KV) {
		s.recordSet = was.next
		return
	}
	s.recordSet = &recordSet{records: *was.records.Copy()}
	if s.take(e); was.next == nil && s.problems.Len() == 0 {
		s.shared = true
		was.event, was.next = e, s.recordSet
	}
}

func (s *section) take(e mvcc.Event) {
	if e.Deleted {
		s.remove(e.KV.Key)
	} else {
		s.put(e.KV)
	}
}

// put takes one key as the store has it.
func (s *section) put(kv mvcc.KeyValue) {
	was, _ := s.records.Get(kv.Key)
	if was != nil && same(was.kv, kv) {
		return
	}
	e := &entry{kv: kv}
	r, err := cluster.Decode(kv.Key, kv.Value)
	switch {
	case err == nil:
		e.good = r
		s.problems.Delete(kv.Key)
	default:
		s.problems.Set(kv.Key, err)
		if was != nil {
			e.good = was.good
		}
	}
	s.records.Set(kv.Key, e)
	s.made = nil
}

func (s *section) remove(key string) {
	s.records.Delete(key)
	s.problems.Delete(key)
	s.made = nil
}

// replace makes the section equal to keys.
func (s *section) replace(keys []mvcc.KeyValue) {
	listed := make(map[string]bool, len(keys))
	for _, kv := range keys {
		listed[kv.Key] = true
	}
	var drop []string
	s.records.Scan(func(key string, _ *entry) bool {
		if !listed[key] {
			drop = append(drop, key)
		}
		return true
	})
	for _, key := range drop {
		s.remove(key)
	}
	for _, kv := range keys {
		s.put(kv)
	}
}

func same(a, b mvcc.KeyValue) bool {
	return a.Key == b.Key && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision &&
		a.Version == b.Version && a.Lease == b.Lease && bytes.Equal(a.Value, b.Value)
}
