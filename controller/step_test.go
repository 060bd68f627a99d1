package controller

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

var update = flag.Bool("update", false, "write the golden files")

// TestStep shows what one pass decides. Each file of testdata has records, a
// line each below cluster.Root, and the effects. Where it names a later time,
// a second pass looks at the same records then.
func TestStep(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			records, rest := ar.Files[0], ar.Files[1:]
			kv := mvcc.NewMemory(mvcc.Config{})
			for line := range strings.Lines(string(records.Data)) {
				key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
				if _, err := kv.Txn(t.Context(), mvcc.TxnRequest{Then: []mvcc.Op{mvcc.Put(cluster.Root+key, []byte(value))}}); err != nil {
					t.Fatal(err)
				}
			}
			view := viewOf(t, kv)
			s := newState()
			now := time.Unix(1000, 0)
			for i, f := range rest {
				if _, after, ok := strings.Cut(f.Name, " after "); ok {
					d, err := time.ParseDuration(after)
					if err != nil {
						t.Fatal(err)
					}
					now = now.Add(d)
				}
				effects, again := s.believe(view, now)
				var b bytes.Buffer
				for _, e := range effects {
					fmt.Fprintf(&b, "# %s\n%s", e.change.Why, strings.ReplaceAll(e.change.String(), cluster.Root, ""))
					e.settle(0, store.ErrConflict)
				}
				if !again.IsZero() {
					fmt.Fprintf(&b, "# look again in %s\n", again.Sub(now))
				}
				if diff := cmp.Diff(string(f.Data), b.String()); diff != "" && !*update {
					t.Errorf("%s (-want +got):\n%s", f.Name, diff)
				}
				ar.Files[i+1].Data = b.Bytes()
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(ar), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// believe is step when every node is found where it says.
func (s *state) believe(v *store.View, now time.Time) ([]effect, time.Time) {
	for {
		effects, again := s.step(v, now)
		if len(s.questions) == 0 {
			return effects, again
		}
		for i := range effects {
			effects[i].settle(0, store.ErrConflict)
		}
		for _, q := range s.questions {
			s.confirm.answer(q, nil, now)
		}
		s.questions = nil
	}
}

// viewOf is a mirror's view of the whole store as it is.
func viewOf(t testing.TB, kv mvcc.KV) *store.View {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	m := store.NewMirror(store.MirrorConfig{Store: store.New(kv, cluster.Identity{Role: cluster.Controller})})
	m.Follow(cluster.Root)
	var wg sync.WaitGroup
	wg.Go(func() { _ = m.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	for {
		select {
		case <-m.Changed():
		case <-time.After(5 * time.Second):
			t.Fatal("the store cannot be read")
		}
		if v := m.Pull(); v.Synced(cluster.Root) {
			return v
		}
	}
}
