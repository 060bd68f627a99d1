package allocator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// done is what somebody did, or tried to do, to one address.
type done struct {
	kind    string // claim, release, free, read
	addr    netip.Addr
	holder  string
	unknown bool // it ended before the outcome was known
	// seen is what a read found.
	seen holding
}

// holding is the model: who has an address, and whether it was given back.
type holding struct {
	holder   string
	released bool
}

// addressModel holds what was done to the rules: an address is one holder's at a time, a
// released one goes back to its holder or, when it was freed, to anybody.
var addressModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[netip.Addr]int{}
		for _, o := range all {
			a := o.Input.(done).addr
			if _, known := at[a]; !known {
				at[a] = len(parts)
				parts = append(parts, nil)
			}
			parts[at[a]] = append(parts[at[a]], o)
		}
		return parts
	},
	Init: func() any { return holding{} },
	Step: func(state, input, _ any) (bool, any) {
		is, d := state.(holding), input.(done)
		may, next := true, is
		switch d.kind {
		case "claim":
			may, next = is.holder == "" || is.holder == d.holder, holding{d.holder, false}
		case "release":
			may, next = is == holding{d.holder, false}, holding{d.holder, true}
		case "free":
			may, next = is.released, holding{}
		case "read":
			return is == d.seen, is
		}
		if !may && d.unknown { // it was not done
			return true, is
		}
		return may, next
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// historyNet has six addresses.
var historyNet = Network{Prefix: netip.MustParsePrefix("10.0.0.0/29")}

// actor is one of several allocators over one store, each with its own idea of it. What
// is under way goes on step by step; a crash ends it, and the actor begins anew.
type actor struct {
	alloc *Allocator
	steps []func() // what is left of the operation under way
}

// run is one seed's.
type historyRun struct {
	t      *testing.T
	rand   *rand.Rand
	store  *store.Store
	actors []*actor
	clock  int64
	ops    []porcupine.Operation
}

func (r *historyRun) tick() int64 { r.clock++; return r.clock }

// begins notes an operation of actor i that has no outcome yet; the function gives it
// one: false, it changed nothing.
func (r *historyRun) begins(i int, d done) (ends func(applied bool)) {
	d.unknown = true
	at := len(r.ops)
	r.ops = append(r.ops, porcupine.Operation{ClientId: i, Input: d, Call: r.tick(), Return: math.MaxInt64})
	return func(applied bool) {
		d.unknown = false
		if !applied {
			d.kind = "nothing"
		}
		r.ops[at].Input, r.ops[at].Return = d, r.tick()
	}
}

// start has an actor begin something.
func (r *historyRun) start(i int) {
	a, holder := r.actors[i], fmt.Sprint("web", r.rand.IntN(4))
	if r.rand.IntN(3) == 0 {
		refresh(r.t, a.alloc, r.store)
	}
	switch r.rand.IntN(5) {
	case 0, 1:
		c, err := a.alloc.ClaimIP("blue", historyNet, holder)
		if err != nil {
			return // it believes that all are taken
		}
		ends := r.begins(i, done{kind: "claim", addr: c.Addr(), holder: holder})
		var revision int64
		a.steps = []func(){
			func() {
				var ch store.Change
				c.AddTo(&ch)
				revision, err = r.store.Commit(r.t.Context(), ch)
			},
			func() { c.Settle(revision, err); ends(err == nil) },
		}
	case 2, 3:
		kind := []string{"release", "free"}[r.rand.IntN(2)]
		if it, ok := r.any(kind == "free"); ok {
			r.changes(i, kind, it)
		}
	default:
		addr := historyNet.addr(uint64(1 + r.rand.IntN(6)))
		ends := r.begins(i, done{})
		at := len(r.ops) - 1
		a.steps = []func(){func() {
			seen := r.read(addr)
			ends(true)
			r.ops[at].Input = done{kind: "read", addr: addr, seen: seen}
		}}
	}
}

// changes has an actor release or free what it has read.
func (r *historyRun) changes(i int, kind string, it store.Item[*cluster.Allocation]) {
	addr, _ := addrOf(it.Key)
	ends := r.begins(i, done{kind: kind, addr: addr, holder: it.Value.Holder})
	var err error
	r.actors[i].steps = []func(){
		func() {
			var ch store.Change
			if kind == "free" {
				ch.Remove(it.Key, it.Mod)
			} else {
				Release(&ch, it)
			}
			_, err = r.store.Commit(r.t.Context(), ch)
		},
		func() { ends(err == nil) },
	}
}

// any is one of the keys that are released, or not.
func (r *historyRun) any(released bool) (it store.Item[*cluster.Allocation], ok bool) {
	items, _, err := store.List[*cluster.Allocation](r.t.Context(), r.store, cluster.PrefixIPs)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, j := range r.rand.Perm(len(items)) {
		if items[j].Value.Released == released {
			return items[j], true
		}
	}
	return it, false
}

func (r *historyRun) read(addr netip.Addr) holding {
	it, err := store.Get[*cluster.Allocation](r.t.Context(), r.store, cluster.KeyAllocIP("blue", addr))
	switch {
	case errors.Is(err, store.ErrNotFound):
		return holding{}
	case err != nil:
		r.t.Fatal(err)
	}
	return holding{it.Value.Holder, it.Value.Released}
}

// history is what allocators did to one store under a seed.
func history(t *testing.T, seed uint64, kv mvcc.KV) *historyRun {
	r := &historyRun{t: t, rand: rand.New(rand.NewPCG(seed, 0)), store: store.New(kv, cluster.Identity{Role: cluster.Controller})}
	for range 3 {
		r.actors = append(r.actors, &actor{alloc: New()})
	}
	for range 80 {
		i := r.rand.IntN(len(r.actors))
		a := r.actors[i]
		switch {
		case len(a.steps) > 0 && r.rand.IntN(8) == 0: // it crashes between two steps
			a.alloc, a.steps = New(), nil
			refresh(t, a.alloc, r.store)
		case len(a.steps) > 0:
			step := a.steps[0]
			a.steps = a.steps[1:]
			step()
		default:
			r.start(i)
		}
	}
	return r
}

// kept drops what certainly changed nothing.
func (r *historyRun) kept() (ops []porcupine.Operation) {
	for _, o := range r.ops {
		if d := o.Input.(done); d.kind != "nothing" && d.kind != "" {
			ops = append(ops, o)
		}
	}
	return ops
}

const historySeeds = 150

// TestHistoriesAreLinearizable: several allocators over one store, each behind the
// others, which end between any two steps: what they did to each address is what one
// after the other could have done; and nothing leaks, all can be had in the end.
func TestHistoriesAreLinearizable(t *testing.T) {
	claims := 0
	for seed := range uint64(historySeeds) {
		r := history(t, seed, mvcc.NewMemory(mvcc.Config{}))
		ops := r.kept()
		claims += len(ops)
		if got := porcupine.CheckOperationsTimeout(addressModel, ops, 30*time.Second); got != porcupine.Ok {
			t.Fatalf("seed %d: %s: %+v", seed, got, ops)
		}
		r.collect()
	}
	if claims < 10*historySeeds {
		t.Errorf("%d operations in all: that proves little", claims)
	}
}

// collect gives all back and frees it, as an allocator that begins anew would, and wants
// each address to be had then.
func (r *historyRun) collect() {
	r.t.Helper()
	for _, released := range []bool{false, true} {
		for it, ok := r.any(released); ok; it, ok = r.any(released) {
			var ch store.Change
			if released {
				ch.Remove(it.Key, it.Mod)
			} else {
				Release(&ch, it)
			}
			if _, err := r.store.Commit(r.t.Context(), ch); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	for _, a := range r.actors { // what is under way has ended
		for _, step := range a.steps {
			step()
		}
	}
	for it, ok := r.any(false); ok; it, ok = r.any(false) {
		var ch store.Change
		ch.Remove(it.Key, it.Mod)
		if _, err := r.store.Commit(r.t.Context(), ch); err != nil {
			r.t.Fatal(err)
		}
	}
	for i, a := range r.actors {
		refresh(r.t, a.alloc, r.store)
		for j := range historyNet.Capacity() {
			c, err := a.alloc.ClaimIP("blue", historyNet, fmt.Sprint("new", j))
			if err != nil {
				r.t.Fatalf("allocator %d finds only %d of %d addresses: %v", i, j, historyNet.Capacity(), err)
			}
			defer c.Settle(0, errNever)
		}
	}
}

// unguarded commits whatever a transaction asks for.
type unguarded struct{ mvcc.KV }

func (u unguarded) Txn(ctx context.Context, r mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	r.If = nil
	return u.KV.Txn(ctx, r)
}

// TestHistoriesNeedGuards: without the guards of transactions the check finds what goes
// wrong.
func TestHistoriesNeedGuards(t *testing.T) {
	found := 0
	for seed := range uint64(historySeeds) {
		r := history(t, seed, unguarded{mvcc.NewMemory(mvcc.Config{})})
		if porcupine.CheckOperationsTimeout(addressModel, r.kept(), 30*time.Second) == porcupine.Illegal {
			found++
		}
	}
	t.Logf("found in %d of %d histories", found, historySeeds)
	if found < historySeeds/10 {
		t.Errorf("found in %d of %d histories", found, historySeeds)
	}
}
