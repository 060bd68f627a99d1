package mvcc

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func keys() *rapid.Generator[string] { return rapid.StringMatching(`[abc](/[ab]?)?`) }

// spans are ranges of all forms.
func spans() *rapid.Generator[RangeRequest] {
	return rapid.Custom(func(t *rapid.T) RangeRequest {
		r := RangeRequest{Key: keys().Draw(t, "key")}
		switch rapid.IntRange(0, 3).Draw(t, "form") {
		case 1:
			r.End = keys().Draw(t, "end")
		case 2:
			r.End = PrefixEnd(r.Key)
		case 3:
			r.End = "\x00"
		}
		return r
	})
}

func txns(leases []LeaseID) *rapid.Generator[TxnRequest] {
	return rapid.Custom(func(t *rapid.T) TxnRequest {
		var txn TxnRequest
		for range rapid.IntRange(0, 4).Draw(t, "operations") {
			if rapid.Bool().Draw(t, "put") {
				txn.Then = append(txn.Then, Op{Kind: OpPut, Key: keys().Draw(t, "key"),
					Value: []byte(rapid.SampledFrom([]string{"x", "y"}).Draw(t, "value")),
					Lease: rapid.SampledFrom(leases).Draw(t, "lease")})
			} else {
				s := spans().Draw(t, "span")
				txn.Then = append(txn.Then, Op{Kind: OpDelete, Key: s.Key, End: s.End})
			}
		}
		return txn
	})
}

// view is the whole store at one revision.
func view(t *rapid.T, s *State, revision int64) map[string]KeyValue {
	all := Prefix("")
	all.Revision = revision
	r, err := s.Range(all)
	if err != nil {
		t.Fatalf("range at %d: %v", revision, err)
	}
	m := make(map[string]KeyValue)
	for _, kv := range r.Keys {
		m[kv.Key] = kv
	}
	return m
}

// TestHistory: a revision reads the same for ever until it is compacted, the
// events of later ones lead from it to the present, and a clone never changes.
func TestHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		then := map[int64]map[string]KeyValue{1: {}} // every revision as it was when made
		leases := []LeaseID{0}
		var clone *State
		var cloned map[string]KeyValue
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			before := s.Revision()
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				id := LeaseID(len(leases))
				if err := s.Grant(id, 0); err != nil {
					t.Fatal(err)
				}
				leases = append(leases, id)
			case 1:
				_ = s.Revoke(rapid.SampledFrom(leases).Draw(t, "revoked")) // may be gone
			case 2:
				_ = s.Compact(rapid.Int64Range(0, before).Draw(t, "compacted")) // may be done
			case 3:
				clone, cloned = s.Clone(), view(t, s, 0)
			default:
				_, _ = s.Txn(txns(leases).Draw(t, "transaction")) // a refused one changes nothing
			}
			if now := s.Revision(); now != before {
				if now != before+1 {
					t.Fatalf("one command went from revision %d to %d", before, now)
				}
				then[now] = view(t, s, 0)
			}
			if d := cmp.Diff(view(t, s, 0), then[s.Revision()]); d != "" {
				t.Fatalf("changed without a revision:\n%s", d)
			}
		}
		for r := max(1, s.Compacted()); r <= s.Revision(); r++ {
			if d := cmp.Diff(view(t, s, r), then[r]); d != "" {
				t.Fatalf("revision %d reads otherwise now:\n%s", r, d)
			}
			events, err := s.Events(r+1, "\x00", "\x00")
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(replay(then[r], events), then[s.Revision()]); d != "" {
				t.Fatalf("events from %d lead elsewhere:\n%s", r+1, d)
			}
		}
		for id := range s.Leases() {
			for _, k := range s.LeaseKeys(id) {
				if kv := then[s.Revision()][k]; kv.Lease != id {
					t.Fatalf("lease %d holds %s, which says %d", id, k, kv.Lease)
				}
			}
		}
		for k, kv := range then[s.Revision()] {
			if kv.Lease != 0 && !slices.Contains(s.LeaseKeys(kv.Lease), k) {
				t.Fatalf("%s says lease %d, which does not hold it", k, kv.Lease)
			}
		}
		if clone != nil {
			if d := cmp.Diff(view(t, clone, 0), cloned); d != "" {
				t.Fatalf("the clone changed:\n%s", d)
			}
			for r := max(1, clone.Compacted()); r <= clone.Revision(); r++ {
				if d := cmp.Diff(view(t, clone, r), then[r]); d != "" {
					t.Fatalf("revision %d of the clone changed:\n%s", r, d)
				}
			}
		}
	})
}

func replay(from map[string]KeyValue, events []Event) map[string]KeyValue {
	m := maps.Clone(from)
	for _, e := range events {
		if e.Deleted {
			delete(m, e.KV.Key)
		} else {
			m[e.KV.Key] = e.KV
		}
	}
	return m
}

// TestRangeMatchesScan: every form of range picks what Within says.
func TestRangeMatchesScan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewState()
		for range rapid.IntRange(1, 8).Draw(t, "transactions") {
			_, _ = s.Txn(txns([]LeaseID{0}).Draw(t, "transaction"))
		}
		r := spans().Draw(t, "span")
		r.Revision = rapid.Int64Range(0, s.Revision()).Draw(t, "revision")
		r.Limit = rapid.Int64Range(0, 3).Draw(t, "limit")
		var want []KeyValue
		all := view(t, s, r.Revision)
		for _, k := range slices.Sorted(maps.Keys(all)) {
			if Within(r.Key, r.End, k) {
				want = append(want, all[k])
			}
		}
		got, err := s.Range(r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Count != int64(len(want)) {
			t.Fatalf("count %d of %d", got.Count, len(want))
		}
		if more := r.Limit > 0 && got.Count > r.Limit; got.More != more {
			t.Fatalf("more is %v", got.More)
		} else if more {
			want = want[:r.Limit]
		}
		if d := cmp.Diff(got.Keys, want); d != "" {
			t.Fatal(d)
		}
	})
}

// TestWatchLosesNothing: whatever the pace of a consumer, it gets each event
// of its range once, in order, a revision never in two answers.
func TestWatchLosesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		paces := rapid.SliceOfN(rapid.Bool(), 20, 20).Draw(rt, "reads")
		span := spans().Filter(func(r RangeRequest) bool { return r.End == "" || r.End == "\x00" || r.Key < r.End }).Draw(rt, "span")
		from := rapid.Int64Range(0, 12).Draw(rt, "from")
		steps := make([]TxnRequest, len(paces))
		for i := range steps {
			steps[i] = txns([]LeaseID{0}).Draw(rt, "transaction")
		}
		problem := "" // rapid must not end the bubble's goroutine
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(Config{})
			m.mustPut(t, "a", "1")
			m.mustPut(t, "b", "1")
			ctx, cancel := context.WithCancel(t.Context())
			watch := m.Watch(ctx, WatchRequest{Key: span.Key, End: span.End, From: from})
			var got []Event
			take := func() bool {
				synctest.Wait()
				select {
				case r := <-watch:
					if n := len(got); n > 0 && r.Events[0].KV.ModRevision <= got[n-1].KV.ModRevision {
						problem = fmt.Sprintf("revision %d came after %d", r.Events[0].KV.ModRevision, got[n-1].KV.ModRevision)
					}
					got = append(got, r.Events...)
					return true
				default:
					return false
				}
			}
			for i, txn := range steps {
				_, _ = m.Txn(ctx, txn)
				if paces[i] {
					take()
				}
			}
			for take() {
			}
			cancel()
			if from == 0 {
				from = 4
			}
			want, err := m.Snapshot().Events(from, span.Key, span.End)
			if d := cmp.Diff(got, want); d != "" || err != nil {
				problem += fmt.Sprintf("\n%v\n%s", err, d)
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

func FuzzPrefixEnd(f *testing.F) {
	f.Add("a/", "a/b")
	f.Add("\xff", "\xff\xff")
	f.Add("a\xff", "b")
	f.Fuzz(func(t *testing.T, prefix, key string) {
		r := Prefix(prefix)
		if key != "" && Within(r.Key, r.End, key) != strings.HasPrefix(key, prefix) {
			t.Errorf("prefix %q is %q to %q; %q falls on the wrong side", prefix, r.Key, r.End, key)
		}
	})
}
