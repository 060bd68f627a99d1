package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// mirrored is a running Mirror, of which this goroutine is the reader.
type mirrored struct {
	*Mirror
	kv *counting
}

// counting counts the calls that a Mirror makes.
type counting struct {
	mvcc.KV
	lists, watches atomic.Int64
}

func (c *counting) Range(ctx context.Context, r mvcc.RangeRequest) (mvcc.RangeResponse, error) {
	if r.End != "" && r.Revision == 0 { // what a check reads has a revision
		c.lists.Add(1)
	}
	return c.KV.Range(ctx, r)
}

func (c *counting) Watch(ctx context.Context, w mvcc.WatchRequest) <-chan mvcc.WatchResponse {
	c.watches.Add(1)
	return c.KV.Watch(ctx, w)
}

// mirror runs a Mirror until the test ends. One feed at most may be followed
// when calls are counted.
func mirror(t *testing.T, kv mvcc.KV, prefixes ...string) *mirrored {
	t.Helper()
	c := &counting{KV: kv}
	m := &mirrored{NewMirror(MirrorConfig{Store: New(c, operator)}), c}
	m.Follow(prefixes...)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return m
}

// settle waits until nothing else runs, and returns the View.
func (m *mirrored) settle() *View {
	synctest.Wait()
	return m.Pull()
}

// content is what v holds below prefix, as "key=value@mod".
func (v *View) content(prefix string) string {
	var b strings.Builder
	for e := range v.below(prefix) {
		fmt.Fprintf(&b, "%s=%s@%d\n", e.kv.Key, e.kv.Value, e.kv.ModRevision)
	}
	return b.String()
}

// content is the same of a store at its current revision.
func content(s *mvcc.State, prefix string) string {
	r, err := s.Range(rangeOf(prefix))
	if err != nil {
		return err.Error()
	}
	return text(r.Keys)
}

func text(keys []mvcc.KeyValue) string {
	var b strings.Builder
	for _, kv := range keys {
		fmt.Fprintf(&b, "%s=%s@%d\n", kv.Key, kv.Value, kv.ModRevision)
	}
	return b.String()
}

func wantMirrored(t *testing.T, m *mirrored, db *mvcc.Memory, prefixes ...string) {
	t.Helper()
	v := m.settle()
	for _, p := range prefixes {
		if diff := cmp.Diff(content(db.Snapshot(), p), v.content(p)); diff != "" || !v.Synced(p) {
			t.Errorf("view of %s, synced %v, differs (-store +view):\n%s", p, v.Synced(p), diff)
		}
	}
}

func putRaw(t *testing.T, kv mvcc.KV, key, value string) {
	t.Helper()
	if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(key, []byte(value))}}); err != nil {
		t.Fatal(err)
	}
}

func delRaw(t *testing.T, kv mvcc.KV, keys ...string) {
	t.Helper()
	var ops []mvcc.Op
	for _, k := range keys {
		ops = append(ops, mvcc.Delete(k))
	}
	if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: ops}); err != nil {
		t.Fatal(err)
	}
}

// live is a record that tells n apart from any other.
func live(n int) string { return fmt.Sprintf(`{"node_id":"id","counter":%d}`, n) }

const (
	prefixLive = cluster.PrefixLive
	liveA      = prefixLive + "a"
	liveB      = prefixLive + "b"
)

// What a lost watch, or a store that changes under it, costs: lists counts the
// whole reads of the prefix after the first.
func TestMirrorRecovers(t *testing.T) {
	for name, tt := range map[string]struct {
		fault func(t *testing.T, db *mvcc.Memory, old *mvcc.State)
		after time.Duration // until all is well again, at most
		lists int
	}{
		"connection lost": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) { db.DropWatches(); putRaw(t, db, liveA, live(3)) },
			after: time.Second,
		},
		"connection lost before a deletion": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) { db.DropWatches(); delRaw(t, db, liveA, liveB) },
			after: time.Second,
		},
		"connection lost after a deletion": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				delRaw(t, db, liveA)
				synctest.Wait()
				db.DropWatches()
				putRaw(t, db, liveB, live(4))
			},
			after: time.Second,
		},
		"quorum lost for a while": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				db.SetDown(true)
				time.Sleep(time.Minute)
				db.SetDown(false)
				putRaw(t, db, liveA, live(3))
			},
			after: 10 * time.Second,
		},
		"compacted while away": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				db.DropWatches()
				putRaw(t, db, liveA, live(3))
				delRaw(t, db, liveB)
				if err := db.Compact(db.Revision()); err != nil {
					t.Error(err)
				}
			},
			after: time.Second,
			lists: 1,
		},
		"restored, lower revision": {
			fault: func(t *testing.T, db *mvcc.Memory, old *mvcc.State) { db.Restore(old); db.DropWatches() },
			after: time.Second,
			lists: 1,
		},
		"restored, revision passed": {
			fault: func(t *testing.T, db *mvcc.Memory, old *mvcc.State) {
				db.Restore(old)
				db.DropWatches()
				for n := range 10 {
					putRaw(t, db, liveB, live(10+n))
				}
			},
			after: time.Second,
			lists: 1,
		},
		"restored, passed by other prefixes": {
			fault: func(t *testing.T, db *mvcc.Memory, old *mvcc.State) {
				db.Restore(old)
				db.DropWatches()
				for n := range 10 {
					putRaw(t, db, cluster.KeyServer("s"), live(10+n))
				}
			},
			after: time.Second,
			lists: 1,
		},
		"restored, a deletion undone": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				old := db.Snapshot()
				delRaw(t, db, liveB)
				synctest.Wait()
				db.Restore(old)
				db.DropWatches()
				for n := range 10 {
					putRaw(t, db, cluster.KeyServer("s"), live(10+n))
				}
			},
			after: time.Second,
			lists: 1,
		},
		"restored, as many others and the newest the same": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				putRaw(t, db, prefixLive+"c", live(3))
				old := db.Snapshot()
				delRaw(t, db, liveB)
				putRaw(t, db, liveA, live(4))
				synctest.Wait()
				db.Restore(old)
				db.DropWatches()
				delRaw(t, db, prefixLive+"c")
				putRaw(t, db, liveA, live(4))
			},
			after: time.Second,
			lists: 1,
		},
		"restored without a lost connection, as many others and the newest the same": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) {
				old := db.Snapshot()
				putRaw(t, db, liveB, live(3))
				putRaw(t, db, liveA, live(4))
				synctest.Wait()
				db.Restore(old)
				putRaw(t, db, liveB, live(5))
				putRaw(t, db, liveA, live(4))
			},
			after: 20 * time.Second,
			lists: 1,
		},
		"restored without a lost connection, lower revision": {
			fault: func(t *testing.T, db *mvcc.Memory, old *mvcc.State) { db.Restore(old) },
			after: 20 * time.Second,
			lists: 1,
		},
		"restored without a lost connection, revision passed": {
			fault: func(t *testing.T, db *mvcc.Memory, old *mvcc.State) {
				db.Restore(old)
				for n := range 10 {
					putRaw(t, db, cluster.KeyServer("s"), live(10+n))
				}
			},
			after: 20 * time.Second,
			lists: 1,
		},
		"another cluster": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) { db.SetClusterID(99); db.DropWatches() },
			after: time.Second,
			lists: 1,
		},
		"another cluster without a lost connection": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) { db.SetClusterID(99) },
			after: 20 * time.Second,
			lists: 1,
		},
		"another cluster, noticed by the watch": {
			fault: func(t *testing.T, db *mvcc.Memory, _ *mvcc.State) { db.SetClusterID(99); putRaw(t, db, liveA, live(3)) },
			after: time.Second,
			lists: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				db := mvcc.NewMemory(mvcc.Config{})
				putRaw(t, db, liveA, live(1))
				putRaw(t, db, liveB, live(1))
				old := db.Snapshot()
				putRaw(t, db, liveA, live(2))
				m := mirror(t, db, prefixLive)
				wantMirrored(t, m, db, prefixLive)
				putRaw(t, db, liveB, live(2))
				wantMirrored(t, m, db, prefixLive)

				tt.fault(t, db, old)
				time.Sleep(tt.after)
				wantMirrored(t, m, db, prefixLive)
				if got := int(m.kv.lists.Load()) - 1; got != tt.lists || m.view.Lists(prefixLive) != tt.lists+1 {
					t.Errorf("listed anew %d times, view counts %d; want %d", got, m.view.Lists(prefixLive)-1, tt.lists)
				}
				if since, err := m.view.Stale(); err != nil || !since.IsZero() {
					t.Errorf("still stale since %v: %v", since, err)
				}
				putRaw(t, db, liveA, live(99)) // the watch is alive
				wantMirrored(t, m, db, prefixLive)
				time.Sleep(5 * time.Minute) // and nothing more is found
				if got := int(m.kv.lists.Load()) - 1; got != tt.lists {
					t.Errorf("listed anew %d times in the end, want %d", got, tt.lists)
				}
			})
		})
	}
}

// A store that went back is found by any key of many, while others change.
func TestMirrorComparesPageByPage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pages = 3
		key := func(i int) string { return fmt.Sprintf("%s%04d", prefixLive, i) }
		for _, other := range []int{0, checkPage, pages*checkPage - 1} {
			db := mvcc.NewMemory(mvcc.Config{})
			for i := range pages * checkPage {
				putRaw(t, db, key(i), live(0))
			}
			old := db.Snapshot()
			putRaw(t, db, key(other), live(1))
			m := mirror(t, db, prefixLive)
			change := func(n int) {
				for range n {
					putRaw(t, db, key(1), live(2))
					time.Sleep(time.Second)
				}
			}
			change(300)
			if got := m.settle().Lists(prefixLive); got != 1 {
				t.Errorf("listed %d times, want once", got)
			}
			db.Restore(old)
			putRaw(t, db, key(other), live(3))
			for db.Revision() < m.view.Revision(prefixLive) {
				putRaw(t, db, key(1), live(2))
			}
			change(pages * 20)
			wantMirrored(t, m, db, prefixLive)
			if got := m.view.Lists(prefixLive); got != 2 {
				t.Errorf("key %d: listed %d times, want twice", other, got)
			}
		}
	})
}

func TestMirrorStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		putRaw(t, db, liveA, live(1))
		m := mirror(t, db, prefixLive, cluster.PrefixNodes)
		if since, err := m.settle().Stale(); err != nil {
			t.Errorf("stale from the start: %v, %v", since, err)
		}
		time.Sleep(time.Minute)
		down := time.Now()
		db.SetDown(true)
		time.Sleep(time.Minute)
		since, err := m.settle().Stale()
		if !errors.Is(err, mvcc.ErrNoLeader) || since.Sub(down) > time.Second {
			t.Errorf("stale since %v: %v; want since %v", since, err, down)
		}
		if !m.view.Synced(prefixLive) || !m.view.Has(liveA) {
			t.Error("an outage took records away")
		}
		db.SetDown(false)
		time.Sleep(7 * time.Second) // the longest pause, jittered
		if since, err := m.settle().Stale(); err != nil {
			t.Errorf("still stale since %v: %v", since, err)
		}
	})
}

// A server that is gone without a word is noticed although the watch is silent.
func TestMirrorSilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &faulty{KV: mvcc.NewMemory(mvcc.Config{})}
		m := mirror(t, f, prefixLive)
		if _, err := m.settle().Stale(); err != nil {
			t.Fatal(err)
		}
		f.set(func() { f.cut = true })
		time.Sleep(30 * time.Second)
		if _, err := m.settle().Stale(); !errors.Is(err, mvcc.ErrUnavailable) {
			t.Errorf("stale: %v, want ErrUnavailable", err)
		}
		f.set(func() { f.cut = false })
		time.Sleep(15 * time.Second)
		if _, err := m.settle().Stale(); err != nil {
			t.Errorf("still stale: %v", err)
		}
	})
}

// After a long healthy watch the first retry comes soon, however many were
// needed before.
func TestMirrorBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		m := mirror(t, db, prefixLive)
		for range 20 {
			time.Sleep(time.Hour)
			db.DropWatches()
			before := m.kv.watches.Load()
			time.Sleep(126 * time.Millisecond)
			synctest.Wait()
			if m.kv.watches.Load() == before {
				t.Fatal("no new watch within the first wait")
			}
		}
		before := m.kv.watches.Load()
		for range 1000 { // 10 s of a watch that fails at once
			db.DropWatches()
			time.Sleep(10 * time.Millisecond)
		}
		if got := m.kv.watches.Load() - before; got < 3 || got > 9 {
			t.Errorf("%d attempts in 10 s, want few", got)
		}
	})
}

func TestMirrorKeepsTheLastGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		putRaw(t, db, liveA, live(1))
		putRaw(t, db, liveB, "garbage")
		m := mirror(t, db, prefixLive)
		v := m.settle()
		if _, ok := At[*cluster.Live](v, liveB); ok || !v.Has(liveB) {
			t.Error("a record that never was good has a value, or is not there")
		}
		check := func(want error, keys ...string) {
			t.Helper()
			v := m.settle()
			it, ok := At[*cluster.Live](v, liveA)
			if !ok || it.Value.Counter != 1 || it.Mod != db.Revision() {
				t.Errorf("last good value: %+v %v, want counter 1 at revision %d", it, ok, db.Revision())
			}
			var bad []string
			for _, p := range v.Problems() {
				bad = append(bad, p.Key)
				if p.Key == liveA && !errors.Is(p.Err, want) {
					t.Errorf("problem is %v, want %v", p.Err, want)
				}
			}
			if diff := cmp.Diff(keys, bad); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		}
		putRaw(t, db, liveA, `{"node_id":`)
		check(cluster.ErrInvalid, liveA, liveB)
		putRaw(t, db, liveA, `{"needs":9,"node_id":{}}`)
		check(cluster.ErrNewer, liveA, liveB)
		it, _ := At[*cluster.Live](m.Pull(), liveA)
		var c Change
		Put(&c, it, it.Value)
		if _, err := New(db, agentOfA).Commit(t.Context(), c); !errors.Is(err, cluster.ErrNewer) {
			t.Errorf("overwriting a newer record gave %v, want ErrNewer", err)
		}
		delRaw(t, db, liveB)
		putRaw(t, db, liveA, `{"needs":9,"node_id":[]}`)
		check(cluster.ErrNewer, liveA)
		putRaw(t, db, liveA, live(1))
		check(nil)
		putRaw(t, db, liveA, "garbage")
		m.settle()
		m.Follow()
		if got := m.Pull().Problems(); len(got) != 0 {
			t.Errorf("problems of what is not followed: %v", got)
		}
	})
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		putRaw(t, db, liveA, live(1))
		putRaw(t, db, liveA+"b", live(1))
		putRaw(t, db, cluster.KeyConfig, live(1))
		m := mirror(t, db, prefixLive, cluster.KeyConfig)
		wantMirrored(t, m, db, prefixLive, cluster.KeyConfig)

		// Away and back before Run can look, with events on their way.
		putRaw(t, db, liveA, live(2))
		m.Follow(cluster.KeyConfig)
		if v := m.Pull(); v.Has(liveA) || v.Synced(prefixLive) {
			t.Error("what is no longer followed is still there")
		}
		m.Follow(prefixLive, cluster.KeyConfig)
		putRaw(t, db, liveB, live(2))
		if v := m.Pull(); v.Has(liveA) && !v.Synced(prefixLive) {
			t.Error("part of a prefix is shown before it was read whole")
		}
		wantMirrored(t, m, db, prefixLive, cluster.KeyConfig)

		// One key whose name begins another's.
		m.Follow(liveA, liveA+"b")
		wantMirrored(t, m, db, liveA, liveA+"b")
		m.Follow(liveA + "b")
		if v := m.settle(); v.Has(liveA) || !v.Has(liveA+"b") || v.Has(cluster.KeyConfig) {
			t.Error("one key took another with it")
		}
		delRaw(t, db, liveA+"b")
		wantMirrored(t, m, db, liveA+"b")
	})
}

// Answers with events promise nothing about later ones: etcd cuts a long
// backlog and names the newest revision in each part.
func TestMirrorLongBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		c := &cutting{KV: db}
		m := mirror(t, c, prefixLive)
		m.settle()
		c.fail = true
		db.DropWatches()
		for n := range 5 {
			putRaw(t, db, liveA, live(n))
			putRaw(t, db, liveB, live(n))
		}
		time.Sleep(time.Minute)
		wantMirrored(t, m, db, prefixLive)
		if m.kv.lists.Load() != 1 {
			t.Errorf("%d lists, want 1", m.kv.lists.Load())
		}
	})
}

// cutting ends each watch after the first event of an answer.
type cutting struct {
	mvcc.KV
	fail bool
}

func (c *cutting) Watch(ctx context.Context, r mvcc.WatchRequest) <-chan mvcc.WatchResponse {
	out := make(chan mvcc.WatchResponse)
	go func() {
		defer close(out)
		for w := range c.KV.Watch(ctx, r) {
			answers := []mvcc.WatchResponse{w}
			if c.fail && len(w.Events) > 1 {
				w.Events = w.Events[:1]
				answers = []mvcc.WatchResponse{w, {Err: mvcc.ErrUnavailable}}
			}
			for _, a := range answers {
				select {
				case out <- a:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func TestBelow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		db := mvcc.NewMemory(mvcc.Config{})
		for _, n := range []string{"c", "a", "b"} {
			putRaw(t, db, prefixLive+n, live(1))
		}
		putRaw(t, db, cluster.KeyServer("s"), `{"address":"s:1","datacenter":"d"}`)
		putRaw(t, db, prefixLive+"d", "garbage")
		m := mirror(t, db, prefixLive, cluster.PrefixSrvs)
		v := m.settle()
		var got []string
		for it := range Below[*cluster.Live](v, cluster.Root) {
			got = append(got, it.Key)
		}
		want := []string{prefixLive + "a", prefixLive + "b", prefixLive + "c"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("live records below the root (-want +got):\n%s", diff)
		}
		for range Below[*cluster.Live](v, cluster.Root) {
			break // ends early without a word
		}
		if got := slices.Sorted(maps.Keys(v.sections)); len(got) != 2 {
			t.Errorf("sections %v", got)
		}
	})
}
