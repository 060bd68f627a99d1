package store

import (
	"slices"

	"github.com/tidwall/btree"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Lists are the prefixes that the Views of one process have read whole. Views
// that share Lists share what they read: a list that says what the last one of
// its prefix said, and then an event that another of them has heard after it,
// cost no decoding and no memory, until one of them hears something else. It is
// for one goroutine, which has all the Views.
type Lists struct {
	last      map[string]list    // by prefix
	positions map[string]reading // by prefix
}

// reading is what a Feed keeps of a list.
type reading struct {
	keys []mvcc.KeyValue
	at   position
}

type list struct {
	keys []mvcc.KeyValue
	*recordSet
}

// NewView returns a View of nothing that shares what it reads with the others
// of l.
func (l *Lists) NewView() *View {
	v := NewView()
	v.lists = l
	return v
}

// replace makes a section equal to keys, which are all of prefix.
func (l *Lists) replace(s *section, prefix string, keys []mvcc.KeyValue) {
	if l == nil {
		s.replace(keys)
		return
	}
	if last, ok := l.last[prefix]; ok && slices.EqualFunc(last.keys, keys, same) {
		s.recordSet, s.problems = last.recordSet, btree.Map[string, error]{}
		return
	}
	s.recordSet = &recordSet{records: *s.records.Copy()}
	s.replace(keys)
	if s.problems.Len() > 0 { // what stands in for them is the section's own
		return
	}
	if l.last == nil {
		l.last = map[string]list{}
	}
	s.shared = true
	l.last[prefix] = list{keys, s.recordSet}
}

// listed is the position after a list of prefix.
func (l *Lists) listed(prefix string, h mvcc.Header, keys []mvcc.KeyValue) position {
	if l == nil {
		return listed(h, keys)
	}
	last, ok := l.positions[prefix]
	if !ok || !slices.EqualFunc(last.keys, keys, same) {
		last = reading{keys, listed(h, keys)}
		if l.positions == nil {
			l.positions = map[string]reading{}
		}
		l.positions[prefix] = last
	}
	at := last.at.clone()
	at.Header = h
	return at
}
