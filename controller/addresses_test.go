package controller

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// addressRest is the model: who has an address, or since when it rests.
type addressRest struct {
	holder string
	since  time.Time // zero: it is held, or was never given out
}

// wish is what an operator wanted, or a node by its request, and was told: that an
// endpoint got an address, or that it is gone and its address rests.
type wish struct {
	endpoint string
	node     string // who asks by a request; "": an operator
	addr     netip.Addr
	gone     bool
	begun    time.Time
	at       time.Time // when he was told
}

// restModel: an address is one endpoint's; after that it rests, and only then is it
// another's.
var restModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := map[netip.Addr]int{}
		for _, o := range all {
			a := o.Input.(wish).addr
			if _, known := at[a]; !known {
				at[a] = len(parts)
				parts = append(parts, nil)
			}
			parts[at[a]] = append(parts[at[a]], o)
		}
		return parts
	},
	Init: func() any { return addressRest{} },
	Step: func(state, input, _ any) (bool, any) {
		is, w := state.(addressRest), input.(wish)
		if w.gone {
			return is == addressRest{holder: w.endpoint}, addressRest{w.endpoint, w.begun}
		}
		rested := !is.since.IsZero() && w.at.Sub(is.since) >= allocator.QuarantineTime
		return is.holder == "" || rested || is.holder == w.endpoint && !is.since.IsZero(), addressRest{holder: w.endpoint}
	},
	Equal: func(a, b any) bool {
		x, y := a.(addressRest), b.(addressRest)
		return x.holder == y.holder && x.since.Equal(y.since)
	},
	DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
}

// deciding is a leader whose transactions are performed one by one: another may lead
// meanwhile, which the store's guards alone keep apart, or it ends between two.
type deciding struct {
	state   *state
	effects []effect
}

// addressRun is one seed's.
type addressRun struct {
	*rig
	rand    *rand.Rand
	store   *store.Store
	now     time.Time
	clock   int64
	leaders []*deciding
	open    map[string]*porcupine.Operation // by endpoint: what its operator waits for
	has     map[string]netip.Addr           // by endpoint, as operators know
	ops     []porcupine.Operation
}

func newAddressRun(t *testing.T, seed uint64, wrap func(mvcc.KV) mvcc.KV) *addressRun {
	r := &addressRun{rig: newRig(t), rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1800000000, 0), open: map[string]*porcupine.Operation{}, has: map[string]netip.Addr{}}
	r.store = store.New(wrap(r.mem), cluster.Identity{Role: cluster.Controller})
	s := spec("all", "10.100.0.0/16")
	s.Network.IPv4 = netip.MustParsePrefix("10.0.0.0/29")
	r.vpc("blue", s)
	for i, n := range requesters {
		r.join(n, fmt.Sprintf("192.0.2.%d", 1+i))
	}
	r.leaders = []*deciding{{state: newState()}, {state: newState()}}
	for range 40 { // the VPC is up on both
		r.lead(r.leaders[0])
	}
	return r
}

// requesters are the nodes that ask for endpoints of their own.
var requesters = []string{"h1", "h2"}

func (r *addressRun) tick() int64 { r.clock++; return r.clock }

// ask has an operator, or a node, create an endpoint, or delete the one that is there.
func (r *addressRun) ask() {
	name := fmt.Sprint("web", r.rand.IntN(8))
	if r.open[name] != nil {
		return
	}
	w := wish{endpoint: name, begun: r.now}
	if r.rand.IntN(2) == 0 {
		w.node = requesters[r.rand.IntN(len(requesters))]
	}
	w.addr, w.gone = r.has[name], r.has[name].IsValid()
	r.open[name] = &porcupine.Operation{Input: w, Call: r.tick()}
	switch {
	case w.node != "" && w.gone:
		r.request(w.node, name, cluster.WantDelete, false)
	case w.node != "":
		r.request(w.node, name, cluster.WantAttach, true)
	case w.gone:
		r.put(cluster.KeyEndpointSpec("blue", name), &cluster.EndpointSpec{State: cluster.EndpointDeleting, Auto: true})
	default:
		r.put(cluster.KeyEndpointSpec("blue", name), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true})
	}
}

// look tells operators, and nodes, what they wait for. A request that is gone when the
// endpoint is not as it asked was refused.
func (r *addressRun) look() {
	v := viewOf(r.t, r.mem)
	for i := range 8 {
		name := fmt.Sprint("web", i)
		o := r.open[name]
		if o == nil {
			continue
		}
		w := o.Input.(wish)
		own, there := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn("blue", name))
		switch {
		case w.gone && !there:
			delete(r.has, name)
		case !w.gone && there && len(own.Value.IPs) == 1:
			w.addr = own.Value.IPs[0]
			r.has[name] = w.addr
		case w.node != "" && !v.Has(cluster.KeyRequest(w.node, "blue", name)) && r.refused(v, w):
			delete(r.open, name)
			continue
		default:
			continue
		}
		w.at = r.now
		o.Input, o.Return = w, r.tick()
		r.ops = append(r.ops, *o)
		delete(r.open, name)
	}
}

// refused reports whether what a node asked for, by a request that is gone, is not under
// way.
func (r *addressRun) refused(v *store.View, w wish) bool {
	spec, there := store.At[*cluster.EndpointSpec](v, cluster.KeyEndpointSpec("blue", w.endpoint))
	if w.gone {
		return there && spec.Value.State == cluster.EndpointActive
	}
	return !there
}

// lead has one leader go on by a transaction, or look anew when it has none left.
func (r *addressRun) lead(l *deciding) {
	if len(l.effects) == 0 {
		l.effects, _ = l.state.step(viewOf(r.t, r.mem), r.now)
		for _, q := range l.state.questions {
			l.state.confirm.answer(q, nil, r.now)
		}
		l.state.questions = nil
		return
	}
	e := l.effects[0]
	l.effects = l.effects[1:]
	rev, err := r.store.Commit(r.t.Context(), e.change)
	e.settle(rev, err)
	if err != nil { // as a leader does: what was built on it is not tried
		for _, other := range l.effects {
			other.settle(0, store.ErrConflict)
		}
		l.effects = nil
	}
}

func (r *addressRun) run() {
	for range 120 {
		l := r.leaders[r.rand.IntN(2)]
		switch n := r.rand.IntN(12); {
		case n < 3:
			r.ask()
		case n == 3:
			*l = deciding{state: newState()}
		case n == 4:
			r.now = r.now.Add(allocator.QuarantineTime / 3)
		case n < 7:
			r.look()
		default:
			r.lead(l)
		}
	}
}

// TestAddressHistories: what operators, and nodes that attach, are told of endpoints' addresses, while two
// leaders decide at once and end between any two transactions, is what one after the
// other could have been told; no address is another's before it has rested, and none
// leaks.
func TestAddressHistories(t *testing.T) {
	told, nodes := 0, 0
	for seed := range uint64(40) {
		r := newAddressRun(t, seed, func(kv mvcc.KV) mvcc.KV { return kv })
		r.run()
		told += len(r.ops)
		for _, o := range r.ops {
			if o.Input.(wish).node != "" {
				nodes++
			}
		}
		if got := porcupine.CheckOperationsTimeout(restModel, r.ops, 30*time.Second); got != porcupine.Ok {
			t.Fatalf("seed %d: %s: %+v", seed, got, r.ops)
		}
		r.collected()
	}
	if t.Logf("told %d times, nodes %d times of these", told, nodes); told < 200 || nodes < 50 {
		t.Error("that proves little")
	}
}

// collected takes back what nodes ask for, deletes all endpoints, and wants nothing to be left of them once a leader
// has had time.
func (r *addressRun) collected() {
	r.t.Helper()
	for i := range 8 {
		for _, n := range requesters {
			r.delete(cluster.KeyRequest(n, "blue", fmt.Sprint("web", i)))
		}
		if key := cluster.KeyEndpointSpec("blue", fmt.Sprint("web", i)); viewOf(r.t, r.mem).Has(key) {
			r.put(key, &cluster.EndpointSpec{State: cluster.EndpointDeleting, Auto: true})
		}
	}
	l := &deciding{state: newState()}
	for range 6 {
		for r.lead(l); len(l.effects) > 0; r.lead(l) {
		}
		r.now = r.now.Add(allocator.QuarantineTime)
	}
	if left := r.dump(cluster.PrefixAllocIP("blue"), cluster.PrefixAllocMAC("blue"), cluster.PrefixEndpoints("blue")); left != "" {
		r.t.Fatalf("left: %s", left)
	}
}

// careless commits whatever a transaction asks for.
type careless struct{ mvcc.KV }

func (c careless) Txn(ctx context.Context, r mvcc.TxnRequest) (mvcc.TxnResponse, error) {
	r.If = nil
	return c.KV.Txn(ctx, r)
}

// TestAddressHistoriesNeedGuards: without the guards of transactions the check finds
// what goes wrong.
func TestAddressHistoriesNeedGuards(t *testing.T) {
	found := 0
	for seed := range uint64(40) {
		r := newAddressRun(t, seed, func(kv mvcc.KV) mvcc.KV { return careless{kv} })
		r.run()
		if porcupine.CheckOperationsTimeout(restModel, r.ops, 30*time.Second) == porcupine.Illegal {
			found++
		}
	}
	t.Logf("found in %d of 40 histories", found)
	if found == 0 {
		t.Error("found in none")
	}
}
