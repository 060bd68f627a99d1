package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAgentNotifies: an agent that reaches no store is ready after its first
// pass, so that a reboot without a control plane goes on, and says when it ends.
// It has the capabilities of its unit, and no others.
func TestAgentNotifies(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give a program that it starts a network namespace of its own")
	}
	dir := t.TempDir()
	err := writeConfig(filepath.Join(dir, "agent.yaml"), agentConfig{Node: "a", ID: "id-a", Endpoints: []string{"127.0.0.1:1"}})
	if err != nil {
		t.Fatal(err)
	}
	socket := shortSocket(t)
	m := startServiceManager(t, socket)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	agent := exec.CommandContext(ctx, "meshvpc", "agent", "--config", filepath.Join(dir, "agent.yaml"))
	agent.Env = append(os.Environ(), "MESHVPC_STATE_DIR="+dir, "MESHVPC_RUN_DIR="+dir, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=100000")
	agent.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if err := startWith(agent, unitCapabilities(t)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"READY=1", "WATCHDOG=1"} {
		if err := m.await(want); err != nil {
			t.Errorf("waiting for %s: %v", want, err)
		}
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := m.await("STOPPING=1"); err != nil {
		t.Errorf("waiting for STOPPING=1: %v", err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("the agent ended with %v", err)
	}
}

// unitCapabilities are those of the agent's unit.
func unitCapabilities(t *testing.T) []uintptr {
	t.Helper()
	known := map[string]uintptr{"CAP_NET_ADMIN": unix.CAP_NET_ADMIN, "CAP_NET_RAW": unix.CAP_NET_RAW,
		"CAP_SYS_ADMIN": unix.CAP_SYS_ADMIN, "CAP_DAC_READ_SEARCH": unix.CAP_DAC_READ_SEARCH}
	_, rest, _ := strings.Cut(mustRead(t, "../../deployments/systemd/meshvpc-agent.service"), "\nCapabilityBoundingSet=")
	line, _, _ := strings.Cut(rest, "\n")
	var list []uintptr
	for _, word := range strings.Fields(line) {
		c, ok := known[word]
		if !ok {
			t.Fatalf("the agent's unit gives it %s, of which this test does not know", word)
		}
		list = append(list, c)
	}
	return list
}

// startWith starts a command that can have no capabilities but these.
func startWith(c *exec.Cmd, capabilities []uintptr) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread that can do less ends with the goroutine
		for i := range uintptr(unix.CAP_LAST_CAP + 1) {
			if slices.Contains(capabilities, i) {
				continue
			}
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, i, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) { // a kernel that does not know it
				done <- err
				return
			}
		}
		done <- c.Start()
	}()
	return <-done
}
