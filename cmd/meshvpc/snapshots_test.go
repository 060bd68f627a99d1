package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSurplus(t *testing.T) {
	for name, tt := range map[string]struct {
		names []string
		keep  int
		want  []string
	}{
		"the first":         {[]string{"1"}, 2, nil},
		"room":              {[]string{"1", "2"}, 2, nil},
		"one too many":      {[]string{"1", "2", "3"}, 2, []string{"1"}},
		"many too many":     {[]string{"1", "2", "3", "4"}, 2, []string{"1", "2"}},
		"the clock is back": {[]string{"2", "3", "1"}, 2, []string{"2"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := surplus(tt.names, tt.keep); len(got) != len(tt.want) || len(got) > 0 && !cmp.Equal(got, tt.want) {
				t.Errorf("surplus = %v; want %v", got, tt.want)
			}
		})
	}
}

func TestSnapshotList(t *testing.T) {
	now := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	k := &snapshots{dir: t.TempDir()}
	if wait := k.first(now); wait != 0 {
		t.Errorf("first without a snapshot = %v; want 0", wait)
	}
	early, late := snapshotName(now.Add(-time.Hour), 10), snapshotName(now, 9)
	for _, name := range []string{late, early, "notes", ".new", "..new.123", "20260501T120000Z-x.backup"} {
		if err := os.WriteFile(filepath.Join(k.dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(k.dir, ".backup-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	names, err := k.list()
	if d := cmp.Diff([]string{early, late}, names); d != "" || err != nil {
		t.Errorf("list: %v (-want, +got):\n%s", err, d)
	}
	if left, err := os.ReadDir(k.dir); err != nil || len(left) != 4 {
		t.Errorf("%v are left, %v; want no halves", left, err)
	}
	for ago, want := range map[time.Duration]time.Duration{20 * time.Minute: 40 * time.Minute, 2 * time.Hour: 0, -5 * time.Hour: time.Hour} {
		if err := os.Chtimes(filepath.Join(k.dir, late), now, now.Add(-ago)); err != nil {
			t.Fatal(err)
		}
		if got := k.first(now); got != want {
			t.Errorf("first, the last snapshot being %v old, = %v; want %v", ago, got, want)
		}
	}
}
