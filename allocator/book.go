package allocator

import (
	"cmp"
	"math"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// book is who has what of one kind of values: the VNIs, one VPC's VTEP addresses,
// its endpoints' addresses of one family, or their MACs (without a pool). The pool may be unknown yet; what lies outside of it can be held
// too (a range that was changed leaves such), it only is not given out.
type book struct {
	holders map[string][]*entry
	pool    *pool
	index   func(key string) (uint64, bool)
	network Network          // of addresses: what pool was made from
	vnis    cluster.VNIRange // of VNIs: the same
}

// entry is one value that is not free.
type entry struct {
	key    string
	book   *book
	holder string // "" if the reverse key cannot be decoded
	// item is the reverse key as last read; Mod is 0 if it never was.
	item    store.Item[*cluster.Allocation]
	bad     bool // the reverse key exists and has no good value
	pending int  // claims whose outcome is awaited
	// at is the revision from which on a view without the key proves that the
	// value is free: that of the last write; unsettled after an unknown outcome.
	at   int64
	seen uint64 // the Refresh that last found the key
}

const unsettled = math.MaxInt64

// setPool makes p, of which nothing is taken, the pool that values are given
// out from.
func (b *book) setPool(p *pool, index func(key string) (uint64, bool)) {
	b.pool, b.index = p, index
	for _, es := range b.holders {
		for _, e := range es {
			b.take(e.key)
		}
	}
}

func (b *book) take(key string) {
	if b.pool == nil {
		return
	}
	if i, ok := b.index(key); ok {
		b.pool.Take(i)
	}
}

func (b *book) free(key string) {
	if b.pool == nil {
		return
	}
	if i, ok := b.index(key); ok {
		b.pool.Free(i)
	}
}

func (b *book) own(e *entry, holder string) {
	e.holder = holder
	b.holders[holder] = append(b.holders[holder], e)
}

func (b *book) disown(e *entry) {
	rest := slices.DeleteFunc(b.holders[e.holder], func(o *entry) bool { return o == e })
	if len(rest) == 0 {
		delete(b.holders, e.holder)
		return
	}
	b.holders[e.holder] = rest
}

// held is the value that a holder has: one that was not released before one
// that was, then the lowest. Nil for none.
func (b *book) held(holder string) *entry {
	if len(b.holders[holder]) == 0 {
		return nil
	}
	return slices.MinFunc(b.holders[holder], func(x, y *entry) int {
		switch {
		case x.released() != y.released():
			if y.released() {
				return -1
			}
			return 1
		case b.index != nil:
			i, _ := b.index(x.key)
			j, _ := b.index(y.key)
			return cmp.Or(cmp.Compare(i, j), cmp.Compare(x.key, y.key))
		}
		return cmp.Compare(x.key, y.key)
	})
}

func (e *entry) released() bool { return e.item.Value != nil && e.item.Value.Released }

// isFree reports whether neither the store nor a claim holds the value.
func (e *entry) isFree() bool { return e.pending == 0 && e.item.Mod == 0 && e.at == 0 && !e.bad }
