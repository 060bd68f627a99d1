package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/meshvpc/meshvpc/cluster"
)

// rung is a directory of programs, and what its alarms log.
func rung(t *testing.T, programs map[string]string) (*alarms, string, *observer.ObservedLogs) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "notify.d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range programs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	core, logs := observer.New(zap.WarnLevel)
	return newAlarms(dir, zap.New(core)), dir, logs
}

var fenced = cluster.Change{Verb: cluster.VerbFenced, Key: "fences/n1", Detail: "nobody; hears $it"}

// TestAlarmRuns: each program once, in order, with the words as they are; one that
// fails keeps none from running.
func TestAlarmRuns(t *testing.T) {
	a, dir, logs := rung(t, map[string]string{
		"10-first": `echo "first: $MESHVPC_ALARM: $MESHVPC_KEY: $MESHVPC_TEXT" >> ` + "$OUT",
		"20-bad":   "echo no disk; exit 3",
		"30-last":  "echo last >> $OUT",
	})
	if err := os.WriteFile(filepath.Join(dir, "README"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out")
	t.Setenv("OUT", out)
	a.tell(t.Context(), fenced)
	got, err := os.ReadFile(out)
	if want := "first: fenced: fences/n1: fenced node n1: nobody; hears $it\nlast\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	failed := logs.FilterMessage("a program of alarms failed").All()
	if len(failed) != 1 || !strings.Contains(failed[0].ContextMap()["error"].(string), "exit status 3: no disk") {
		t.Errorf("logged %+v", failed)
	}
}

// TestAlarmRefuses what others could write: the program, its directory, one above it.
func TestAlarmRefuses(t *testing.T) {
	for name, spoil := range map[string]func(dir string) string{
		"program":   func(dir string) string { return filepath.Join(dir, "10-first") },
		"directory": func(dir string) string { return dir },
		"above":     filepath.Dir,
	} {
		t.Run(name, func(t *testing.T) {
			a, dir, logs := rung(t, map[string]string{"10-first": "echo ran >> $OUT"})
			out := filepath.Join(t.TempDir(), "out")
			t.Setenv("OUT", out)
			path := spoil(dir)
			if err := os.Chmod(path, 0o777); err != nil {
				t.Fatal(err)
			}
			a.tell(t.Context(), fenced)
			if _, err := os.Stat(out); err == nil {
				t.Error("it ran")
			}
			if said := logs.All(); len(said) != 1 || !strings.Contains(said[0].ContextMap()["error"].(string), path+" can be written by others") {
				t.Errorf("logged %+v", said)
			}
		})
	}
}

// TestAlarmEnds: a program that hangs ends with the server, and alarms that come while
// it does wait for nothing.
func TestAlarmEnds(t *testing.T) {
	a, _, logs := rung(t, map[string]string{"10-hang": "echo > $OUT; exec sleep 1000"})
	out := filepath.Join(t.TempDir(), "out")
	t.Setenv("OUT", out)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { a.run(ctx); close(ended) }()
	a.raise(fenced)
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := os.Stat(out); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it was not run")
		}
		tick(t, 5*time.Millisecond)
	}
	for range 2 * alarmQueue {
		a.raise(fenced)
	}
	if n := logs.FilterMessage("too many alarms: its programs are not run").Len(); n < alarmQueue {
		t.Errorf("%d of %d alarms had no room, want at least %d", n, 2*alarmQueue, alarmQueue)
	}
	cancel()
	<-ended
}

// tick waits a moment.
func tick(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-t.Context().Done():
	case <-timer.C:
	}
}
