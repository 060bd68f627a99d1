package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

func TestPut(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	s := New(db, controller)
	key := cluster.KeyHostVPC("a", "blue")
	var create Change
	Create(&create, key, &cluster.HostVPC{State: cluster.AssignedMember})
	made := mustCommit(t, s, create)
	if _, err := s.Commit(t.Context(), create); !errors.Is(err, ErrConflict) {
		t.Errorf("creating it twice gave %v, want ErrConflict", err)
	}

	// A newer version wrote a field that this one does not know.
	putRaw(t, db, key, `{"state":"member","links":{"p2p":true}}`)
	it := mustGet[*cluster.HostVPC](t, s, key)
	if it.Create != made || it.Mod != made+1 {
		t.Errorf("revisions %d and %d, want %d and %d", it.Create, it.Mod, made, made+1)
	}
	var leave, again Change
	Put(&leave, it, &cluster.HostVPC{State: cluster.AssignedLeaving})
	Put(&again, it, &cluster.HostVPC{State: cluster.AssignedMember})
	mustCommit(t, s, leave)
	if got, want := string(mustGet[*cluster.HostVPC](t, s, key).Raw()), `{"links":{"p2p":true},"state":"leaving"}`; got != want {
		t.Errorf("after a put: %s, want %s", got, want)
	}
	before := db.Revision()
	if _, err := s.Commit(t.Context(), again); !errors.Is(err, ErrConflict) || db.Revision() != before {
		t.Errorf("a put decided from an old record gave %v, want ErrConflict", err)
	}
	var remove Change
	remove.Remove(key, it.Mod)
	if _, err := s.Commit(t.Context(), remove); !errors.Is(err, ErrConflict) {
		t.Errorf("a deletion decided from an old record gave %v, want ErrConflict", err)
	}
	remove = Change{}
	remove.Remove(key, 0)
	mustCommit(t, s, remove)
	if _, err := Get[*cluster.HostVPC](t.Context(), s, key); !errors.Is(err, ErrNotFound) {
		t.Errorf("after a deletion: %v, want ErrNotFound", err)
	}
}

func TestPutKeepsTheLease(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	s := New(db, agentOfA)
	id, _, err := db.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var c Change
	Set(&c, cluster.KeyLive("a"), &cluster.Live{NodeID: "id"}, nil, id)
	mustCommit(t, s, c)
	c = Change{}
	Put(&c, mustGet[*cluster.Live](t, s, cluster.KeyLive("a")), &cluster.Live{NodeID: "id", Counter: 1})
	mustCommit(t, s, c)
	if err := db.Revoke(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := Get[*cluster.Live](t.Context(), s, cluster.KeyLive("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("a record outlived its lease: %v", err)
	}
	c = Change{}
	PutLeased(&c, Item[*cluster.Live]{Key: cluster.KeyLive("a")}, &cluster.Live{NodeID: "id"}, id)
	if _, err := s.Commit(t.Context(), c); !errors.Is(err, mvcc.ErrLeaseNotFound) {
		t.Errorf("a put on a lease that is gone gave %v, want ErrLeaseNotFound", err)
	}
}

func TestCommitRefuses(t *testing.T) {
	assigned := &cluster.HostVPC{State: cluster.AssignedMember}
	key := func(n int) string { return cluster.KeyHostVPC(fmt.Sprintf("n%d", n), "blue") }
	many := func(n int) (c Change) {
		for i := range n {
			Create(&c, key(i), assigned)
		}
		return c
	}
	for name, tt := range map[string]struct {
		s      *Store
		change func() Change
		err    error
	}{
		"another's key": {change: func() (c Change) {
			Create(&c, cluster.KeyVPCPing("blue"), &cluster.PingRequest{ID: "p", Count: 1})
			return c
		}, err: cluster.ErrInvalid},
		"another's key, deleting": {change: func() (c Change) { c.Remove(cluster.KeyConfig, 0); return c }, err: cluster.ErrInvalid},
		"own and another's key":   {change: func() (c Change) { c = many(1); c.Remove(cluster.KeyConfig, 0); return c }, err: cluster.ErrInvalid},
		"no key":                  {change: func() (c Change) { Put(&c, Item[*cluster.HostVPC]{}, assigned); return c }, err: cluster.ErrUnknownKey},
		"unknown key":             {change: func() (c Change) { c.Remove(cluster.Root+"x", 0); return c }, err: cluster.ErrUnknownKey},
		"invalid record":          {change: func() (c Change) { Create(&c, key(1), &cluster.HostVPC{}); return c }, err: cluster.ErrInvalid},
		"invalid record in a part": {change: func() (c Change) {
			var part Change
			Create(&part, key(1), &cluster.HostVPC{})
			c = many(1)
			c.Add(part)
			return c
		}, err: cluster.ErrInvalid},
		"key twice":                            {change: func() (c Change) { c = many(1); c.Remove(key(0), 0); return c }, err: mvcc.ErrDuplicateKey},
		"parts share a key":                    {change: func() (c Change) { c = many(2); c.Add(many(1)); return c }, err: mvcc.ErrDuplicateKey},
		"too many writes":                      {change: func() Change { return many(mvcc.MaxTxnOps + 1) }, err: ErrTooLarge},
		"no room for the fence":                {s: fenced(1), change: func() Change { return many(mvcc.MaxTxnOps) }, err: ErrTooLarge},
		"guard does not hold":                  {change: func() (c Change) { c = many(1); c.Require(cluster.KeyVPCSpec("blue"), 7); return c }, err: ErrConflict},
		"absence does not hold":                {change: func() (c Change) { c = many(1); c.Require(cluster.KeyConfig, 0); return c }, err: ErrConflict},
		"contradiction":                        {change: func() (c Change) { c = many(1); c.Require(key(0), 3); return c }, err: ErrConflict},
		"no leader's key":                      {s: fenced(2), change: func() Change { return many(1) }, err: ErrFenced},
		"no leader's key and nothing to write": {s: fenced(2), change: func() Change { return Change{} }, err: ErrFenced},
	} {
		t.Run(name, func(t *testing.T) {
			db := mvcc.NewMemory(mvcc.Config{})
			putRaw(t, db, cluster.KeyConfig, "{}")
			s := New(db, controller)
			if tt.s != nil {
				tt.s.kv = db
				s = tt.s
			}
			if r, err := s.Commit(t.Context(), tt.change()); !errors.Is(err, tt.err) || r != 0 || db.Revision() != 2 {
				t.Errorf("Commit = %d, %v; want %v; store at revision %d", r, err, tt.err, db.Revision())
			}
		})
	}
}

func fenced(create int64) *Store { return New(nil, controller).WithFence(cluster.KeyLeader, create) }

func TestCommit(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	putRaw(t, db, cluster.KeyLeader, `{"name":"a","since":""}`)
	s := New(db, controller).WithFence(cluster.KeyLeader, 2)

	// As many writes as fit; the same guard in each part counts once.
	var c Change
	for i := range mvcc.MaxTxnOps - 2 {
		var part Change
		part.Require(cluster.KeyConfig, 0)
		Create(&part, cluster.KeyHostVPC(fmt.Sprintf("n%d", i), "blue"), &cluster.HostVPC{State: cluster.AssignedMember})
		c.Add(part)
	}
	if c.Ops() != mvcc.MaxTxnOps-2 || len(c.Keys()) != c.Ops() || strings.Count(c.String(), "put ") != c.Ops() {
		t.Errorf("%d operations, %d keys", c.Ops(), len(c.Keys()))
	}
	if got := mustCommit(t, s, c); got != 3 {
		t.Errorf("made revision %d, want 3", got)
	}
	items, revision, err := List[*cluster.HostVPC](t.Context(), s, cluster.PrefixHosts)
	if err != nil || len(items) != c.Ops() || revision != 3 {
		t.Errorf("%d records at revision %d, %v", len(items), revision, err)
	}

	// The leader's key rewritten, as a renewal of the record would: still ours.
	putRaw(t, db, cluster.KeyLeader, `{"name":"a","since":""}`)
	mustCommit(t, s, assign(cluster.AssignedMember))
	// Elected anew: not ours.
	delRaw(t, db, cluster.KeyLeader)
	putRaw(t, db, cluster.KeyLeader, `{"name":"a","since":""}`)
	if _, err := s.Commit(t.Context(), assign(cluster.AssignedLeaving)); !errors.Is(err, ErrFenced) {
		t.Errorf("fence lost: %v, want ErrFenced", err)
	}
	// The store that the fence was put on is left as it was.
	mustCommit(t, New(db, controller), assign(cluster.AssignedLeaving))
}

// An answer that is lost is no promise either way.
func TestCommitUnknown(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	kv := &faulty{KV: db, lose: true}
	_, err := New(kv, controller).Commit(t.Context(), assign(cluster.AssignedMember))
	if !errors.Is(err, mvcc.ErrUnavailable) || errors.Is(err, ErrConflict) || db.Revision() != 2 {
		t.Errorf("got %v at revision %d, want ErrUnavailable and the write applied", err, db.Revision())
	}
}

func TestList(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	putRaw(t, db, liveA, live(1))
	putRaw(t, db, liveB, "garbage")
	putRaw(t, db, cluster.KeyServer("s"), `{"datacenter":"d","address":"s:1"}`)
	items, revision, err := List[*cluster.Live](t.Context(), New(db, operator), cluster.Root)
	if !errors.Is(err, cluster.ErrInvalid) || !strings.Contains(err.Error(), liveB) || revision != 4 {
		t.Errorf("at revision %d: %v; want ErrInvalid that names %s", revision, err, liveB)
	}
	if len(items) != 1 || items[0].Key != liveA {
		t.Errorf("items %+v, want %s alone", items, liveA)
	}
	if _, err := Get[*cluster.Node](t.Context(), New(db, operator), liveA); !errors.Is(err, errOtherType) {
		t.Errorf("a record as another type: %v", err)
	}
	it, err := Get[*cluster.Live](t.Context(), New(db, operator), liveB)
	if !errors.Is(err, cluster.ErrInvalid) || it.Mod != 3 || string(it.Raw()) != "garbage" {
		t.Errorf("garbage: %+v, %v", it, err)
	}
}

// A long list is read at one revision, whatever is written meanwhile.
func TestReadInPages(t *testing.T) {
	db := mvcc.NewMemory(mvcc.Config{})
	for n := 0; n < 2*page+7; n += mvcc.MaxTxnOps {
		var ops []mvcc.Op
		for i := n; i < n+mvcc.MaxTxnOps; i++ {
			ops = append(ops, mvcc.Put(fmt.Sprintf("%sn%06d", prefixLive, i), nil))
		}
		if _, err := db.Txn(t.Context(), mvcc.TxnRequest{Then: ops}); err != nil {
			t.Fatal(err)
		}
	}
	want, err := db.Range(t.Context(), mvcc.Prefix(prefixLive))
	if err != nil {
		t.Fatal(err)
	}
	got, header, err := New(&meddler{KV: db, t: t}, operator).Read(t.Context(), prefixLive)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.Keys, got); diff != "" || header != want.Header {
		t.Errorf("at %+v, want %+v, (-want +got):\n%.500s", header, want.Header, diff)
	}
}

// meddler writes after each page.
type meddler struct {
	mvcc.KV
	t *testing.T
	n int
}

func (m *meddler) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	resp, err := m.KV.Range(ctx, r)
	m.n++
	putRaw(m.t, m.KV, fmt.Sprintf("%sn%06d", prefixLive, page+m.n), "new")
	delRaw(m.t, m.KV, fmt.Sprintf("%sn%06d", prefixLive, page+100+m.n))
	return resp, err
}
