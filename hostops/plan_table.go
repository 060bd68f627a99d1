package hostops

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// entry is one entry of a table.
type entry[K, V comparable] struct {
	key   K
	value V
}

// entries lists what to set in a table of the peers' VTEPs, and what to remove,
// in a settled order. Of peers with the same key the first counts. Most often
// nothing is to be done, or peers are new: then it makes no table of all that
// is wanted.
// more, which may be nil, yields what else is to be in the table.
func entries[K, V comparable](tunnels []Tunnel, have *Table[K, V], of func(Peer) (K, V), more iter.Seq2[K, V]) (set []entry[K, V], extra []K) {
	right, moved := 0, false
	for _, t := range tunnels {
		if have.Len() == 0 {
			set = slices.Grow(set, len(t.Peers))
		}
	}
	wanted := func(yield func(K, V) bool) {
		for _, t := range tunnels {
			for _, p := range t.Peers {
				if !t.tells(p) {
					continue
				}
				if k, v := of(p); !yield(k, v) {
					return
				}
			}
		}
		if more != nil {
			more(yield)
		}
	}
	for k, v := range wanted {
		switch is, ok := have.Get(k); {
		case ok && is == v:
			right++
		default:
			moved = moved || ok
			set = append(set, entry[K, V]{k, v})
		}
	}
	if right == have.Len() && !moved {
		if len(set) > 1 && (more != nil || twins(tunnels)) {
			set = firsts(set)
		}
		return set, nil
	}
	want := make(map[K]V, right+len(set))
	for k, v := range wanted {
		if !has(want, k) {
			want[k] = v
		}
	}
	set = slices.DeleteFunc(set, func(e entry[K, V]) bool { return want[e.key] != e.value })
	for k := range have.Keys() {
		if !has(want, k) {
			extra = append(extra, k)
		}
	}
	slices.SortFunc(extra, func(a, b K) int { return cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return firsts(set), extra
}

// twins reports whether two peers may have the same key in a table of VTEPs: the
// last four bytes of a VTEP tell its MAC, too.
func twins(tunnels []Tunnel) bool {
	var all []uint32
	for _, t := range tunnels {
		all = slices.Grow(all, len(t.Peers))
		for _, p := range t.Peers {
			if t.tells(p) {
				b := p.VTEP.As16()
				all = append(all, binary.BigEndian.Uint32(b[12:]))
			}
		}
	}
	slices.Sort(all)
	n := len(all)
	return len(slices.Compact(all)) < n
}

// firsts keeps the first entry of each key.
func firsts[K, V comparable](es []entry[K, V]) []entry[K, V] {
	seen := make(map[K]struct{}, len(es))
	return slices.DeleteFunc(es, func(e entry[K, V]) bool {
		twice := has(seen, e.key)
		seen[e.key] = struct{}{}
		return twice
	})
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// difference lists, sorted, what have lacks of want and has beyond it. Most
// often that is nothing, and want is sorted: then it makes no set of it.
func difference(want []netip.Addr, have AddrSet) (missing, extra []netip.Addr) {
	found, sorted := 0, true
	if have.Len() == 0 {
		missing = slices.Clone(want)
		want = nil
	}
	for i, a := range want {
		if have.Has(a) {
			found++
		} else {
			missing = append(missing, a)
		}
		sorted = sorted && (i == 0 || want[i-1].Less(a))
	}
	slices.SortFunc(missing, netip.Addr.Compare)
	missing = slices.Compact(missing)
	if sorted && found == have.Len() {
		return missing, nil
	}
	keep := Addrs(want...)
	for a := range have.Keys() {
		if !keep.Has(a) {
			extra = append(extra, a)
		}
	}
	slices.SortFunc(extra, netip.Addr.Compare)
	return missing, extra
}
