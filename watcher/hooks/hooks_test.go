package hooks

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// programs is a directory with the workload "w", whose programs are shell scripts.
func programs(t *testing.T, scripts map[Kind]string) Programs {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "w"), 0o755); err != nil {
		t.Fatal(err)
	}
	for k, body := range scripts {
		if err := os.WriteFile(filepath.Join(dir, "w", string(k)), []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return Programs{dir}
}

func order(k Kind) Order {
	return Order{Workload: "w", Kind: k, Timeout: time.Minute, Env: []string{"EP=web1", "EPOCH=7"}}
}

func TestRun(t *testing.T) {
	t.Setenv("MESHVPC_SECRET", "x")
	p := programs(t, map[Kind]string{
		Start: `echo "$EP $EPOCH $(pwd) ${MESHVPC_SECRET-none}"`,
		Stop:  "echo one; echo two >&2; exit 3",
		Check: "head -c 100000 /dev/zero | tr '\\0' a; echo; echo the end; exit 1",
	})
	if out, err := p.Run(t.Context(), order(Start)); err != nil || out != "web1 7 / none\n" {
		t.Errorf("start: %q, %v", out, err)
	}
	if _, err := p.Run(t.Context(), order(Stop)); err == nil || err.Error() != "stop: exit status 3: two" {
		t.Errorf("stop: %v", err)
	}
	if out, err := p.Run(t.Context(), order(Check)); err == nil || len(out) != mostOutput || !strings.HasSuffix(err.Error(), ": the end") {
		t.Errorf("check: %d bytes, %v", len(out), err)
	}
}

// TestBackground: what a program leaves running lives, and does not hold it up.
func TestBackground(t *testing.T) {
	p := programs(t, map[Kind]string{Start: "sleep 1000 & echo $!"})
	out, err := p.Run(t.Context(), order(Start))
	pid, _ := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || pid == 0 {
		t.Fatalf("%q, %v", out, err)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("what it left is gone: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

// TestTimeIsOver: all of its process group is killed, by the end of its time and of
// the agent's work.
func TestTimeIsOver(t *testing.T) {
	for name, says := range map[string]string{"its time": "it took more than 300ms, and was killed", "the agent's": "context canceled"} {
		t.Run(name, func(t *testing.T) {
			note := filepath.Join(t.TempDir(), "pid")
			p := programs(t, map[Kind]string{Start: "sleep 1000 & echo $! >" + note + ".new; mv " + note + ".new " + note + "; wait"})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := order(Start)
			if name == "its time" {
				o.Timeout = 300 * time.Millisecond
			} else {
				go func() {
					for pidOf(note) == 0 {
						<-time.After(time.Millisecond)
					}
					cancel()
				}()
			}
			if _, err := p.Run(ctx, o); err == nil || !strings.Contains(err.Error(), says) {
				t.Fatalf("%v; want %q", err, says)
			}
			pid := pidOf(note)
			if pid == 0 && name == "its time" {
				return // so slow a machine that it had not begun
			}
			for deadline := time.Now().Add(10 * time.Second); lives(pid); {
				if time.Now().After(deadline) {
					t.Fatalf("%d lives", pid)
				}
				<-time.After(time.Millisecond)
			}
		})
	}
}

func pidOf(note string) int {
	b, _ := os.ReadFile(note) // not there yet: 0
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// lives reports whether a process runs: one that nobody has waited for yet does not.
func lives(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

// TestNotRun: what somebody else could have changed, and what is no program.
func TestNotRun(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(dir string) error
		says  string
	}{
		"no directory":           {func(dir string) error { return os.RemoveAll(dir + "/w") }, "there is no "},
		"no program":             {func(dir string) error { return os.Remove(dir + "/w/start") }, "/w/start"},
		"no other program":       {func(dir string) error { return os.Remove(dir + "/w/stop") }, "its stop is not run: there is no "},
		"not executable":         {func(dir string) error { return os.Chmod(dir+"/w/start", 0o644) }, "cannot be executed: chmod +x "},
		"written by the group":   {func(dir string) error { return os.Chmod(dir+"/w/start", 0o775) }, "/w/start can be written by others: chmod go-w "},
		"a directory of others":  {func(dir string) error { return os.Chmod(dir+"/w", 0o777) }, "/w can be written by others"},
		"the one above":          {func(dir string) error { return os.Chmod(dir, 0o777) }, " can be written by others"},
		"another user's":         {func(dir string) error { return os.Chown(dir+"/w/start", 4711, -1) }, "/w/start belongs to user 4711: chown root "},
		"a link":                 {func(dir string) error { return swap(dir+"/w/start", "/bin/true") }, "/w/start is a link"},
		"a link to a directory":  {func(dir string) error { return swap(dir+"/w", dir+"/..") }, "/w is a link"},
		"a directory as program": {func(dir string) error { return errors.Join(os.Remove(dir+"/w/start"), os.Mkdir(dir+"/w/start", 0o755)) }, "is no file"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "another user's" && os.Geteuid() != 0 {
				t.Skip("only root gives files away")
			}
			ran := filepath.Join(t.TempDir(), "ran")
			p := programs(t, map[Kind]string{Start: "touch " + ran, Stop: "true"})
			o := order(Start)
			o.With = []Kind{Stop}
			if _, err := p.Run(t.Context(), o); err != nil {
				t.Fatalf("as it was: %v", err)
			}
			if err := errors.Join(os.Remove(ran), tt.spoil(p.Dir)); err != nil {
				t.Fatal(err)
			}
			if _, err := p.Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%v; want %q", err, tt.says)
			}
			if _, err := os.Stat(ran); err == nil {
				t.Error("it ran")
			}
		})
	}
	if _, err := (Programs{"/"}).Run(t.Context(), Order{Workload: "../bin", Kind: "true", Timeout: time.Minute}); err == nil {
		t.Error("a path was taken for a name")
	}
}

func swap(path, to string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Symlink(to, path)
}
