package allocator

import (
	"math"

	"github.com/tidwall/btree"
)

// pool is a set of numbers from 0 to a size, of which some are taken. It costs
// memory for what is taken, not for its size, so a pool may span 2^64 numbers.
// It is a pure value for one goroutine.
type pool struct {
	size     uint64 // numbers are below it
	reserved map[uint64]bool
	taken    map[uint64]bool
	next     uint64            // all from here on that are free were never passed
	holes    btree.Set[uint64] // the free ones below next
}

// newPool returns a pool of the numbers below size, none of them taken. Those
// that are reserved are never given out; a number may be named twice.
func newPool(size uint64, reserved ...uint64) *pool {
	p := &pool{size: size, reserved: map[uint64]bool{}, taken: map[uint64]bool{}}
	for _, n := range reserved {
		if n < size {
			p.reserved[n] = true
		}
	}
	return p
}

// Capacity counts the numbers that can be given out, taken or not.
func (p *pool) Capacity() uint64 { return p.size - uint64(len(p.reserved)) }

// Taken counts the numbers that are taken, reserved ones that somebody has
// nevertheless included.
func (p *pool) Taken() int { return len(p.taken) }

// Lowest returns the lowest number that is free and that avoid (which may be
// nil) does not object to. It reports false when there is none. The cost is
// O(log n) amortized, and one call of avoid for each number passed over.
func (p *pool) Lowest(avoid func(uint64) bool) (uint64, bool) {
	ok := func(n uint64) bool { return avoid == nil || !avoid(n) }
	found, n := false, uint64(0)
	p.holes.Scan(func(hole uint64) bool {
		found, n = ok(hole), hole
		return !found
	})
	if found {
		return n, true
	}
	for ; p.next < p.size; p.next++ {
		switch {
		case p.reserved[p.next] || p.taken[p.next]:
		case ok(p.next):
			return p.next, true
		default:
			p.holes.Insert(p.next)
		}
	}
	return 0, false
}

// Take marks n as taken. It reports false if it is taken already or not of the
// pool; a reserved number can be taken, by whoever held it before it became
// so.
func (p *pool) Take(n uint64) bool {
	if n >= p.size || p.taken[n] {
		return false
	}
	p.taken[n] = true
	p.holes.Delete(n)
	return true
}

// Free gives n back; one that is not taken stays as it is.
func (p *pool) Free(n uint64) {
	if !p.taken[n] {
		return
	}
	delete(p.taken, n)
	if n < p.next && !p.reserved[n] {
		p.holes.Insert(n)
	}
}

// saturated is the size of a pool of 2^bits numbers, cut at what uint64 holds.
func saturated(bits int) uint64 {
	if bits >= 64 {
		return math.MaxUint64
	}
	return 1 << bits
}
