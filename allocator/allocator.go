package allocator

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Allocator knows who holds which VNI, VTEP address, endpoint address and MAC. It is kept current by
// Refresh, or runs on what it claims itself.
type Allocator struct {
	mu      sync.Mutex
	books   map[string]*book  // by the prefix of their reverse keys, and the family of IPs
	entries map[string]*entry // all that is not free, by reverse key
	refresh uint64            // counts Refresh
}

// New returns an Allocator that knows of nothing taken.
func New() *Allocator {
	return &Allocator{books: map[string]*book{}, entries: map[string]*entry{}}
}

// Refresh takes in what v, a view of cluster.Root or of cluster.PrefixAlloc,
// shows of reverse keys at revision. What was written later than that stays as
// it is known. A reverse key that cannot be decoded counts as taken.
func (a *Allocator) Refresh(v *store.View, revision int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refresh++
	found := 0
	for it := range store.Below[*cluster.Allocation](v, cluster.PrefixAlloc) {
		e := a.entries[it.Key]
		if e == nil || e.item.Mod != it.Mod {
			e = a.learn(it)
		}
		e.seen = a.refresh
		found++
	}
	for _, p := range v.Problems() {
		if !strings.HasPrefix(p.Key, cluster.PrefixAlloc) {
			continue
		}
		if e := a.entries[p.Key]; e == nil || e.seen != a.refresh {
			e = a.learnBad(p.Key)
			e.seen = a.refresh
			found++
		}
	}
	if found == len(a.entries) {
		return
	}
	for _, e := range a.entries {
		if e.seen != a.refresh && e.at <= revision {
			a.gone(e)
		}
	}
}

// learn takes in a reverse key as read, unless something newer is known.
func (a *Allocator) learn(it store.Item[*cluster.Allocation]) *entry {
	e := a.entries[it.Key]
	if e == nil {
		e = a.add(it.Key, it.Value.Holder)
	}
	if it.Mod < e.item.Mod {
		return e
	}
	if e.holder != it.Value.Holder {
		e.book.disown(e)
		e.book.own(e, it.Value.Holder)
	}
	e.item, e.bad, e.at = it, false, it.Mod
	return e
}

// learnBad takes in that a reverse key exists and says nothing.
func (a *Allocator) learnBad(key string) *entry {
	e := a.entries[key]
	if e == nil {
		e = a.add(key, "")
	}
	if e.holder != "" {
		e.book.disown(e)
		e.book.own(e, "")
	}
	e.item, e.bad, e.at = store.Item[*cluster.Allocation]{}, true, 0
	return e
}

// gone takes in that a reverse key does not exist.
func (a *Allocator) gone(e *entry) {
	e.item, e.bad, e.at = store.Item[*cluster.Allocation]{}, false, 0
	a.dropIfFree(e)
}

func (a *Allocator) add(key, holder string) *entry {
	b := a.bookOf(key)
	e := &entry{key: key, book: b}
	a.entries[key] = e
	b.own(e, holder)
	b.take(key)
	return e
}

func (a *Allocator) dropIfFree(e *entry) {
	if e.isFree() && a.entries[e.key] == e {
		delete(a.entries, e.key)
		e.book.disown(e)
		e.book.free(e.key)
	}
}

// Barrier says that whatever was committed so far, its outcome known or not,
// is visible at revision.
func (a *Allocator) Barrier(revision int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range a.entries {
		if e.at == unsettled {
			e.at = revision
		}
	}
}

// ClaimVNI claims the VNI that holder, a VPC or a pair, has, else the lowest
// free one of r that avoid (which may be nil) does not object to. It returns
// ErrExhausted.
func (a *Allocator) ClaimVNI(r cluster.VNIRange, holder string, avoid func(cluster.VNI) bool) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.vnis(r)
	key := func(i uint64) string { return cluster.KeyAllocVNI(r.First + cluster.VNI(i)) }
	return a.claimLowest(b, holder, key, func(i uint64) bool { return avoid != nil && avoid(r.First+cluster.VNI(i)) })
}

// VNIsLeft counts the VNIs of r that nobody holds, claims or released lately.
func (a *Allocator) VNIsLeft(r cluster.VNIRange) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.vnis(r).pool
	return p.Capacity() - uint64(p.Taken())
}

// vnis is the book of VNIs, with r as what they are given out from.
func (a *Allocator) vnis(r cluster.VNIRange) *book {
	b := a.bookOf(cluster.PrefixVNIs)
	if b.pool == nil || b.vnis != r {
		b.vnis = r
		b.setPool(newPool(uint64(r.Last-r.First)+1), func(key string) (uint64, bool) {
			v, ok := vniOf(key)
			return uint64(v) - uint64(r.First), ok && r.Contains(v)
		})
	}
	return b
}

// ClaimAnotherVNI is ClaimVNI for a holder that has one and cannot use it.
func (a *Allocator) ClaimAnotherVNI(r cluster.VNIRange, holder string, avoid func(cluster.VNI) bool) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := a.vnis(r)
	i, ok := b.pool.Lowest(func(i uint64) bool { return avoid != nil && avoid(r.First+cluster.VNI(i)) })
	if !ok {
		return nil, ErrExhausted
	}
	return a.claim(a.add(cluster.KeyAllocVNI(r.First+cluster.VNI(i)), holder)), nil
}

// ClaimVNIValue claims v for holder, whatever range it is of. It returns a
// *TakenError if another has it.
func (a *Allocator) ClaimVNIValue(holder string, v cluster.VNI) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimValue(cluster.KeyAllocVNI(v), holder, "VNI "+strconv.FormatUint(uint64(v), 10))
}

// ClaimVTEP claims the VTEP address that node holds in vpc, else the lowest
// free one of n that avoid (which may be nil) does not object to. It returns
// ErrExhausted.
func (a *Allocator) ClaimVTEP(vpc string, n Network, node string, avoid func(netip.Addr) bool) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimAddr(func(addr netip.Addr) string { return cluster.KeyAllocVTEP(vpc, addr) }, n, node, avoid)
}

// claimAddr claims what holder has of n, else the lowest that is free.
func (a *Allocator) claimAddr(key func(netip.Addr) string, n Network, holder string, avoid func(netip.Addr) bool) (*Claim, error) {
	b := a.bookOf(key(n.Prefix.Addr()))
	if b.pool == nil || !b.network.equal(n) {
		b.network = n
		b.setPool(n.pool(), func(key string) (uint64, bool) {
			addr, ok := addrOf(key)
			if !ok {
				return 0, false
			}
			return n.index(addr)
		})
	}
	return a.claimLowest(b, holder, func(i uint64) string { return key(n.addr(i)) }, func(i uint64) bool { return avoid != nil && avoid(n.addr(i)) })
}

// ClaimVTEPValue claims addr of vpc for node, whether or not it is of the
// network. It returns a *TakenError if another has it.
func (a *Allocator) ClaimVTEPValue(vpc, node string, addr netip.Addr) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimValue(cluster.KeyAllocVTEP(vpc, addr), node, addr.String())
}

// ClaimIP claims the address of n that endpoint holds in vpc, else the lowest free
// one. It returns ErrExhausted.
func (a *Allocator) ClaimIP(vpc string, n Network, endpoint string) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimAddr(func(addr netip.Addr) string { return cluster.KeyAllocIP(vpc, addr) }, n, endpoint, nil)
}

// ClaimIPValue claims addr of vpc for endpoint. It returns a *TakenError if another
// has it.
func (a *Allocator) ClaimIPValue(vpc, endpoint string, addr netip.Addr) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimValue(cluster.KeyAllocIP(vpc, addr), endpoint, addr.String())
}

// ClaimMAC claims the MAC that endpoint holds in vpc, else the first of MACsOf that
// nobody has.
func (a *Allocator) ClaimMAC(vpc, endpoint string) *Claim {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e := a.bookOf(cluster.PrefixAllocMAC(vpc)).held(endpoint); e != nil {
		return a.claim(e)
	}
	for m := range MACsOf(vpc, endpoint) {
		if c, err := a.claimValue(cluster.KeyAllocMAC(vpc, m), endpoint, m.String()); err == nil {
			return c
		}
	}
	return nil // there is no end of them
}

// ClaimMACValue claims m of vpc for endpoint. It returns a *TakenError if another
// has it.
func (a *Allocator) ClaimMACValue(vpc, endpoint string, m cluster.MAC) (*Claim, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.claimValue(cluster.KeyAllocMAC(vpc, m), endpoint, m.String())
}

func (a *Allocator) claimLowest(b *book, holder string, key func(uint64) string, avoid func(uint64) bool) (*Claim, error) {
	if e := b.held(holder); e != nil {
		return a.claim(e), nil
	}
	i, ok := b.pool.Lowest(avoid)
	if !ok {
		return nil, ErrExhausted
	}
	return a.claim(a.add(key(i), holder)), nil
}

func (a *Allocator) claimValue(key, holder, what string) (*Claim, error) {
	e := a.entries[key]
	switch {
	case e == nil:
		e = a.add(key, holder)
	case e.bad || e.holder != holder:
		return nil, &TakenError{Value: what, Holder: e.holder, Released: e.released()}
	}
	return a.claim(e), nil
}

func (a *Allocator) bookOf(key string) *book {
	prefix := key[:strings.LastIndexByte(key, '/')+1]
	if strings.HasPrefix(key, cluster.PrefixIPs) && strings.Contains(key[len(prefix):], ":") {
		prefix += "6" // an endpoint has one of each family
	}
	b := a.books[prefix]
	if b == nil {
		b = &book{holders: map[string][]*entry{}}
		a.books[prefix] = b
	}
	return b
}

func vniOf(key string) (cluster.VNI, bool) {
	n, err := strconv.ParseUint(strings.TrimPrefix(key, cluster.PrefixVNIs), 10, 24)
	return cluster.VNI(n), err == nil
}

func addrOf(key string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(key[strings.LastIndexByte(key, '/')+1:])
	return a, err == nil
}

// NotApplied reports whether an error of store.Commit says for certain that
// nothing was written.
func NotApplied(err error) bool {
	for _, known := range []error{
		store.ErrConflict, store.ErrFenced, store.ErrTooLarge, mvcc.ErrDuplicateKey, mvcc.ErrLeaseNotFound,
		cluster.ErrInvalid, cluster.ErrNewer, cluster.ErrUnknownKey,
	} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}
