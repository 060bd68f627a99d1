package enginetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Differential applies n random operations to an empty store and to a
// mvcc.Memory, and compares all that they answer. The same seed gives the same
// operations; a failure names it.
func Differential(t *testing.T, seed uint64, n int, s Store) {
	d := &differential{
		T:      t,
		rand:   rand.New(rand.NewPCG(seed, 0)),
		model:  mvcc.NewMemory(mvcc.Config{}),
		tested: s,
		leases: []lease{{}},
	}
	defer func() {
		if t.Failed() {
			t.Logf("seed %d, after %d operations", seed, d.done)
		}
	}()
	for d.done = range n {
		d.step()
		if d.done%64 == 63 {
			d.settle()
		}
		if t.Failed() {
			return // what follows would differ too
		}
	}
	d.settle()
	for _, w := range d.watches {
		w.close(t)
	}
}

type differential struct {
	*testing.T
	rand    *rand.Rand
	done    int
	model   *mvcc.Memory
	tested  Store
	leases  []lease // those ever granted, revoked ones too; the first is none
	watches []watchPair
}

// lease is one lease under the IDs that the two stores gave it.
type lease struct{ model, tested mvcc.LeaseID }

type watchPair struct {
	model, tested *stream
	next          int64 // the first revision whose events were not compared
}

func (w watchPair) close(t *testing.T) {
	t.Helper()
	w.model.close(t)
	w.tested.close(t)
}

// settled is how many watches stay open at most.
const settled = 12

func (d *differential) step() {
	switch p := d.rand.IntN(100); {
	case p < 60:
		d.txn()
	case p < 85:
		d.read()
	case p < 89:
		d.grant()
	case p < 91:
		d.revoke()
	case p < 93:
		d.keepAlive()
	case p < 96:
		d.compact()
	default:
		d.watch()
	}
}

func (d *differential) txn() {
	model := mvcc.TxnRequest{Then: d.ops(), Else: d.ops()}
	for range d.rand.IntN(4) / 2 * d.rand.IntN(3) {
		model.If = append(model.If, d.compare())
	}
	if d.rand.IntN(200) == 0 {
		model.Else = slices.Repeat([]mvcc.Op{mvcc.Get("a")}, mvcc.MaxTxnOps+d.rand.IntN(2))
	}
	tested := mvcc.TxnRequest{If: slices.Clone(model.If), Then: d.theirs(model.Then), Else: d.theirs(model.Else)}
	for i, c := range tested.If {
		if c.Target == mvcc.TargetLease {
			tested.If[i].Number = int64(d.toTested(mvcc.LeaseID(c.Number)))
		}
	}
	want, wantErr := d.model.Txn(d.Context(), model)
	got, err := d.tested.Txn(d.Context(), tested)
	d.compareAnswers(model, got, err, want, wantErr)
}

func (d *differential) read() {
	r := mvcc.RangeRequest{Limit: d.few(), KeysOnly: d.rand.IntN(4) == 0, CountOnly: d.rand.IntN(8) == 0}
	r.Key, r.End = d.span()
	if d.rand.IntN(2) == 0 {
		r.Revision = d.revision()
	}
	want, wantErr := d.model.Range(d.Context(), r)
	got, err := d.tested.Range(d.Context(), r)
	d.compareAnswers(r, got, err, want, wantErr)
}

func (d *differential) grant() {
	ttl := time.Duration(1000+d.rand.IntN(5000)) * time.Second // none ends by itself
	var l lease
	var err error
	var want, got time.Duration
	if l.model, want, err = d.model.Grant(d.Context(), ttl); err != nil {
		d.Fatal(err)
	}
	if l.tested, got, err = d.tested.Grant(d.Context(), ttl); err != nil || got != want {
		d.Errorf("grant %v: %v, %v; want %v", ttl, got, err, want)
	}
	d.leases = append(d.leases, l)
}

func (d *differential) revoke() {
	l := d.lease()
	want := d.model.Revoke(d.Context(), l.model)
	got := d.tested.Revoke(d.Context(), l.tested)
	d.compareAnswers(fmt.Sprintf("revoke %+v", l), nil, got, nil, want)
}

func (d *differential) keepAlive() {
	l := d.lease()
	want, wantErr := d.model.KeepAlive(d.Context(), l.model)
	got, err := d.tested.KeepAlive(d.Context(), l.tested)
	d.compareAnswers(fmt.Sprintf("keep alive %+v", l), got, err, want, wantErr)
}

func (d *differential) compact() {
	revision := d.revision()
	if d.rand.IntN(4) > 0 { // else history would seldom be long
		revision = d.model.Snapshot().Compacted() + d.rand.Int64N(3)
	}
	d.settle()
	// A watch that lags may or may not be hurt, and one without an answer may
	// still be on its way to the server.
	d.watches = slices.DeleteFunc(d.watches, func(w watchPair) bool {
		lags := w.tested.last == 0 && w.tested.request.From > 0 && w.tested.request.From < revision
		if lags {
			w.close(d.T)
		}
		return lags
	})
	want := d.model.Compact(revision)
	got := d.tested.Compact(revision)
	d.compareAnswers(fmt.Sprintf("compact %d", revision), nil, got, nil, want)
}

func (d *differential) watch() {
	if len(d.watches) == settled {
		i := d.rand.IntN(settled)
		d.settle()
		d.watches[i].close(d.T)
		d.watches = slices.Delete(d.watches, i, i+1)
	}
	var r mvcc.WatchRequest
	for r.Key == "" || len(r.End) > 0 && r.End != "\x00" && r.End <= r.Key { // etcd refuses an empty range
		r.Key, r.End = d.span()
	}
	if d.rand.IntN(4) > 0 {
		r.From = max(0, d.revision())
	}
	w := watchPair{openWatch(d.T, d.model, r), openWatch(d.T, d.tested, r), r.From}
	if r.From == 0 {
		w.next = d.model.Revision() + 1
	} else if compacted := d.model.Snapshot().Compacted(); r.From < compacted {
		w.model.wantCompacted(d.T, compacted)
		w.tested.wantCompacted(d.T, compacted)
		return
	}
	d.watches = append(d.watches, w)
}

// settle reads and compares all that the watches have to tell by now.
func (d *differential) settle() {
	now := d.model.Snapshot()
	for i := range d.watches {
		w := &d.watches[i]
		events, err := now.Events(w.next, w.model.request.Key, w.model.request.End)
		if err != nil {
			d.Fatalf("watch %+v from %d: %v", w.model.request, w.next, err)
		}
		w.next = max(w.next, now.Revision()+1)
		w.model.want(d.T, events)
		w.tested.want(d.T, events, d.sameLeases())
	}
}

func (d *differential) compareAnswers(request, got any, err error, want any, wantErr error) {
	d.Helper()
	for _, sentinel := range []error{mvcc.ErrCompacted, mvcc.ErrFutureRevision, mvcc.ErrLeaseNotFound,
		mvcc.ErrDuplicateKey, mvcc.ErrTooManyOps, mvcc.ErrEmptyKey} {
		if errors.Is(err, sentinel) && errors.Is(wantErr, sentinel) {
			return
		}
	}
	if err != nil || wantErr != nil {
		d.Errorf("%+v: %v, want %v", request, err, wantErr)
		return
	}
	if diff := cmp.Diff(got, want, cmpopts.IgnoreFields(mvcc.Header{}, "ClusterID"), d.sameLeases()); diff != "" {
		d.Errorf("%+v (-got +want):\n%s", request, diff)
	}
}

// sameLeases compares what the store says (first) to what the model says.
func (d *differential) sameLeases() cmp.Option {
	known := func(a, b mvcc.LeaseID) bool { return slices.Contains(d.leases, lease{model: b, tested: a}) }
	return cmp.Comparer(func(a, b mvcc.LeaseID) bool { return known(a, b) || known(b, a) })
}

func (d *differential) toTested(model mvcc.LeaseID) mvcc.LeaseID {
	for _, l := range d.leases {
		if l.model == model {
			return l.tested
		}
	}
	return model
}

func (d *differential) theirs(ops []mvcc.Op) []mvcc.Op {
	ops = slices.Clone(ops)
	for i := range ops {
		ops[i].Lease = d.toTested(ops[i].Lease)
	}
	return ops
}

func (d *differential) lease() lease {
	return d.leases[d.rand.IntN(len(d.leases))]
}

// key is one of some forty, with bytes at both ends of the order among them.
func (d *differential) key() string {
	if d.rand.IntN(300) == 0 {
		return ""
	}
	k := string("abc"[d.rand.IntN(3)])
	for range d.rand.IntN(3) {
		k += string([]byte{"a/\xff\x00"[d.rand.IntN(4)]})
	}
	return k
}

func (d *differential) span() (key, end string) {
	key = d.key()
	switch d.rand.IntN(6) {
	case 0:
		return key, mvcc.PrefixEnd(key)
	case 1:
		return key, d.key()
	case 2:
		return key, "\x00"
	}
	return key, ""
}

// revision is mostly one that can be read.
func (d *differential) revision() int64 {
	now := d.model.Snapshot()
	low := max(0, now.Compacted()-3)
	return low + d.rand.Int64N(now.Revision()+4-low)
}

// few is a limit, mostly none.
func (d *differential) few() int64 { return max(0, d.rand.Int64N(10)-5) }

func (d *differential) value() []byte {
	return []byte{"xyz"[d.rand.IntN(3)], "0123456789"[d.rand.IntN(10)]}[:d.rand.IntN(3)]
}

func (d *differential) ops() []mvcc.Op {
	var ops []mvcc.Op
	for range d.rand.IntN(4) {
		op := mvcc.Op{Kind: mvcc.OpKind(d.rand.IntN(3))}
		op.Key, op.End = d.span()
		switch op.Kind {
		case mvcc.OpPut:
			op.End = ""
			op.Value = d.value()
			if d.rand.IntN(3) == 0 {
				op.Lease = d.lease().model
			}
		case mvcc.OpRange:
			op.Limit, op.KeysOnly = d.few(), d.rand.IntN(4) == 0
		}
		ops = append(ops, op)
	}
	return ops
}

func (d *differential) compare() mvcc.Compare {
	c := mvcc.Compare{
		Key:      d.key(),
		Target:   mvcc.Target(d.rand.IntN(5)),
		Relation: mvcc.Relation(d.rand.IntN(4)),
	}
	switch c.Target {
	case mvcc.TargetValue:
		c.Value = d.value()
	case mvcc.TargetLease:
		c.Number = int64(d.lease().model)
		c.Relation = []mvcc.Relation{mvcc.Equal, mvcc.NotEqual}[d.rand.IntN(2)] // IDs have no common order
	case mvcc.TargetVersion:
		c.Number = d.rand.Int64N(4)
	default:
		c.Number = max(0, d.revision())
	}
	return c
}
