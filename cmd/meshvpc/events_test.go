package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	for in, want := range map[string]string{
		"1h": "2026-11-30T11:00:00Z", "90m": "2026-11-30T10:30:00Z", "0s": "2026-11-30T12:00:00Z", "2026-01-31": "2026-01-31T00:00:00Z",
		"2026-01-31T12:00:00Z": "2026-01-31T12:00:00Z", "2026-01-31T12:00:00+02:00": "2026-01-31T10:00:00Z", "2026-01-31 12:30": "2026-01-31T12:30:00Z",
		"-1h": "", "yesterday": "", "7": "", "2026-13-01": "", " 1h": "",
	} {
		got := ""
		if since, ok := parseSince(in, now); ok {
			got = since.UTC().Format(time.RFC3339)
		}
		if got != want {
			t.Errorf("parseSince(%q) = %q, want %q", in, got, want)
		}
	}
}

// TestEventTail: over lost watches, a lost quorum, compaction, trimming and
// another leader's clock, each event comes once, in the order of revisions.
func TestEventTail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		mem := mvcc.NewMemory(mvcc.Config{})
		s := store.New(mem, cluster.Identity{Role: cluster.Controller})
		ctx, cancel := context.WithCancel(t.Context())
		m := store.NewMirror(store.MirrorConfig{Store: s})
		m.Follow(cluster.PrefixEvents)
		var wg sync.WaitGroup
		wg.Go(func() { _ = m.Run(ctx) })
		defer wg.Wait()
		defer cancel()
		p := &program{}
		var tail eventTail
		var got, want []string
		look := func() {
			synctest.Wait()
			for _, r := range p.reportEvents(tail.fresh(m.Pull()), eventFilter{}) {
				got = append(got, r.Detail)
			}
		}
		n := 0
		write := func(at time.Time) {
			n++
			want = append(want, fmt.Sprint(n))
			var c store.Change
			store.Create(&c, cluster.KeyEvent(at, uint64(n)), &cluster.Event{Time: cluster.At(at), By: "user:alice",
				Changes: []cluster.Change{{Verb: cluster.VerbChanged, Key: "config", Detail: fmt.Sprint(n)}}})
			if _, err := s.Commit(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		start := time.Now()
		for i := range 40 {
			write(start.Add(time.Duration(i) * time.Second))
			switch i % 8 {
			case 1:
				mem.DropWatches()
				write(start.Add(-time.Duration(i) * time.Minute)) // by a clock that is behind
			case 3: // away for long, and then the history is compacted
				mem.DropWatches()
				write(start)
				write(start)
				if err := mem.Compact(mem.Revision()); err != nil {
					t.Fatal(err)
				}
			case 5:
				mem.SetDown(true)
				time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
				mem.SetDown(false)
			case 7: // the oldest is trimmed
				items, _, err := store.List[*cluster.Event](ctx, s, cluster.PrefixEvents)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute) //nolint:forbidigo // it was told before
				look()
				var c store.Change
				c.Remove(items[0].Key, 0)
				if _, err := s.Commit(ctx, c); err != nil {
					t.Fatal(err)
				}
			}
			if i%3 == 0 {
				look()
			}
		}
		time.Sleep(time.Minute) //nolint:forbidigo // in a bubble
		look()
		if d := cmp.Diff(want, got); d != "" || !slices.Equal(want, got) {
			t.Error(d)
		}
	})
}
