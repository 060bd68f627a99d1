package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAgentWithoutPrivilege: an agent that lacks one capability ends at its
// start and says which.
func TestAgentWithoutPrivilege(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can take a capability from a program that it starts")
	}
	for name, tt := range map[string]struct {
		capability uintptr
		want       string
	}{
		"CAP_NET_RAW":   {unix.CAP_NET_RAW, "start agent: ICMP cannot be used (open ICMP socket: operation not permitted, CAP_NET_RAW is missing): without it no link is known to be up; give the agent CAP_NET_RAW"},
		"CAP_NET_ADMIN": {unix.CAP_NET_ADMIN, "operation not permitted: CAP_NET_ADMIN is missing, run the agent as root"},
		"CAP_SYS_ADMIN": {unix.CAP_SYS_ADMIN, "start agent: missing privilege: a network namespace cannot be made (operation not permitted): run the agent as root, with CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			err := writeConfig(filepath.Join(dir, "agent.yaml"), agentConfig{Node: "a", ID: "id-a", Endpoints: []string{"127.0.0.1:1"}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of an agent that starts after all
			defer cancel()
			agent := exec.CommandContext(ctx, "meshvpc", "agent", "--config", filepath.Join(dir, "agent.yaml"))
			agent.Env = append(os.Environ(), "MESHVPC_STATE_DIR="+dir, "MESHVPC_RUN_DIR="+dir)
			var said bytes.Buffer
			agent.Stderr = &said
			ended, failed := errors.AsType[*exec.ExitError](runWithout(agent, tt.capability))
			if !failed || ended.ExitCode() != exitFailed {
				t.Errorf("the agent ended with %v, want exit %d", ended, exitFailed)
			}
			if line := lastLine(said.String(), "meshvpc: "); !strings.Contains(line, tt.want) {
				t.Errorf("it said\n%s\nwant a line with\n%s", said.String(), tt.want)
			}
		})
	}
}

// lastLine is the last line with that prefix.
func lastLine(text, prefix string) string {
	last := ""
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			last = line
		}
	}
	return last
}

// runWithout runs a command that lacks a capability, in network and mount
// namespaces of its own.
func runWithout(c *exec.Cmd, capability uintptr) error {
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread that can do less ends with the goroutine
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			done <- err
			return
		}
		done <- c.Run()
	}()
	return <-done
}
