//go:build linux

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/meshvpc/meshvpc/integration/lab"
)

// eventually waits up to ten seconds for a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("still not so after 10 s: %s", what)
		}
	}
}

// supervisorOf returns the process that all others of the lab descend from.
func supervisorOf(t *testing.T, name string) int {
	t.Helper()
	for _, pid := range labProcesses(t, name) {
		cmdline, err := os.ReadFile(filepath.Join("/proc", pid, "cmdline"))
		if err == nil && strings.Contains(string(cmdline), "\x00supervisor\x00") {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("lab %s has no supervisor", name)
	return 0
}

// namespaces counts the network namespaces that processes of the lab are in.
// Others come and go beside it.
func namespaces(t *testing.T, name string) int {
	t.Helper()
	seen := map[string]bool{}
	for _, pid := range labProcesses(t, name) {
		if ns, err := os.Readlink(filepath.Join("/proc", pid, "ns/net")); err == nil {
			seen[ns] = true
		}
	}
	return len(seen)
}

func TestDownLeavesNothing(t *testing.T) {
	l := start(t, lab.Config{Name: labName(t)})
	mustMesh(t, l)
	if got := namespaces(t, l.Name()); got < 4 {
		t.Errorf("the lab is in %d network namespaces, want 4 at least: hosts and what joins them", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, l.Name()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := lab.Open(l.Name()); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("open after the end: got %v, want ErrNotFound", err)
	}
	if err := lab.Down(t.Context(), l.Name()); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("down again: got %v, want ErrNotFound", err)
	}
}

func TestKilledSupervisorTakesAllWithIt(t *testing.T) {
	name := labName(t)
	l := start(t, lab.Config{Name: name, Detached: true})
	mustMesh(t, l)
	for _, host := range []string{jhoster, gold1} {
		if err := errors.Join(l.SetServices(t.Context(), host, sleeper("agent")), l.StartServices(t.Context(), host, "")); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(labProcesses(t, name)); n < 6 {
		t.Fatalf("the lab has %d processes, want 6 at least", n)
	}
	if err := syscall.Kill(supervisorOf(t, name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no process of the lab is left", func() bool { return len(labProcesses(t, name)) == 0 })
	if _, err := l.Status(t.Context()); !errors.Is(err, lab.ErrNotFound) {
		t.Errorf("status: got %v, want ErrNotFound", err)
	}

	// What is left is a directory, and it is in nobody's way.
	again := start(t, lab.Config{Name: name, Detached: true})
	wantReach(t, again, jhoster, gold1, true)
	if err := syscall.Kill(supervisorOf(t, name), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no process of the lab is left", func() bool { return len(labProcesses(t, name)) == 0 })
	if err := lab.Down(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if left := leftovers(t, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestTiedLabEndsWithItsStarter(t *testing.T) {
	name := labName(t)
	starter := exec.Command(os.Args[0], "start", name)
	if err := start(t, lab.Config{Name: name}).Close(); err != nil { // it can
		t.Fatal(err)
	}
	out, err := starter.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	if n, err := out.Read(make([]byte, 16)); err != nil || n == 0 {
		t.Fatalf("wait for the lab: %v", err)
	}
	l, err := lab.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	wantReach(t, l, jhoster, gold1, true)
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := starter.Wait(); !errors.As(err, &exit) {
		t.Fatalf("starter: %v, want it killed", err)
	}
	eventually(t, "nothing of the lab is left", func() bool { return len(leftovers(t, name)) == 0 })
}

func TestSeveralLabs(t *testing.T) {
	one := mustStart(t, lab.Config{Name: labName(t) + "-one", Detached: true})
	two := mustStart(t, lab.Config{Name: labName(t) + "-two", Detached: true})
	if _, err := lab.Start(t.Context(), lab.Config{Name: one.Name()}); !errors.Is(err, lab.ErrExists) {
		t.Errorf("start again: got %v, want ErrExists", err)
	}
	names, err := lab.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*lab.Lab{one, two} {
		if !slices.Contains(names, l.Name()) {
			t.Errorf("%v lacks %s", names, l.Name())
		}
		other, err := lab.Open(l.Name())
		if err != nil {
			t.Fatal(err)
		}
		wantReach(t, other, gold2, jhoster, true)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := one.PowerOff(t.Context(), jhoster); err != nil {
		t.Fatal(err)
	}
	wantReach(t, one, gold2, jhoster, false)
	wantReach(t, two, gold2, jhoster, true)
}

func TestCancelledStartLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	name := labName(t)
	if _, err := lab.Start(ctx, lab.Config{Name: name}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if left := leftovers(t, name); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestStartSaysWhy(t *testing.T) {
	notStage, err := exec.LookPath("true")
	if err != nil {
		t.Skip(err)
	}
	for name, tt := range map[string]struct {
		cfg  lab.Config
		want string
	}{
		"name":           {lab.Config{Name: "../x"}, `make lab "../x": want 1 to 63 letters a-z, digits and dashes, no dash at either end`},
		"underlay":       {lab.Config{Underlay: "ipx"}, `make lab default: underlay "ipx": want ipv6, ipv4 or dual`},
		"mtu":            {lab.Config{MTU: 1000}, `make lab default: MTU 1000: want 1280 to 65535`},
		"host twice":     {lab.Config{Hosts: []lab.HostConfig{{Name: "a", Datacenter: "d"}, {Name: "a", Datacenter: "d"}}}, `make lab default: host a is named twice`},
		"host name":      {lab.Config{Hosts: []lab.HostConfig{{Name: "stranger", Datacenter: "d"}}}, `make host stranger: the name is kept for what is on the underlay but no node`},
		"foreign binary": {lab.Config{Name: labName(t), Binary: notStage}, fmt.Sprintf("start lab %s: supervisor ended: it said nothing; does %s call lab.Stage first in its main?", labName(t), notStage)},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lab.Start(t.Context(), tt.cfg)
			if err == nil {
				t.Fatal("it started")
			}
			if diff := cmp.Diff(tt.want, err.Error()); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// withoutPassed drops from a test's verbose output the tests that passed, so
// that a long one shows what did not.
func withoutPassed(out string) string {
	var kept, test []string
	for line := range strings.Lines(out) {
		switch {
		case strings.HasPrefix(line, "=== RUN") && !strings.Contains(line, "/"):
			kept, test = append(kept, test...), []string{line}
		case strings.HasPrefix(line, "--- PASS"), strings.HasPrefix(line, "--- SKIP"):
			test = nil
		case strings.HasPrefix(strings.TrimSpace(line), "--- PASS"), strings.HasPrefix(line, "=== "):
		default:
			test = append(test, line)
		}
	}
	return strings.Join(append(kept, test...), "")
}

// TestUnprivileged runs this package's tests again as a user without any
// privilege.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: the other tests are this test")
	}
	dir, err := os.MkdirTemp("", "meshvpc-labtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "lab.test") // where anybody can read it
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(path, binary, 0o755)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, "-test.v", "-test.short", "-test.timeout=120s")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as uid 65534: %v\n%s", err, withoutPassed(string(out)))
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, lab.ErrRefused.Error()) {
			t.Skip(strings.TrimSpace(line))
		}
	}
	if !strings.Contains(string(out), "--- PASS: TestPowerCycle") {
		t.Errorf("as uid 65534 the tests did not run:\n%s", out)
	}
}
