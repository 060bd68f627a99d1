//go:build linux

package lab_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/meshvpc/meshvpc/integration/lab"
)

func TestExec(t *testing.T) {
	l := mustStart(t, lab.Config{Hosts: []lab.HostConfig{{Name: "a", Datacenter: "dc1"}}})
	disk := l.Disk("a")
	idle := len(labProcesses(t, l.Name()))

	t.Run("stdio and exit code", func(t *testing.T) {
		var out, errOut bytes.Buffer
		code, err := l.Exec(t.Context(), lab.Command{
			Host: "a", Argv: []string{"sh", "-c", "tr a-z A-Z; echo bad >&2; exit 7"},
			Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errOut,
		})
		if err != nil || code != 7 || out.String() != "HELLO" || errOut.String() != "bad\n" {
			t.Errorf("exit %d, %v, stdout %q, stderr %q; want 7, HELLO, bad", code, err, out.String(), errOut.String())
		}
	})
	t.Run("host and disk of its own", func(t *testing.T) {
		got := run(t, l, "a", "", "sh", "-c", `hostname; echo $MESHVPC_CONFIG_DIR $MESHVPC_STATE_DIR $MESHVPC_RUN_DIR $MESHVPC_CONFIG; ls /run`)
		want := "a\n" + strings.Join([]string{disk.Etc, disk.Var, disk.Run, filepath.Join(disk.Etc, "admin.yaml")}, " ") + "\nnetns"
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("the binary is meshvpc", func(t *testing.T) {
		if got := run(t, l, "a", "", "meshvpc", "say", "hi"); got != "hi" {
			t.Errorf("got %q, want hi", got)
		}
	})
	t.Run("unknown program", func(t *testing.T) {
		if _, err := l.Exec(t.Context(), lab.Command{Host: "a", Argv: []string{"no-such-program"}}); !errors.Is(err, lab.ErrNotFound) {
			t.Errorf("got %v, want ErrNotFound", err)
		}
	})
	t.Run("unknown host and workload", func(t *testing.T) {
		for _, c := range []lab.Command{{Host: "b", Argv: []string{"true"}}, {Host: "a", Workload: "w", Argv: []string{"true"}}} {
			if _, err := l.Exec(t.Context(), c); !errors.Is(err, lab.ErrNotFound) {
				t.Errorf("%+v: got %v, want ErrNotFound", c, err)
			}
		}
	})
	t.Run("signal", func(t *testing.T) {
		out, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		defer theirs.Close()
		signals := make(chan os.Signal, 1)
		go func() { // ends with the read, at the latest when out closes
			if _, err := out.Read(make([]byte, 9)); err == nil {
				signals <- syscall.SIGTERM
			}
		}()
		code, err := l.Exec(t.Context(), lab.Command{Host: "a", Argv: []string{"sh", "-c", "echo ready; sleep 60"}, Stdout: theirs, Signals: signals})
		if err != nil || code != 128+15 {
			t.Errorf("exit %d, %v; want 143", code, err)
		}
	})
	t.Run("end of context kills", func(t *testing.T) {
		out, theirs, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer theirs.Close()
		defer out.Close()
		ctx, cancel := context.WithCancel(t.Context())
		go func() { // ends with the read, at the latest when out closes
			if _, err := out.Read(make([]byte, 9)); err == nil {
				cancel()
			}
		}()
		if _, err := l.Exec(ctx, lab.Command{Host: "a", Argv: []string{"sh", "-c", "echo ready; exec sleep 60"}, Stdout: theirs}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want Canceled", err)
		}
		// The signalled shell of before may have left a sleep to be reaped.
		eventually(t, "the lab has no more processes than at first", func() bool { return len(labProcesses(t, l.Name())) == idle })
	})
	t.Run("orphans are reaped", func(t *testing.T) {
		run(t, l, "a", "", "sh", "-c", "(true & exec true) & wait")
		got := run(t, l, "a", "", "sh", "-c", "cat /proc/[0-9]*/stat | grep -c ' Z ' || true")
		if got != "0" {
			t.Errorf("%s zombies, want 0", got)
		}
	})
}
