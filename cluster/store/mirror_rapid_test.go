package store

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// step is one thing that happens to a store or to its Mirror.
type step struct {
	Do   string
	A, B int
}

// world is a store with all that it ever held, and a Mirror of it.
type world struct {
	t      *testing.T
	db     *mvcc.Memory
	m      *mirrored
	ever   map[int64][]*mvcc.State // a restored store has two pasts
	old    []*mvcc.State
	follow []string
	n      int
	down   bool
}

var worldPrefixes = []string{cluster.PrefixLive, cluster.PrefixNodes, cluster.KeyConfig}

func (w *world) key(a int) string {
	return []string{cluster.PrefixLive + "a", cluster.PrefixLive + "b", cluster.PrefixLive + "c",
		cluster.PrefixNodes + "a", cluster.PrefixNodes + "b", cluster.KeyConfig, cluster.KeyServer("s")}[a%7]
}

// write applies what no other write is like.
func (w *world) write(key string, deleting bool) {
	w.n++
	value := fmt.Sprintf(`{"node_id":"id","counter":%d}`, w.n)
	if w.n%5 == 0 {
		value = fmt.Sprintf("garbage %d", w.n)
	}
	ops := []mvcc.Op{mvcc.Put(key, []byte(value))}
	if deleting {
		ops = []mvcc.Op{mvcc.Delete(key)}
	}
	if w.down {
		return
	}
	if _, err := w.db.Txn(w.t.Context(), mvcc.TxnRequest{Then: ops}); err != nil {
		w.t.Fatal(err)
	}
	w.record()
}

func (w *world) record() {
	s := w.db.Snapshot()
	w.ever[s.Revision()] = append(w.ever[s.Revision()], s)
}

func (w *world) do(s step) {
	switch s.Do {
	case "put":
		w.write(w.key(s.A), false)
	case "delete":
		w.write(w.key(s.A), true)
	case "compact":
		if r := w.db.Revision() - int64(s.B); r > w.db.Snapshot().Compacted() && r > 0 {
			if err := w.db.Compact(r); err != nil {
				w.t.Fatal(err)
			}
		}
	case "drop":
		w.db.DropWatches()
	case "down":
		w.down = !w.down
		w.db.SetDown(w.down)
	case "keep":
		w.old = append(w.old, w.db.Snapshot())
	case "restore":
		if len(w.old) > 0 {
			w.db.Restore(w.old[s.A%len(w.old)])
			if s.B%3 == 0 {
				w.db.SetClusterID(uint64(s.B) + 100)
			}
			w.db.DropWatches()
			for range s.B {
				w.write(w.key(s.A+s.B), false)
			}
		}
	case "follow":
		w.follow = nil
		for i, p := range worldPrefixes {
			if s.A>>i&1 == 1 {
				w.follow = append(w.follow, p)
			}
		}
		w.m.Follow(w.follow...)
	case "pull":
		w.look()
	case "wait":
		time.Sleep(time.Duration(s.B) * 300 * time.Millisecond)
	case "settle":
		synctest.Wait()
		w.look()
	}
}

// look checks that each prefix shown was so at its revision.
func (w *world) look() {
	v := w.m.Pull()
	for _, p := range worldPrefixes {
		if !v.Synced(p) {
			if got := v.content(p); got != "" {
				w.t.Errorf("%s is not synced and shows:\n%s", p, got)
			}
			continue
		}
		got := v.content(p)
		found := false
		for _, s := range w.ever[v.Revision(p)] {
			found = found || content(s, p) == got
		}
		if !found {
			w.t.Errorf("view of %s at revision %d never was:\n%s", p, v.Revision(p), got)
			for _, s := range w.ever[v.Revision(p)] {
				w.t.Errorf("was:\n%s", content(s, p))
			}
		}
	}
}

// Whatever happens, every state shown was the store's, and the last one is
// shown in the end.
func TestMirrorShowsWhatWas(t *testing.T) {
	does := []string{"put", "put", "put", "put", "delete", "delete", "compact", "drop", "down", "keep", "restore", "follow", "pull", "pull", "wait", "settle"}
	oneStep := rapid.Custom(func(t *rapid.T) step {
		return step{rapid.SampledFrom(does).Draw(t, "do"), rapid.IntRange(0, 20).Draw(t, "a"), rapid.IntRange(0, 9).Draw(t, "b")}
	})
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(oneStep, 1, 80).Draw(rt, "steps")
		good := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{t: t, db: mvcc.NewMemory(mvcc.Config{Progress: 7 * time.Second}), ever: map[int64][]*mvcc.State{}, follow: worldPrefixes}
				w.record()
				w.m = mirror(t, w.db, w.follow...)
				for _, s := range steps {
					w.do(s)
				}
				if w.down {
					w.do(step{Do: "down"})
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				w.look()
				wantMirrored(t, w.m, w.db, w.follow...)
				if since, err := w.m.view.Stale(); err != nil {
					t.Errorf("stale since %v: %v", since, err)
				}
			})
		})
		if !good {
			rt.Fatalf("steps %v", steps)
		}
	})
}
