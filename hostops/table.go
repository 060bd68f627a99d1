package hostops

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// Table is one of a host's tables, a map. A nil Table is empty and can be read.
// Those of one Usual are cheap while they hold what is usual.
type Table[K, V comparable] struct {
	usual *Usual[K, V] // nil: nothing is
	bits  []uint64     // which of usual are in the table
	own   map[K]V      // what else is
	n     int
}

// Usual are entries that many tables of one process have: each keeps a bit of
// them. So thousands of simulated hosts, each with an entry for every other, fit
// into one machine. The zero Usual is ready for use. It is for one goroutine, with
// all its tables, those that are only read among them.
type Usual[K, V comparable] struct {
	ids     map[K]int
	entries []entry[K, V]
	next    int // after the last that was found: tables are gone through in the same order
}

// NewTable returns an empty table.
func NewTable[K, V comparable]() *Table[K, V] { return &Table[K, V]{own: map[K]V{}} }

// TableOf is a table that holds m, and changes with it.
func TableOf[K, V comparable](m map[K]V) *Table[K, V] { return &Table[K, V]{own: m, n: len(m)} }

// NewTable returns an empty table of what is usual; nil: of nothing is.
func (u *Usual[K, V]) NewTable() *Table[K, V] { return &Table[K, V]{usual: u, own: map[K]V{}} }

// of finds the usual entry of a key, and makes k and v that if there is none.
func (u *Usual[K, V]) of(k K, v V) (id int, is bool) {
	id, ok := u.find(k)
	if !ok {
		if u.ids == nil {
			u.ids = map[K]int{}
		}
		id = len(u.entries)
		u.ids[k] = id
		u.entries = append(u.entries, entry[K, V]{k, v})
	}
	return id, u.entries[id].value == v
}

func (u *Usual[K, V]) find(k K) (id int, ok bool) {
	if id = u.next; id >= len(u.entries) || u.entries[id].key != k {
		if id, ok = u.ids[k]; !ok {
			return 0, false
		}
	}
	u.next = id + 1
	return id, true
}

// Len is how many entries t has.
func (t *Table[K, V]) Len() int {
	if t == nil {
		return 0
	}
	return t.n
}

// Get returns the entry of k.
func (t *Table[K, V]) Get(k K) (v V, ok bool) {
	if t == nil {
		return v, false
	}
	if len(t.own) > 0 {
		if v, ok = t.own[k]; ok {
			return v, true
		}
	}
	if t.usual == nil {
		return v, false
	}
	id, ok := t.usual.find(k)
	if !ok || !t.bit(id) {
		return v, false
	}
	return t.usual.entries[id].value, true
}

// Has reports whether k has an entry.
func (t *Table[K, V]) Has(k K) bool {
	_, ok := t.Get(k)
	return ok
}

// Set sets the entry of k.
func (t *Table[K, V]) Set(k K, v V) {
	if t.usual != nil {
		id, is := t.usual.of(k, v)
		if t.bit(id) {
			if is {
				return
			}
			t.flip(id, -1)
		} else if is {
			if len(t.own) > 0 {
				t.Delete(k)
			}
			t.flip(id, 1)
			return
		}
	}
	if !has(t.own, k) {
		t.n++
	}
	t.own[k] = v
}

// Delete removes the entry of k.
func (t *Table[K, V]) Delete(k K) {
	if t == nil {
		return
	}
	if len(t.own) > 0 && has(t.own, k) {
		delete(t.own, k)
		t.n--
	} else if t.usual != nil {
		if id, ok := t.usual.find(k); ok && t.bit(id) {
			t.flip(id, -1)
		}
	}
}

func (t *Table[K, V]) bit(id int) bool { return id/64 < len(t.bits) && t.bits[id/64]>>(id%64)&1 != 0 }

// flip puts a usual entry in, or takes it out.
func (t *Table[K, V]) flip(id, by int) {
	if more := id/64 + 1 - len(t.bits); more > 0 {
		t.bits = append(t.bits, make([]uint64, more)...)
	}
	t.bits[id/64] ^= 1 << (id % 64)
	t.n += by
}

// All yields the entries, in no order. The table may lose or change the one that
// is yielded meanwhile.
func (t *Table[K, V]) All() iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		if t == nil {
			return
		}
		for id := range len(t.bits) * 64 {
			if t.bit(id) && !yield(t.usual.entries[id].key, t.usual.entries[id].value) {
				return
			}
		}
		for k, v := range t.own {
			if !yield(k, v) {
				return
			}
		}
	}
}

// Keys yields the keys, in no order.
func (t *Table[K, V]) Keys() iter.Seq[K] {
	return func(yield func(K) bool) {
		for k := range t.All() {
			if !yield(k) {
				return
			}
		}
	}
}

// Clone is a copy; that of nil is nil.
func (t *Table[K, V]) Clone() *Table[K, V] {
	if t == nil {
		return nil
	}
	c := *t
	c.bits, c.own = slices.Clone(t.bits), maps.Clone(t.own)
	if c.own == nil {
		c.own = map[K]V{}
	}
	return &c
}

// Equal reports whether both have the same entries.
func (t *Table[K, V]) Equal(o *Table[K, V]) bool {
	if t.Len() != o.Len() {
		return false
	}
	for k, v := range t.All() {
		if is, ok := o.Get(k); !ok || is != v {
			return false
		}
	}
	return true
}

// AddrSet is a set of addresses.
type AddrSet = *Table[netip.Addr, struct{}]

// Addrs returns a set.
func Addrs(as ...netip.Addr) AddrSet {
	s := NewTable[netip.Addr, struct{}]()
	for _, a := range as {
		s.Set(a, struct{}{})
	}
	return s
}
