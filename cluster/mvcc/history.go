package mvcc

import (
	"slices"
	"sort"
)

// Events lists what changed in [key, end) from a revision on: in order of
// revision, and within one of the operations that made it. A revision still to
// come gives none; one below Compacted is ErrCompacted.
func (s *State) Events(from int64, key, end string) ([]Event, error) {
	if from < s.compacted {
		return nil, ErrCompacted
	}
	var events []Event
	for _, c := range s.log[s.logIndex(from):] {
		for _, e := range c.events {
			if Within(key, end, e.KV.Key) {
				events = append(events, e)
			}
		}
	}
	return events, nil
}

// logIndex is the first change at or after a revision.
func (s *State) logIndex(revision int64) int {
	return sort.Search(len(s.log), func(i int) bool { return s.log[i].revision >= revision })
}

// Compact forgets what was before a revision; what was at it can still be
// read. Errors: ErrCompacted when it was compacted up to there already,
// ErrFutureRevision above the current revision.
func (s *State) Compact(revision int64) error {
	switch {
	case revision <= s.compacted:
		return ErrCompacted
	case revision > s.revision:
		return ErrFutureRevision
	}
	s.compacted = revision
	touched := make(map[string]bool) // before, every key had one version at most
	for _, c := range s.log[:s.logIndex(revision+1)] {
		for _, e := range c.events {
			touched[e.KV.Key] = true
		}
	}
	for k := range touched {
		s.compactKey(k)
	}
	s.log = slices.Clone(s.log[s.logIndex(revision):])
	return nil
}

// compactKey keeps the newest version at the compacted revision, if that is a
// put, and all later ones.
func (s *State) compactKey(key string) {
	var old []version
	s.versions.Ascend(version{KV: KeyValue{Key: key}}, func(v version) bool {
		if v.KV.Key != key || v.KV.ModRevision > s.compacted {
			return false
		}
		old = append(old, v)
		return true
	})
	for i, v := range old {
		if i < len(old)-1 || v.Deleted {
			s.versions.Delete(v)
		}
	}
}
