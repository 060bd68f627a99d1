package main

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSlack: all threads have the agent's slack, also those made afterwards.
func TestSlack(t *testing.T) {
	if _, err := os.ReadFile("/proc/self/timerslack_ns"); err != nil {
		t.Skipf("this kernel tells no slack of threads: %v", err)
	}
	if err := setSlack(); err != nil {
		t.Skipf("not allowed here: %v", err)
	}
	made := make(chan int)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		made <- unix.Gettid()
		<-made
	}()
	<-made
	defer close(made)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range threads {
		b, err := os.ReadFile("/proc/" + thread.Name() + "/timerslack_ns")
		if err == nil && strings.TrimSpace(string(b)) != "1000000" {
			t.Errorf("thread %s has the slack %s", thread.Name(), b)
		}
	}
}
