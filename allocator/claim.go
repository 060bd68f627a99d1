package allocator

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Claim is a value on its way to a holder. It must be settled.
type Claim struct {
	a      *Allocator
	e      *entry
	holder string
	item   store.Item[*cluster.Allocation] // as it was when claimed
	over   bool
}

func (a *Allocator) claim(e *entry) *Claim {
	e.pending++
	return &Claim{a: a, e: e, holder: e.holder, item: e.item}
}

// Key is the reverse key of the value.
func (c *Claim) Key() string { return c.e.key }

// VNI is the value of a claim of a VNI, else 0.
func (c *Claim) VNI() cluster.VNI {
	v, _ := vniOf(c.e.key)
	return v
}

// MAC is the value of a claim of a MAC, else the zero MAC.
func (c *Claim) MAC() cluster.MAC {
	m, err := cluster.ParseMAC(c.e.key[strings.LastIndexByte(c.e.key, '/')+1:])
	if err != nil {
		return cluster.MAC{}
	}
	return m
}

// Addr is the value of a claim of an address, else the zero Addr.
func (c *Claim) Addr() netip.Addr {
	addr, _ := addrOf(c.e.key)
	return addr
}

// New reports whether the value's reverse key has to be written: it does not
// exist as far as is known, or is marked as released.
func (c *Claim) New() bool { return c.item.Mod == 0 || c.item.Value.Released }

// AddTo adds to ch the reverse key, or the guard that it still is the
// holder's.
func (c *Claim) AddTo(ch *store.Change) {
	switch {
	case !c.New():
		ch.Require(c.e.key, c.item.Mod)
	case c.item.Mod == 0:
		store.Create(ch, c.e.key, &cluster.Allocation{Holder: c.holder})
	default:
		r := *c.item.Value
		r.Released = false
		store.Put(ch, c.item, &r)
	}
}

// Settle tells the outcome of the commit: the revision that it made, or why it
// failed. Only the first call counts. A claim that is not used after all is
// settled with store.ErrConflict.
func (c *Claim) Settle(revision int64, err error) {
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	if !c.end() {
		return
	}
	switch {
	case err == nil:
		if c.e.at != unsettled {
			c.e.at = max(c.e.at, revision)
		}
	case !NotApplied(err):
		c.e.at = unsettled
	}
	c.a.dropIfFree(c.e)
}

// Learn reads the value's reverse key, linearizable, and reports whether the
// claim's holder has it. It settles the claim, unless it returns an error.
func (c *Claim) Learn(ctx context.Context, s *store.Store) (mine bool, err error) {
	it, err := store.Get[*cluster.Allocation](ctx, s, c.e.key)
	absent := errors.Is(err, store.ErrNotFound)
	if err != nil && !absent {
		return false, err
	}
	c.a.mu.Lock()
	defer c.a.mu.Unlock()
	c.end()
	switch {
	case !absent:
		c.a.learn(it)
	case c.a.entries[c.e.key] == c.e:
		c.a.gone(c.e)
	}
	return !absent && it.Value.Holder == c.holder, nil
}

func (c *Claim) end() (first bool) {
	if c.over {
		return false
	}
	c.over = true
	c.e.pending--
	return true
}

// Release adds to ch the word that an allocated value is not needed any more.
// It is free when its reverse key is deleted, see Quarantine.
func Release(ch *store.Change, it store.Item[*cluster.Allocation]) {
	r := *it.Value
	r.Released = true
	store.Put(ch, it, &r)
}
