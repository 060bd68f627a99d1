package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// agentSlack is how late the kernel may wake the agent for a timer. Go's runtime
// has a thread that wakes every 20 µs while the program does something, and the
// kernel's own slack is 50 µs: what an event costs the agent was one sixth that.
// The unit for systemd sets the same, with which the agent also starts.
const agentSlack = time.Millisecond

// setSlack sets it for all threads of this program. Those that are made later have
// it from the thread that makes them.
func setSlack() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("read own threads: %w", err)
	}
	for _, t := range threads {
		err := os.WriteFile("/proc/"+t.Name()+"/timerslack_ns", fmt.Append(nil, agentSlack.Nanoseconds()), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has ended
			return fmt.Errorf("set timer slack: %w", err)
		}
	}
	return nil
}
