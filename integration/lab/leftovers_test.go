//go:build linux

package lab_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// leftovers lists what of a lab is still on the machine: processes with its
// mark, its directory, and mounts or pinned namespaces in our own namespace.
func leftovers(t *testing.T, name string) []string {
	t.Helper()
	var left []string
	for _, pid := range labProcesses(t, name) {
		left = append(left, fmt.Sprintf("process %s", pid))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(name)) {
		left = append(left, "a mount")
	}
	for _, dir := range []string{
		filepath.Join(os.TempDir(), fmt.Sprintf("meshvpc-lab-%d", os.Geteuid()), name),
		filepath.Join(os.TempDir(), fmt.Sprintf("meshvpc-lab-%d", os.Geteuid()), name+".lock"),
	} {
		if _, err := os.Lstat(dir); err == nil {
			left = append(left, dir)
		}
	}
	return left
}

// labProcesses lists the processes that carry the lab's mark.
func labProcesses(t *testing.T, name string) []string {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil {
			continue // ended, or not ours to read
		}
		if strings.Contains("\x00"+string(env), "\x00MESHVPC_LAB="+name+"\x00") {
			pids = append(pids, filepath.Base(dir))
		}
	}
	return pids
}
