package enginetest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// patience bounds every wait of the suites; a store that is right is far
// quicker.
const patience = 20 * time.Second

// Run tests one store. The store may hold other keys, but nothing else may
// write to it meanwhile.
func Run(t *testing.T, newStore func(t *testing.T) Store) {
	s := newStore(t)
	for _, c := range []struct {
		name string
		test func(t *testing.T, s Store)
	}{
		{"revisions", testRevisions},
		{"ranges", testRanges},
		{"guards", testGuards},
		{"a transaction sees itself", testTxnSeesItself},
		{"refusals", testRefusals},
		{"compaction", testCompaction},
		{"leases", testLeases},
		{"lease expiry", testLeaseExpiry},
		{"watch", testWatch},
		{"watch from the future", testWatchFuture},
		{"watch compacted", testWatchCompacted},
		{"watch of nothing", testWatchNothing},
		{"ended context", testEndedContext},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, s) })
	}
}

func prefix(t *testing.T) string { return "/" + t.Name() + "/" }

func mustTxn(t *testing.T, s Store, ops ...mvcc.Op) mvcc.TxnResponse {
	t.Helper()
	resp, err := s.Txn(t.Context(), mvcc.TxnRequest{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func mustRange(t *testing.T, s Store, r mvcc.RangeRequest) mvcc.RangeResponse {
	t.Helper()
	resp, err := s.Range(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func put(key, value string) mvcc.Op { return mvcc.Put(key, []byte(value)) }

func leased(key string, id mvcc.LeaseID) mvcc.Op {
	return mvcc.Op{Kind: mvcc.OpPut, Key: key, Lease: id}
}

func names(kvs []mvcc.KeyValue) []string {
	var ks []string
	for _, kv := range kvs {
		ks = append(ks, kv.Key)
	}
	return ks
}

func testRevisions(t *testing.T, s Store) {
	p := prefix(t)
	r0 := mustRange(t, s, mvcc.Prefix(p)).Revision
	for _, step := range []struct {
		name  string
		ops   []mvcc.Op
		bumps int64
	}{
		{"nothing", nil, 0},
		{"read", []mvcc.Op{mvcc.Get(p + "a")}, 0},
		{"delete of nothing", []mvcc.Op{mvcc.Delete(p + "a")}, 0},
		{"put", []mvcc.Op{put(p+"a", "1")}, 1},
		{"the same put", []mvcc.Op{put(p+"a", "1")}, 1},
		{"several", []mvcc.Op{put(p+"b", ""), put(p+"c", ""), mvcc.Delete(p + "a")}, 1},
	} {
		before := mustRange(t, s, mvcc.RangeRequest{Key: p}).Revision
		resp := mustTxn(t, s, step.ops...)
		if resp.Revision != before+step.bumps {
			t.Errorf("%s: revision %d after %d, want %d more", step.name, resp.Revision, before, step.bumps)
		}
		if resp.ClusterID == 0 {
			t.Errorf("%s: no cluster ID", step.name)
		}
	}
	mustTxn(t, s, put(p+"b", "2"))
	got := mustRange(t, s, mvcc.RangeRequest{Key: p + "b"}).Keys
	want := []mvcc.KeyValue{{Key: p + "b", Value: []byte("2"), CreateRevision: r0 + 3, ModRevision: r0 + 4, Version: 2}}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
}

func testRanges(t *testing.T, s Store) {
	p := prefix(t)
	r := mustTxn(t, s, put(p+"a", "1"), put(p+"b", "1"), put(p+"c", "1")).Revision
	mustTxn(t, s, mvcc.Delete(p+"b"), put(p+"c", "2"), put(p+"d", "1"))
	all := mvcc.Prefix(p)
	with := func(change func(*mvcc.RangeRequest)) mvcc.RangeRequest {
		r := all
		change(&r)
		return r
	}
	for name, tt := range map[string]struct {
		r     mvcc.RangeRequest
		want  []string
		count int64
		more  bool
	}{
		"all":       {all, []string{p + "a", p + "c", p + "d"}, 3, false},
		"half open": {mvcc.RangeRequest{Key: p + "a", End: p + "c"}, []string{p + "a"}, 1, false},
		"crossed":   {mvcc.RangeRequest{Key: p + "c", End: p + "a"}, nil, 0, false},
		"absent":    {mvcc.RangeRequest{Key: p + "b"}, nil, 0, false},
		"before":    {with(func(q *mvcc.RangeRequest) { q.Revision = r }), []string{p + "a", p + "b", p + "c"}, 3, false},
		"limit":     {with(func(q *mvcc.RangeRequest) { q.Limit = 2 }), []string{p + "a", p + "c"}, 3, true},
		"limit all": {with(func(q *mvcc.RangeRequest) { q.Limit = 3 }), []string{p + "a", p + "c", p + "d"}, 3, false},
		"count":     {with(func(q *mvcc.RangeRequest) { q.CountOnly = true }), nil, 3, false},
	} {
		got := mustRange(t, s, tt.r)
		if !slices.Equal(names(got.Keys), tt.want) || got.Count != tt.count || got.More != tt.more {
			t.Errorf("%s: %q count %d more %v; want %q, %d, %v", name, names(got.Keys), got.Count, got.More, tt.want, tt.count, tt.more)
		}
	}
	for _, kv := range mustRange(t, s, with(func(q *mvcc.RangeRequest) { q.KeysOnly = true })).Keys {
		if kv.Value != nil || kv.ModRevision == 0 {
			t.Errorf("keys only gave %+v", kv)
		}
	}
	everything := mustRange(t, s, mvcc.Prefix(""))
	if !slices.Contains(names(everything.Keys), p+"a") {
		t.Errorf("the empty prefix lacks %s: %q", p+"a", names(everything.Keys))
	}
}

func testGuards(t *testing.T, s Store) {
	p := prefix(t)
	create := func() mvcc.TxnResponse {
		resp, err := s.Txn(t.Context(), mvcc.TxnRequest{
			If: []mvcc.Compare{mvcc.Absent(p + "a")}, Then: []mvcc.Op{put(p+"a", "1")}, Else: []mvcc.Op{mvcc.Get(p + "a")}})
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first, second := create(), create()
	if !first.Succeeded || second.Succeeded || second.Revision != first.Revision {
		t.Fatalf("created twice: %+v, %+v", first, second)
	}
	if got := second.Responses[0].Keys; len(got) != 1 || got[0].ModRevision != first.Revision {
		t.Errorf("the loser learned %+v", got)
	}
	for _, tt := range []struct {
		guard mvcc.Compare
		want  bool
	}{
		{mvcc.Unchanged(p+"a", first.Revision), true},
		{mvcc.Unchanged(p+"a", first.Revision-1), false},
		{mvcc.Compare{Key: p + "a", Target: mvcc.TargetValue, Value: []byte("1")}, true},
		{mvcc.Compare{Key: p + "n", Target: mvcc.TargetValue, Relation: mvcc.NotEqual, Value: []byte("1")}, false},
		{mvcc.Compare{Key: p + "a", Target: mvcc.TargetVersion, Relation: mvcc.Less, Number: 2}, true},
		{mvcc.Compare{Key: p + "a", Target: mvcc.TargetLease, Relation: mvcc.Greater}, false},
	} {
		resp, err := s.Txn(t.Context(), mvcc.TxnRequest{If: []mvcc.Compare{tt.guard}})
		if err != nil || resp.Succeeded != tt.want {
			t.Errorf("%+v: %v, %v", tt.guard, resp.Succeeded, err)
		}
	}
}

func testTxnSeesItself(t *testing.T, s Store) {
	p := prefix(t)
	mustTxn(t, s, put(p+"a", "1"), put(p+"b", "1"))
	resp := mustTxn(t, s, put(p+"a", "2"), mvcc.Get(p+"a"), mvcc.Delete(p+"b"), mvcc.Get(p+"b"), mvcc.Delete(p+"b"))
	if got := resp.Responses[1].Keys; len(got) != 1 || string(got[0].Value) != "2" || got[0].ModRevision != resp.Revision {
		t.Errorf("read after put: %+v", got)
	}
	if resp.Responses[2].Deleted != 1 || resp.Responses[3].Count != 0 || resp.Responses[4].Deleted != 0 {
		t.Errorf("delete, read, delete: %+v", resp.Responses[2:])
	}
}

func testRefusals(t *testing.T, s Store) {
	p := prefix(t)
	ops := func(n int) (ops []mvcc.Op) {
		for range n {
			ops = append(ops, mvcc.Get(p))
		}
		return ops
	}
	before := mustRange(t, s, mvcc.RangeRequest{Key: p}).Revision
	for name, tt := range map[string]struct {
		txn  mvcc.TxnRequest
		want error
	}{
		"as many as may be": {mvcc.TxnRequest{Then: ops(mvcc.MaxTxnOps), Else: ops(mvcc.MaxTxnOps)}, nil},
		"one too many":      {mvcc.TxnRequest{Else: ops(mvcc.MaxTxnOps + 1)}, mvcc.ErrTooManyOps},
		"no key":            {mvcc.TxnRequest{Then: []mvcc.Op{put("", "")}}, mvcc.ErrEmptyKey},
		"no key in guard":   {mvcc.TxnRequest{If: []mvcc.Compare{{}}}, mvcc.ErrEmptyKey},
		"put twice":         {mvcc.TxnRequest{Then: []mvcc.Op{put(p, ""), put(p, "")}}, mvcc.ErrDuplicateKey},
		"put and delete":    {mvcc.TxnRequest{Then: []mvcc.Op{put(p, ""), mvcc.Delete(p)}}, mvcc.ErrDuplicateKey},
		"no such lease":     {mvcc.TxnRequest{Then: []mvcc.Op{put(p, ""), leased(p+"a", 1<<62)}}, mvcc.ErrLeaseNotFound},
	} {
		if _, err := s.Txn(t.Context(), tt.txn); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := s.Range(t.Context(), mvcc.RangeRequest{}); !errors.Is(err, mvcc.ErrEmptyKey) {
		t.Errorf("range without key: %v", err)
	}
	if _, err := s.Range(t.Context(), mvcc.RangeRequest{Key: p, Revision: before + 1}); !errors.Is(err, mvcc.ErrFutureRevision) {
		t.Errorf("range in the future: %v", err)
	}
	if after := mustRange(t, s, mvcc.RangeRequest{Key: p}); after.Revision != before || after.Count != 0 {
		t.Errorf("refused operations made revision %d of %d, %d keys", after.Revision, before, after.Count)
	}
}

func testCompaction(t *testing.T, s Store) {
	p := prefix(t)
	mustTxn(t, s, put(p+"a", "1"))
	r := mustTxn(t, s, put(p+"a", "2")).Revision
	mustTxn(t, s, mvcc.Delete(p+"a"))
	if err := s.Compact(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Compact(r); !errors.Is(err, mvcc.ErrCompacted) {
		t.Errorf("compact again: %v", err)
	}
	if err := s.Compact(r + 2); !errors.Is(err, mvcc.ErrFutureRevision) {
		t.Errorf("compact the future: %v", err)
	}
	if _, err := s.Range(t.Context(), mvcc.RangeRequest{Key: p + "a", Revision: r - 1}); !errors.Is(err, mvcc.ErrCompacted) {
		t.Errorf("range below: %v", err)
	}
	if got := mustRange(t, s, mvcc.RangeRequest{Key: p + "a", Revision: r}).Keys; len(got) != 1 || string(got[0].Value) != "2" {
		t.Errorf("range at the compacted revision: %+v", got)
	}
}

func mustGrant(t *testing.T, s Store, ttl time.Duration) mvcc.LeaseID {
	t.Helper()
	id, got, err := s.Grant(t.Context(), ttl)
	if err != nil || got < ttl || id == 0 {
		t.Fatalf("grant %v: lease %d for %v, %v", ttl, id, got, err)
	}
	return id
}

func testLeases(t *testing.T, s Store) {
	p := prefix(t)
	id, other := mustGrant(t, s, time.Hour), mustGrant(t, s, time.Hour)
	mustTxn(t, s, leased(p+"a", id), leased(p+"b", id), leased(p+"c", id), leased(p+"d", id))
	mustTxn(t, s, put(p+"c", ""), leased(p+"d", other))
	if ttl, err := s.KeepAlive(t.Context(), id); err != nil || ttl != time.Hour {
		t.Errorf("keep alive: %v, %v", ttl, err)
	}
	before := mustRange(t, s, mvcc.RangeRequest{Key: p}).Revision
	if err := s.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	got := mustRange(t, s, mvcc.Prefix(p))
	if want := []string{p + "c", p + "d"}; !slices.Equal(names(got.Keys), want) || got.Revision != before+1 {
		t.Errorf("after revoke %q at %d; want %q at %d", names(got.Keys), got.Revision, want, before+1)
	}
	if err := s.Revoke(t.Context(), id); !errors.Is(err, mvcc.ErrLeaseNotFound) {
		t.Errorf("revoke twice: %v", err)
	}
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, mvcc.ErrLeaseNotFound) {
		t.Errorf("keep alive when gone: %v", err)
	}
	if err := s.Revoke(t.Context(), other); err != nil {
		t.Error(err)
	}
}

func testLeaseExpiry(t *testing.T, s Store) {
	p := prefix(t)
	id, ttl, err := s.Grant(t.Context(), time.Millisecond)
	if err != nil || ttl < time.Second {
		t.Fatal(ttl, err)
	}
	r := mustTxn(t, s, leased(p+"b", id), leased(p+"a", id)).Revision
	w := openWatch(t, s, mvcc.WatchRequest{Key: p, End: mvcc.PrefixEnd(p), From: r + 1})
	want := []mvcc.Event{
		{Deleted: true, KV: mvcc.KeyValue{Key: p + "a", ModRevision: r + 1}},
		{Deleted: true, KV: mvcc.KeyValue{Key: p + "b", ModRevision: r + 1}},
	}
	w.want(t, want)
	if _, err := s.KeepAlive(t.Context(), id); !errors.Is(err, mvcc.ErrLeaseNotFound) {
		t.Errorf("keep alive when over: %v", err)
	}
}

func testWatch(t *testing.T, s Store) {
	p := prefix(t)
	r := mustTxn(t, s, put(p+"a", "1"), put(p[:len(p)-1], "not below")).Revision
	past := openWatch(t, s, mvcc.WatchRequest{Key: p, End: mvcc.PrefixEnd(p), From: r})
	now := openWatch(t, s, mvcc.WatchRequest{Key: p + "b"})
	mustTxn(t, s, put(p+"b", "2"), mvcc.Delete(p+"a"), put(p+"c", "3"))
	mustTxn(t, s, put(p+"b", "4"))
	b1 := mvcc.Event{KV: mvcc.KeyValue{Key: p + "b", Value: []byte("2"), CreateRevision: r + 1, ModRevision: r + 1, Version: 1}}
	b2 := mvcc.Event{KV: mvcc.KeyValue{Key: p + "b", Value: []byte("4"), CreateRevision: r + 1, ModRevision: r + 2, Version: 2}}
	past.want(t, []mvcc.Event{
		{KV: mvcc.KeyValue{Key: p + "a", Value: []byte("1"), CreateRevision: r, ModRevision: r, Version: 1}},
		b1,
		{Deleted: true, KV: mvcc.KeyValue{Key: p + "a", ModRevision: r + 1}},
		{KV: mvcc.KeyValue{Key: p + "c", Value: []byte("3"), CreateRevision: r + 1, ModRevision: r + 1, Version: 1}},
		b2,
	})
	now.want(t, []mvcc.Event{b1, b2})
	past.close(t)
	now.close(t)
}

func testWatchFuture(t *testing.T, s Store) {
	p := prefix(t)
	r := mustTxn(t, s, put(p+"a", "1")).Revision
	w := openWatch(t, s, mvcc.WatchRequest{Key: p + "a", From: r + 3})
	for range 3 {
		mustTxn(t, s, put(p+"a", "2"))
	}
	w.want(t, []mvcc.Event{{KV: mvcc.KeyValue{Key: p + "a", Value: []byte("2"), CreateRevision: r, ModRevision: r + 3, Version: 4}}})
	w.close(t)
}

func testWatchCompacted(t *testing.T, s Store) {
	p := prefix(t)
	mustTxn(t, s, put(p+"a", "1"))
	r := mustTxn(t, s, put(p+"a", "2")).Revision
	if err := s.Compact(r); err != nil {
		t.Fatal(err)
	}
	openWatch(t, s, mvcc.WatchRequest{Key: p + "a", From: r - 1}).wantCompacted(t, r)
	w := openWatch(t, s, mvcc.WatchRequest{Key: p + "a", From: r})
	w.want(t, []mvcc.Event{{KV: mvcc.KeyValue{Key: p + "a", Value: []byte("2"), CreateRevision: r - 1, ModRevision: r, Version: 2}}})
	w.close(t)
}

func testWatchNothing(t *testing.T, s Store) {
	p := prefix(t)
	w := openWatch(t, s, mvcc.WatchRequest{Key: p + "b", End: p + "a", From: 1})
	if resp, _ := w.next(t); resp.Err == nil || errors.Is(resp.Err, mvcc.ErrCompacted) {
		t.Errorf("a crossed range was watched: %+v", resp)
	}
	if resp, ok := w.next(t); ok {
		t.Errorf("the watch went on: %+v", resp)
	}
	w.cancel()
}

func testEndedContext(t *testing.T, s Store) {
	p := prefix(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Txn(ctx, mvcc.TxnRequest{Then: []mvcc.Op{put(p, "")}}); !errors.Is(err, context.Canceled) {
		t.Errorf("txn: %v", err)
	}
	if _, err := s.Range(ctx, mvcc.RangeRequest{Key: p}); !errors.Is(err, context.Canceled) {
		t.Errorf("range: %v", err)
	}
	if got := mustRange(t, s, mvcc.RangeRequest{Key: p}); got.Count != 0 {
		t.Error("the transaction of an ended context was applied")
	}
	for range s.Watch(ctx, mvcc.WatchRequest{Key: p}) {
		t.Error("a watch of an ended context answered")
	}
}
