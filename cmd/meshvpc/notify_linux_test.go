package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAgentNotifies: an agent that reaches no store is ready after its first
// pass, and says so when it ends; a reboot without a control plane goes on.
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
	if err := agent.Start(); err != nil {
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
