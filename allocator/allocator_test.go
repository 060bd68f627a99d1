package allocator

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errNever is a commit that certainly wrote nothing.
var errNever = store.ErrConflict

var testNet = Network{Prefix: netip.MustParsePrefix("10.0.0.0/24")}

func newStore() *store.Store {
	return store.New(mvcc.NewMemory(mvcc.Config{}), cluster.Identity{Role: cluster.Controller})
}

// tester is what both *testing.T and *rapid.T are.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// refresh lets a see the whole store, as a mirror would show it.
func refresh(t tester, a *Allocator, s *store.Store) {
	t.Helper()
	view, revision := viewOf(t, s)
	a.Barrier(revision)
	a.Refresh(view, revision)
}

func viewOf(t tester, s *store.Store) (*store.View, int64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := store.NewMirror(store.MirrorConfig{Store: s})
	m.Follow(cluster.PrefixAlloc)
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for {
		select {
		case <-m.Changed():
		case <-time.After(5 * time.Second):
			t.Fatalf("the store cannot be read")
		}
		if v := m.Pull(); v.Synced(cluster.PrefixAlloc) {
			return v, v.Revision(cluster.PrefixAlloc)
		}
	}
}

func commit(s *store.Store, c *Claim) error {
	var ch store.Change
	c.AddTo(&ch)
	rev, err := s.Commit(context.Background(), ch)
	c.Settle(rev, err)
	return err
}

// held reads who holds what, by value.
func held(t tester, s *store.Store) map[string]*cluster.Allocation {
	t.Helper()
	items, _, err := store.List[*cluster.Allocation](context.Background(), s, cluster.PrefixAlloc)
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	m := map[string]*cluster.Allocation{}
	for _, it := range items {
		m[strings.TrimPrefix(it.Key, cluster.PrefixAlloc)] = it.Value
	}
	return m
}

func TestClaimIsIdempotentAndLowestFirst(t *testing.T) {
	s, a := newStore(), New()
	for i, node := range []string{"h1", "h2", "h3"} {
		c, err := a.ClaimVTEP("blue", testNet, node, nil)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("10.0.0.%d", i+1); c.Addr().String() != want {
			t.Errorf("%s gets %s, want %s", node, c.Addr(), want)
		}
		if err := commit(s, c); err != nil {
			t.Fatal(err)
		}
	}
	for name, a := range map[string]*Allocator{"same": a, "new leader": New()} {
		refresh(t, a, s)
		c, err := a.ClaimVTEP("blue", testNet, "h2", nil)
		if err != nil || c.Addr() != netip.MustParseAddr("10.0.0.2") || c.New() {
			t.Errorf("%s: h2 gets %v (new: %v), %v; want 10.0.0.2 again", name, c.Addr(), c.New(), err)
		}
		if err := commit(s, c); err != nil {
			t.Error(err)
		}
		other, err := a.ClaimVTEP("red", testNet, "h9", nil)
		if err != nil || other.Addr() != netip.MustParseAddr("10.0.0.1") {
			t.Errorf("%s: another VPC gets %v, %v", name, other, err)
		}
		other.Settle(0, errNever)
	}
}

func TestVNIs(t *testing.T) {
	s, a := newStore(), New()
	r := cluster.VNIRange{First: 5, Last: 7}
	for i, vpc := range []string{"a", "b", "c"} {
		c, err := a.ClaimVNI(r, vpc, nil)
		if err != nil || c.VNI() != cluster.VNI(5+i) {
			t.Fatalf("%s gets %v, %v", vpc, c, err)
		}
		if err := commit(s, c); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.ClaimVNI(r, "d", nil); !errors.Is(err, ErrExhausted) {
		t.Errorf("a full range: %v", err)
	}
	if c, err := a.ClaimVNI(cluster.VNIRange{First: 5, Last: 8}, "d", nil); err != nil || c.VNI() != 8 {
		t.Errorf("a wider range: %v, %v", c, err)
	}
	_, err := a.ClaimVNIValue("d", 6)
	taken, ok := errors.AsType[*TakenError](err)
	if !ok || taken.Holder != "b" || taken.Error() != "VNI 6 is held by b" {
		t.Errorf("a VNI that is taken: %v", err)
	}
}

func TestAvoidAndExclude(t *testing.T) {
	a := New()
	avoid := netip.MustParseAddr("10.0.0.1")
	c, err := a.ClaimVTEP("blue", testNet, "h1", func(x netip.Addr) bool { return x == avoid })
	if err != nil || c.Addr() != netip.MustParseAddr("10.0.0.2") {
		t.Fatalf("%v, %v", c, err)
	}
	c.Settle(1, nil)
	n := testNet
	n.Exclude = []netip.Addr{avoid}
	c, err = a.ClaimVTEP("blue", n, "h2", nil)
	if err != nil || c.Addr() != netip.MustParseAddr("10.0.0.3") {
		t.Errorf("with the first excluded: %v, %v", c, err)
	}
}

func TestReleasedValueWaitsAndGoesBackToItsHolder(t *testing.T) {
	s, a := newStore(), New()
	first, err := a.ClaimVTEP("blue", testNet, "h1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(s, first); err != nil {
		t.Fatal(err)
	}
	release := func() {
		t.Helper()
		it, err := store.Get[*cluster.Allocation](t.Context(), s, first.Key())
		if err != nil {
			t.Fatal(err)
		}
		var ch store.Change
		Release(&ch, it)
		if _, err := s.Commit(t.Context(), ch); err != nil {
			t.Fatal(err)
		}
		refresh(t, a, s)
	}
	release()
	if c, err := a.ClaimVTEP("blue", testNet, "h2", nil); err != nil || c.Addr() == first.Addr() {
		t.Errorf("a released address went to another: %v, %v", c, err)
	}
	if _, err := a.ClaimVTEPValue("blue", "h2", first.Addr()); err == nil || !strings.Contains(err.Error(), "released by h1") {
		t.Errorf("claim of a released address: %v", err)
	}
	again, err := a.ClaimVTEP("blue", testNet, "h1", nil)
	if err != nil || again.Addr() != first.Addr() || !again.New() {
		t.Fatalf("the holder gets %v, %v", again, err)
	}
	if err := commit(s, again); err != nil {
		t.Fatal(err)
	}
	if h := held(t, s)["vtep/blue/10.0.0.1"]; h == nil || h.Released {
		t.Errorf("claimed again, the record is %v", h)
	}

	release()
	var q Quarantine
	now := time.Unix(1000, 0)
	view, _ := viewOf(t, s)
	if due, at := q.Due(view, now); len(due) != 0 || !at.Equal(now.Add(QuarantineTime)) {
		t.Errorf("at once: %d due, next %v", len(due), at)
	}
	if due, _ := q.Due(view, now.Add(QuarantineTime-1)); len(due) != 0 {
		t.Error("due before its time")
	}
	if due, at := q.Due(view, now.Add(QuarantineTime)); len(due) != 1 || !at.IsZero() {
		t.Errorf("in time: %d due, next %v", len(due), at)
	}
	var fresh Quarantine
	if due, _ := fresh.Due(view, now.Add(time.Hour)); len(due) != 0 {
		t.Error("a new leader did not count afresh")
	}
}

func TestOutcomes(t *testing.T) {
	unknown := mvcc.ErrUnavailable
	for name, tt := range map[string]struct {
		err     error
		applied bool
		want    string // what another node gets after a refresh
		before  string // and before it
	}{
		"lost race":            {err: store.ErrConflict, want: "10.0.0.1", before: "10.0.0.1"},
		"unknown, applied":     {err: unknown, applied: true, want: "10.0.0.2", before: "10.0.0.2"},
		"unknown, not applied": {err: unknown, want: "10.0.0.1", before: "10.0.0.2"},
	} {
		t.Run(name, func(t *testing.T) {
			s, a := newStore(), New()
			c, err := a.ClaimVTEP("blue", testNet, "h1", nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.applied {
				var ch store.Change
				c.AddTo(&ch)
				if _, err := s.Commit(t.Context(), ch); err != nil {
					t.Fatal(err)
				}
			}
			c.Settle(0, tt.err)
			for _, want := range []string{tt.before, tt.want} {
				other, err := a.ClaimVTEP("blue", testNet, "h2", nil)
				if err != nil || other.Addr().String() != want {
					t.Errorf("another gets %s, %v; want %s", other.Addr(), err, want)
				}
				other.Settle(0, errNever)
				refresh(t, a, s)
			}
		})
	}
}

func TestLearn(t *testing.T) {
	s, a, b := newStore(), New(), New()
	mine, err := a.ClaimVTEP("blue", testNet, "h1", nil)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := b.ClaimVTEP("blue", testNet, "h2", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(s, theirs); err != nil {
		t.Fatal(err)
	}
	if err := commit(s, mine); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("a second holder: %v", err)
	}
	if won, err := mine.Learn(t.Context(), s); err != nil || won {
		t.Errorf("learn: %v, %v", won, err)
	}
	if c, err := a.ClaimVTEP("blue", testNet, "h1", nil); err != nil || c.Addr() != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("after learning: %v, %v", c, err)
	}
}

func TestUnreadableReverseKeyIsTaken(t *testing.T) {
	s, a := newStore(), New()
	key := cluster.KeyAllocVTEP("blue", netip.MustParseAddr("10.0.0.1"))
	if _, err := s.KV().Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, []byte("garbage"))}}); err != nil {
		t.Fatal(err)
	}
	refresh(t, a, s)
	if c, err := a.ClaimVTEP("blue", testNet, "h1", nil); err != nil || c.Addr() != netip.MustParseAddr("10.0.0.2") {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := a.ClaimVTEPValue("blue", "h1", netip.MustParseAddr("10.0.0.1")); err == nil {
		t.Error("an unreadable reverse key was claimed")
	}
	if _, err := s.KV().Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Delete(key)}}); err != nil {
		t.Fatal(err)
	}
	refresh(t, a, s)
	if c, err := a.ClaimVTEP("blue", testNet, "h2", nil); err != nil || c.Addr() != netip.MustParseAddr("10.0.0.1") {
		t.Errorf("deleted, it is still taken: %v, %v", c, err)
	}
}

// allocate is what a caller does that cannot wait for the view: claim, commit,
// learn, again.
func allocate(ctx context.Context, s *store.Store, a *Allocator, node string) (netip.Addr, error) {
	for {
		c, err := a.ClaimVTEP("blue", Network{Prefix: netip.MustParsePrefix("10.0.0.0/16")}, node, nil)
		if err != nil {
			return netip.Addr{}, err
		}
		var ch store.Change
		c.AddTo(&ch)
		rev, err := s.Commit(ctx, ch)
		if err == nil {
			c.Settle(rev, nil)
			return c.Addr(), nil
		}
		mine, lerr := c.Learn(ctx, s)
		if lerr != nil {
			return netip.Addr{}, lerr
		}
		if mine {
			return c.Addr(), nil
		}
	}
}

// TestConcurrent lets 50 goroutines of two allocators that know nothing of each
// other allocate, each holder by two of one allocator's.
func TestConcurrent(t *testing.T) {
	s := newStore()
	allocators := []*Allocator{New(), New()}
	const workers, each = 50, 20
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				if _, err := allocate(t.Context(), s, allocators[w/2%2], fmt.Sprintf("n%d-%d", w/2, i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	all := held(t, s)
	if len(all) != workers/2*each {
		t.Errorf("%d values are held, want %d", len(all), workers/2*each)
	}
	holders := map[string]string{}
	for value, h := range all {
		if other := holders[h.Holder]; other != "" {
			t.Errorf("%s holds %s and %s", h.Holder, value, other)
		}
		holders[h.Holder] = value
	}
	// With the claims over there is no hole: the lowest free one is the next.
	a := New()
	refresh(t, a, s)
	c, err := a.ClaimVTEP("blue", Network{Prefix: netip.MustParsePrefix("10.0.0.0/16")}, "last", nil)
	want := fmt.Sprintf("10.0.%d.%d", (len(all)+1)/256, (len(all)+1)%256)
	if err != nil || c.Addr().String() != want {
		t.Errorf("next is %s, %v; want %s", c.Addr(), err, want)
	}
}

// TestNoDoubleNoLeak lets leaders allocate, release and collect, and crash
// between any two steps: after a claim, with a commit of unknown outcome,
// succeeded by a leader with a fresh memory while the old one still writes.
func TestNoDoubleNoLeak(t *testing.T) {
	small := Network{Prefix: netip.MustParsePrefix("10.0.0.0/28")}
	rapid.Check(t, func(t *rapid.T) {
		s := newStore()
		ctx := context.Background()
		leaders := []*Allocator{New()}
		holders := map[string]string{} // value -> who, as the store answered
		wanted := map[string]bool{}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			a := rapid.SampledFrom(leaders).Draw(t, "leader")
			node := fmt.Sprintf("h%d", rapid.IntRange(0, 9).Draw(t, "node"))
			switch rapid.SampledFrom([]string{"allocate", "lost", "applied", "crash", "release", "collect", "refresh", "elect"}).Draw(t, "do") {
			case "allocate":
				c, err := a.ClaimVTEP("blue", small, node, nil)
				if err != nil {
					continue // full, or so this leader thinks
				}
				if commit(s, c) == nil {
					wanted[node] = true
				}
			case "lost": // the request never arrived
				if c, err := a.ClaimVTEP("blue", small, node, nil); err == nil {
					c.Settle(0, mvcc.ErrUnavailable)
				}
			case "applied": // the answer was lost
				c, err := a.ClaimVTEP("blue", small, node, nil)
				if err != nil {
					continue
				}
				var ch store.Change
				c.AddTo(&ch)
				if _, err := s.Commit(ctx, ch); err == nil {
					wanted[node] = true
				}
				c.Settle(0, mvcc.ErrUnavailable)
			case "crash": // after the claim
				if _, err := a.ClaimVTEP("blue", small, node, nil); err == nil {
					leaders[0] = New()
					refresh(t, leaders[0], s)
				}
			case "release":
				for value, h := range held(t, s) {
					if h.Holder != node || h.Released {
						continue
					}
					it, err := store.Get[*cluster.Allocation](ctx, s, cluster.PrefixAlloc+value)
					if err != nil {
						t.Fatalf("%v", err)
					}
					var ch store.Change
					Release(&ch, it)
					if _, err := s.Commit(ctx, ch); err != nil {
						t.Fatalf("release: %v", err)
					}
					delete(wanted, node)
				}
			case "collect":
				view, _ := viewOf(t, s)
				var q Quarantine
				q.Due(view, time.Unix(0, 0))
				due, _ := q.Due(view, time.Unix(100, 0))
				for _, it := range due {
					var ch store.Change
					ch.Remove(it.Key, it.Mod)
					if _, err := s.Commit(ctx, ch); err != nil {
						t.Fatalf("collect: %v", err)
					}
					delete(holders, strings.TrimPrefix(it.Key, cluster.PrefixAlloc))
				}
			case "refresh":
				refresh(t, a, s)
			case "elect":
				if len(leaders) < 3 {
					leaders = append(leaders, New())
				}
			}
			for value, h := range held(t, s) {
				if was := holders[value]; was != "" && was != h.Holder {
					t.Fatalf("%s went from %s to %s while it was held", value, was, h.Holder)
				}
				holders[value] = h.Holder
			}
		}
		// A leader that has seen everything finds as many free as there are.
		last := New()
		refresh(t, last, s)
		free := int(small.Capacity()) - len(held(t, s))
		for i := range free {
			c, err := last.ClaimVTEP("blue", small, fmt.Sprintf("new-%d", i), nil)
			if err != nil {
				t.Fatalf("value %d of %d free ones: %v", i, free, err)
			}
			if err := commit(s, c); err != nil {
				t.Fatalf("commit: %v", err)
			}
		}
		if _, err := last.ClaimVTEP("blue", small, "one-more", nil); !errors.Is(err, ErrExhausted) {
			t.Fatalf("more than there are: %v", err)
		}
		// And each old leader, too, once it has looked.
		for _, a := range leaders {
			refresh(t, a, s)
			for value, h := range held(t, s) {
				c, err := a.ClaimVTEPValue("blue", "thief", netip.MustParseAddr(lastPart(value)))
				if err == nil {
					t.Fatalf("%s of %s was claimed: %v", value, h.Holder, c)
				}
			}
		}
	})
}

func lastPart(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

// TestPairsHoldVNIs has VPCs and pairs share a range, each what it has.
func TestPairsHoldVNIs(t *testing.T) {
	s, a := newStore(), New()
	r := cluster.VNIRange{First: 5, Last: 8}
	pair := cluster.PairOf("blue", "h1", "h2").String()
	for i, holder := range []string{"blue", pair, cluster.PairOf("blue", "h1", "h3").String()} {
		c, err := a.ClaimVNI(r, holder, nil)
		if err != nil || c.VNI() != cluster.VNI(5+i) {
			t.Fatalf("%s gets %v, %v", holder, c, err)
		}
		if err := commit(s, c); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.VNIsLeft(r); n != 1 {
		t.Errorf("%d VNIs left, want 1", n)
	}
	a = New()
	refresh(t, a, s)
	if n := a.VNIsLeft(r); n != 1 {
		t.Errorf("a new leader sees %d VNIs left, want 1", n)
	}
	c, err := a.ClaimVNI(r, pair, nil)
	if err != nil || c.VNI() != 6 || c.New() {
		t.Errorf("the pair gets %v, %v; want 6 again", c, err)
	}
	c.Settle(0, errNever)
	if _, err := a.ClaimVNIValue("blue", 6); err == nil || !strings.Contains(err.Error(), "held by "+pair) {
		t.Errorf("the VPC takes its pair's VNI: %v", err)
	}
	last, err := a.ClaimVNI(r, "red", nil)
	if err != nil || a.VNIsLeft(r) != 0 {
		t.Errorf("a claim leaves %d: %v", a.VNIsLeft(r), err)
	}
	if _, err := a.ClaimVNI(r, cluster.PairOf("red", "h1", "h2").String(), nil); !errors.Is(err, ErrExhausted) {
		t.Errorf("a full range: %v", err)
	}
	last.Settle(0, errNever)
}
