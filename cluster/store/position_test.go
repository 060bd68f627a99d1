package store

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// Any two histories are told apart when the keys have been gone through once,
// and one alone never is taken for two.
func TestVerifyTellsHistoriesApart(t *testing.T) {
	type write struct {
		Delete     bool
		Key, Value int
	}
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.SampledFrom([]int{2, checkPage - 1, checkPage, checkPage + 1, 3 * checkPage}).Draw(rt, "keys")
		writes := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) write {
			return write{rapid.Bool().Draw(t, "delete"), rapid.IntRange(0, n).Draw(t, "key"), rapid.IntRange(0, 1).Draw(t, "value")}
		}), 0, 5)
		db := mvcc.NewMemory(mvcc.Config{})
		key := func(i int) string { return fmt.Sprintf("%s%04d", prefixLive, i) }
		do := func(ws []write) {
			for _, w := range ws {
				if w.Delete {
					delRaw(t, db, key(w.Key))
				} else {
					putRaw(t, db, key(w.Key), live(w.Value))
				}
			}
		}
		for i := range n {
			putRaw(t, db, key(i), live(0))
		}
		var (
			s, f, v = New(db, operator), NewFeed(prefixLive), NewView()
			rounds  = n/checkPage + 1
		)
		mustHear := func() {
			if err := f.Hear(v, db.Poll(f.Watch(), 0)); err != nil {
				rt.Fatal(err)
			}
		}
		if err := f.Begin(t.Context(), s, v); err != nil {
			rt.Fatal(err)
		}
		do(writes.Draw(rt, "before"))
		old := db.Snapshot()
		mustHear()
		do(writes.Draw(rt, "undone"))
		mustHear()
		for range rounds + 1 {
			if err := f.Verify(t.Context(), s); err != nil {
				rt.Fatalf("nothing happened: %v", err)
			}
		}

		db.Restore(old)
		do(writes.Draw(rt, "instead"))
		if rapid.Bool().Draw(rt, "heard") {
			mustHear()
		}
		want := !shows(v, db)
		var err error
		for range rounds {
			if err = f.Verify(t.Context(), s); err != nil {
				break
			}
		}
		if OtherHistory(err) != want {
			rt.Fatalf("verify gave %v, other history is %v", err, want)
		}
	})
}

// shows reports whether v is what db was at v's revision, to the last number.
func shows(v *View, db *mvcc.Memory) bool {
	req := mvcc.Prefix(prefixLive)
	req.Revision = v.Revision(prefixLive)
	r, err := db.Snapshot().Range(req)
	n := 0
	for range v.below(prefixLive) {
		n++
	}
	good := err == nil && len(r.Keys) == n
	for _, kv := range r.Keys {
		e := v.get(kv.Key)
		good = good && e != nil && same(e.kv, kv)
	}
	return good
}
