package linux

import "maps"

// shared is a map that is handed out and changed in turns: it is copied before
// the first change after it was shared, and not at each look.
type shared[K, V comparable] struct {
	m   map[K]V
	out bool // the map was handed out
}

// share returns the map, which from now on stays as it is.
func (s *shared[K, V]) share() map[K]V {
	s.out = true
	return s.m
}

func (s *shared[K, V]) own() {
	if s.out || s.m == nil {
		s.m, s.out = maps.Clone(s.m), false
		if s.m == nil {
			s.m = map[K]V{}
		}
	}
}

// set reports whether it made a difference.
func (s *shared[K, V]) set(k K, v V) bool {
	if old, ok := s.m[k]; ok && old == v {
		return false
	}
	s.own()
	s.m[k] = v
	return true
}

// remove reports whether it made a difference.
func (s *shared[K, V]) remove(k K) bool {
	if _, ok := s.m[k]; !ok {
		return false
	}
	s.own()
	delete(s.m, k)
	return true
}
