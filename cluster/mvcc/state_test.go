package mvcc

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func mustTxn(t *testing.T, s *State, ops ...Op) TxnResponse {
	t.Helper()
	resp, err := s.Txn(TxnRequest{Then: ops})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func mustGrant(t *testing.T, s *State, id LeaseID) {
	t.Helper()
	if err := s.Grant(id, time.Second); err != nil {
		t.Fatal(err)
	}
}

func put(key, value string) Op { return Put(key, []byte(value)) }

func leased(key string, id LeaseID) Op { return Op{Kind: OpPut, Key: key, Lease: id} }

// text is a range as "key=value@create/mod/version" words.
func text(kvs []KeyValue) string {
	var b strings.Builder
	for _, kv := range kvs {
		b.WriteString(describe(kv) + " ")
	}
	return strings.TrimSpace(b.String())
}

func TestRevisions(t *testing.T) {
	s := NewState()
	mustGrant(t, s, 7)
	for _, step := range []struct {
		name string
		ops  []Op
		want int64
		all  string
	}{
		{"empty", nil, 1, ""},
		{"read", []Op{Get("a")}, 1, ""},
		{"delete of nothing", []Op{Delete("a")}, 1, ""},
		{"first put", []Op{put("a", "1")}, 2, "a=1@2/2/1"},
		{"same put again", []Op{put("a", "1")}, 3, "a=1@2/3/2"},
		{"two puts, one revision", []Op{put("c", "3"), put("b", "2")}, 4, "a=1@2/3/2 b=2@4/4/1 c=3@4/4/1"},
		{"delete", []Op{Delete("a")}, 5, "b=2@4/4/1 c=3@4/4/1"},
		{"put after delete starts afresh", []Op{put("a", "")}, 6, "a=@6/6/1 b=2@4/4/1 c=3@4/4/1"},
		{"put with lease", []Op{leased("b", 7)}, 7, "a=@6/6/1 b=@4/7/2~7 c=3@4/4/1"},
		{"put without lease detaches", []Op{put("b", "x")}, 8, "a=@6/6/1 b=x@4/8/3 c=3@4/4/1"},
		{"delete range", []Op{{Kind: OpDelete, Key: "a", End: "c"}}, 9, "c=3@4/4/1"},
		{"delete then put in one, no end", []Op{{Kind: OpDelete, Key: "a", End: "\x00"}, put("c", "4")}, 10, "c=4@10/10/1"},
		{"put then delete in one, no end", []Op{put("d", "4"), {Kind: OpDelete, Key: "a", End: "\x00"}}, 11, ""},
	} {
		resp := mustTxn(t, s, step.ops...)
		if resp.Revision != step.want || s.Revision() != step.want {
			t.Errorf("%s: revision %d, store %d; want %d", step.name, resp.Revision, s.Revision(), step.want)
		}
		all, err := s.Range(Prefix(""))
		if err != nil || text(all.Keys) != step.all {
			t.Errorf("%s: %q, %v; want %q", step.name, text(all.Keys), err, step.all)
		}
	}
}

func TestTxnSeesItself(t *testing.T) {
	s := NewState()
	mustTxn(t, s, put("a", "1"), put("b", "1"))
	got := mustTxn(t, s,
		put("a", "2"), Get("a"),
		Op{Kind: OpDelete, Key: "b", End: "d"},
		Op{Kind: OpRange, Key: "a", End: "z", KeysOnly: true},
		Op{Kind: OpDelete, Key: "b"},
		put("x", "9"), Op{Kind: OpRange, Key: "a", End: "z", Limit: 1})
	want := TxnResponse{Header: Header{Revision: 3}, Succeeded: true, Responses: []OpResponse{
		{},
		{Keys: []KeyValue{{Key: "a", Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}}, Count: 1},
		{Deleted: 1},
		{Keys: []KeyValue{{Key: "a", CreateRevision: 2, ModRevision: 3, Version: 2}}, Count: 1},
		{},
		{},
		{Keys: []KeyValue{{Key: "a", Value: []byte("2"), CreateRevision: 2, ModRevision: 3, Version: 2}}, Count: 2, More: true},
	}}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
}

func TestCompare(t *testing.T) {
	s := NewState()
	mustGrant(t, s, 7)
	mustTxn(t, s, put("a", "1"))                                           // 2
	mustTxn(t, s, Op{Kind: OpPut, Key: "a", Value: []byte("m"), Lease: 7}) // 3
	for name, tt := range map[string]struct {
		c    Compare
		want bool
	}{
		"absent of absent":      {Absent("n"), true},
		"absent of present":     {Absent("a"), false},
		"unchanged":             {Unchanged("a", 3), true},
		"changed":               {Unchanged("a", 2), false},
		"version":               {Compare{Key: "a", Target: TargetVersion, Number: 2}, true},
		"version greater":       {Compare{Key: "a", Target: TargetVersion, Relation: Greater, Number: 2}, false},
		"create less":           {Compare{Key: "a", Target: TargetCreate, Relation: Less, Number: 3}, true},
		"mod not equal":         {Compare{Key: "a", Target: TargetMod, Relation: NotEqual, Number: 3}, false},
		"lease":                 {Compare{Key: "a", Target: TargetLease, Number: 7}, true},
		"no lease on absent":    {Compare{Key: "n", Target: TargetLease}, true},
		"value":                 {Compare{Key: "a", Target: TargetValue, Value: []byte("m")}, true},
		"value greater":         {Compare{Key: "a", Target: TargetValue, Relation: Greater, Value: []byte("l")}, true},
		"value of absent":       {Compare{Key: "n", Target: TargetValue}, false},
		"value of absent, not":  {Compare{Key: "n", Target: TargetValue, Relation: NotEqual, Value: []byte("m")}, false},
		"mod of absent is zero": {Compare{Key: "n", Target: TargetMod, Relation: Less, Number: 1}, true},
	} {
		t.Run(name, func(t *testing.T) {
			resp, err := s.Txn(TxnRequest{If: []Compare{Absent("n"), tt.c}, Then: []Op{Get("a")}, Else: []Op{Get("n"), Get("n")}})
			if err != nil || resp.Succeeded != tt.want {
				t.Fatalf("%v, %v; want %v", resp.Succeeded, err, tt.want)
			}
			if n := len(resp.Responses); n != map[bool]int{true: 1, false: 2}[tt.want] {
				t.Errorf("%d responses", n)
			}
		})
	}
}

func TestTxnErrors(t *testing.T) {
	many := func(n int) (ops []Op) {
		for range n {
			ops = append(ops, Get("a"))
		}
		return ops
	}
	for name, tt := range map[string]struct {
		txn TxnRequest
		err error
	}{
		"128 in each list":        {TxnRequest{If: make128(), Then: many(128), Else: many(128)}, nil},
		"129 in Then":             {TxnRequest{Then: many(129)}, ErrTooManyOps},
		"129 in Else":             {TxnRequest{Else: many(129)}, ErrTooManyOps},
		"129 in If":               {TxnRequest{If: append(make128(), Absent("a"))}, ErrTooManyOps},
		"empty key in If":         {TxnRequest{If: []Compare{{}}}, ErrEmptyKey},
		"empty key in Then":       {TxnRequest{Then: []Op{put("", "")}}, ErrEmptyKey},
		"empty key in Else":       {TxnRequest{Else: []Op{Get("")}}, ErrEmptyKey},
		"put twice":               {TxnRequest{Then: []Op{put("a", ""), put("a", "")}}, ErrDuplicateKey},
		"put twice in Else":       {TxnRequest{Else: []Op{put("a", ""), put("a", "")}}, ErrDuplicateKey},
		"put and delete":          {TxnRequest{Then: []Op{put("a", ""), Delete("a")}}, ErrDuplicateKey},
		"put and delete range":    {TxnRequest{Then: []Op{{Kind: OpDelete, Key: "a", End: "c"}, put("b", "")}}, ErrDuplicateKey},
		"put at the range's end":  {TxnRequest{Then: []Op{{Kind: OpDelete, Key: "a", End: "c"}, put("c", "")}}, nil},
		"delete twice":            {TxnRequest{Then: []Op{Delete("a"), Delete("a")}}, nil},
		"put in both lists":       {TxnRequest{Then: []Op{put("a", "")}, Else: []Op{put("a", "")}}, nil},
		"lease gone":              {TxnRequest{Then: []Op{put("b", ""), leased("a", 9)}}, ErrLeaseNotFound},
		"lease gone in idle list": {TxnRequest{Else: []Op{leased("a", 9)}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewState()
			if _, err := s.Txn(tt.txn); !errors.Is(err, tt.err) {
				t.Errorf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil && s.Revision() != 1 {
				t.Errorf("a refused transaction made revision %d", s.Revision())
			}
		})
	}
}

func make128() (cs []Compare) {
	for range 128 {
		cs = append(cs, Absent("a"))
	}
	return cs
}

func TestRange(t *testing.T) {
	s := NewState()
	mustTxn(t, s, put("a", "1"), put("b", "1"), put("b/1", "1"), put("c", "1")) // 2
	mustTxn(t, s, put("b", "2"))                                                // 3
	mustTxn(t, s, Delete("a"), put("d", "1"))                                   // 4
	for name, tt := range map[string]struct {
		r     RangeRequest
		want  string
		count int64
		more  bool
		err   error
	}{
		"one":             {r: RangeRequest{Key: "b"}, want: "b=2@2/3/2", count: 1},
		"none":            {r: RangeRequest{Key: "n"}},
		"half open":       {r: RangeRequest{Key: "b", End: "c"}, want: "b=2@2/3/2 b/1=1@2/2/1", count: 2},
		"crossed":         {r: RangeRequest{Key: "c", End: "b"}},
		"no end":          {r: RangeRequest{Key: "b/", End: "\x00"}, want: "b/1=1@2/2/1 c=1@2/2/1 d=1@4/4/1", count: 3},
		"prefix":          {r: Prefix("b/"), want: "b/1=1@2/2/1", count: 1},
		"limit":           {r: RangeRequest{Key: "a", End: "z", Limit: 2}, want: "b=2@2/3/2 b/1=1@2/2/1", count: 4, more: true},
		"limit just":      {r: RangeRequest{Key: "a", End: "z", Limit: 4, KeysOnly: true}, want: "b=@2/3/2 b/1=@2/2/1 c=@2/2/1 d=@4/4/1", count: 4},
		"count":           {r: RangeRequest{Key: "a", End: "z", CountOnly: true}, count: 4},
		"before delete":   {r: RangeRequest{Key: "a", End: "z", Revision: 3}, want: "a=1@2/2/1 b=2@2/3/2 b/1=1@2/2/1 c=1@2/2/1", count: 4},
		"before change":   {r: RangeRequest{Key: "b", Revision: 2}, want: "b=1@2/2/1", count: 1},
		"before anything": {r: RangeRequest{Key: "a", End: "z", Revision: 1}},
		"future":          {r: RangeRequest{Key: "a", Revision: 5}, err: ErrFutureRevision},
		"no key":          {r: RangeRequest{End: "z"}, err: ErrEmptyKey},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := s.Range(tt.r)
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if text(got.Keys) != tt.want || got.Count != tt.count || got.More != tt.more {
				t.Errorf("got %q count %d more %v; want %q, %d, %v", text(got.Keys), got.Count, got.More, tt.want, tt.count, tt.more)
			}
			if err == nil && got.Revision != 4 {
				t.Errorf("header at %d", got.Revision)
			}
		})
	}
}

func TestPrefixEnd(t *testing.T) {
	for in, want := range map[string]string{"": "\x00", "a": "b", "a/": "a0", "a\xff": "b", "\xff\xff": "\x00"} {
		if got := PrefixEnd(in); got != want {
			t.Errorf("PrefixEnd(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCompact(t *testing.T) {
	s := NewState()
	mustTxn(t, s, put("a", "1"))               // 2
	mustTxn(t, s, put("a", "2"), put("b", "")) // 3
	mustTxn(t, s, Delete("b"), put("c", ""))   // 4
	mustTxn(t, s, put("a", "3"))               // 5
	if err := s.Compact(6); !errors.Is(err, ErrFutureRevision) {
		t.Errorf("future: %v", err)
	}
	if err := s.Compact(4); err != nil {
		t.Fatal(err)
	}
	for _, rev := range []int64{4, 3, 1} {
		if err := s.Compact(rev); !errors.Is(err, ErrCompacted) {
			t.Errorf("compact %d again: %v", rev, err)
		}
	}
	if _, err := s.Range(RangeRequest{Key: "a", Revision: 3}); !errors.Is(err, ErrCompacted) {
		t.Errorf("range below: %v", err)
	}
	r, err := s.Range(RangeRequest{Key: "a", End: "z", Revision: 4})
	if want := "a=2@2/3/2 c=@4/4/1"; err != nil || text(r.Keys) != want {
		t.Errorf("range at 4: %q, %v; want %q", text(r.Keys), err, want)
	}
	if _, err := s.Events(3, "a", "z"); !errors.Is(err, ErrCompacted) {
		t.Errorf("events below: %v", err)
	}
	got, err := s.Events(4, "a", "z")
	if err != nil {
		t.Fatal(err)
	}
	want := []Event{
		{Deleted: true, KV: KeyValue{Key: "b", ModRevision: 4}},
		{KV: KeyValue{Key: "c", CreateRevision: 4, ModRevision: 4, Version: 1}},
		{KV: KeyValue{Key: "a", Value: []byte("3"), CreateRevision: 2, ModRevision: 5, Version: 3}},
	}
	if d := cmp.Diff(got, want); d != "" {
		t.Error(d)
	}
	if n := s.versions.Len(); n != 3 { // a at 3 and 5, c at 4
		t.Errorf("%d versions kept, want 3", n)
	}
}

func TestLeases(t *testing.T) {
	s := NewState()
	mustGrant(t, s, 1)
	mustGrant(t, s, 2)
	if err := s.Grant(1, 0); !errors.Is(err, ErrLeaseExists) {
		t.Errorf("grant twice: %v", err)
	}
	mustTxn(t, s, leased("b", 1), leased("a", 1), leased("c", 1), leased("d", 1)) // 2
	mustTxn(t, s, leased("c", 2), Delete("d"))                                    // 3
	if d := cmp.Diff(s.LeaseKeys(1), []string{"a", "b"}); d != "" {
		t.Error(d)
	}
	if err := s.Revoke(1); err != nil || s.Revision() != 4 {
		t.Fatalf("revoke: %v, revision %d", err, s.Revision())
	}
	got, err := s.Events(4, "a", "z")
	want := []Event{
		{Deleted: true, KV: KeyValue{Key: "a", ModRevision: 4}},
		{Deleted: true, KV: KeyValue{Key: "b", ModRevision: 4}},
	}
	if d := cmp.Diff(got, want); d != "" || err != nil {
		t.Error(d, err)
	}
	if err := s.Revoke(1); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("revoke twice: %v", err)
	}
	mustGrant(t, s, 3)
	if err := s.Revoke(3); err != nil || s.Revision() != 4 {
		t.Errorf("revoke without keys: %v, revision %d", err, s.Revision())
	}
	if d := cmp.Diff(s.Leases(), map[LeaseID]time.Duration{2: time.Second}); d != "" {
		t.Error(d)
	}
}

func TestPutCopiesItsValue(t *testing.T) {
	s := NewState()
	v := []byte("1")
	mustTxn(t, s, Put("a", v))
	v[0] = '2'
	if r, err := s.Range(RangeRequest{Key: "a"}); err != nil || text(r.Keys) != "a=1@2/2/1" {
		t.Error(text(r.Keys), err)
	}
}

func TestLessor(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	var l Lessor
	if _, ok := l.Next(); ok {
		t.Error("an empty lessor has a deadline")
	}
	l.Grant(1, 10*time.Second, at(0))
	l.Grant(2, 5*time.Second, at(0))
	l.Grant(3, 5*time.Second, at(0))
	if ttl, err := l.Renew(2, at(4)); err != nil || ttl != 5*time.Second { // to 9
		t.Error(ttl, err)
	}
	if next, ok := l.Next(); !ok || !next.Equal(at(5)) {
		t.Error(next, ok)
	}
	if _, err := l.Renew(3, at(5)); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("renewed when over: %v", err)
	}
	if d := cmp.Diff(l.Expired(at(10)), []LeaseID{3, 2, 1}); d != "" {
		t.Error(d)
	}
	l.Remove(3)
	if d := cmp.Diff(l.Expired(at(9)), []LeaseID{2}); d != "" {
		t.Error(d)
	}
	l.Reset(map[LeaseID]time.Duration{1: 10 * time.Second}, at(20))
	if next, _ := l.Next(); !next.Equal(at(30)) {
		t.Errorf("after reset ends at %v", next)
	}
	if _, err := l.Renew(2, at(20)); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("a lease outlived the reset: %v", err)
	}
}
