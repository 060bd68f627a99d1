package hooks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Kind is one of a workload's programs.
type Kind string

// The programs. Each says by its exit code 0 that it is so.
const (
	Start Kind = "start"
	Stop  Kind = "stop"
	Check Kind = "check"
)

// Order is to run one program once.
type Order struct {
	Workload string
	Kind     Kind
	// With are others that have to be there, too.
	With    []Kind
	Timeout time.Duration
	Env     []string // "EP=web1"
}

// Bounds of what is done with a program's output and end.
const (
	mostOutput = 4 << 10                // bytes that are kept
	drainTime  = 200 * time.Millisecond // for output, after a program has ended
)

// Programs are those of a directory.
type Programs struct{ Dir string }

// Run runs a program and waits for its end, the end of its time or of ctx. The error
// says in one line what went wrong, with the end of the program's output; out is all
// that is kept of it.
func (p Programs) Run(ctx context.Context, o Order) (out string, err error) {
	if err := cluster.CheckWorkloadName(o.Workload); err != nil {
		return "", err // it is to be no path
	}
	path, err := p.look(o)
	if err != nil {
		return "", err
	}
	limit, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	// A process that is to end with its parent ends with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	text := &bounded{}
	cmd := exec.CommandContext(limit, path)
	cmd.Dir, cmd.Env, cmd.WaitDelay = "/", environment(o.Env), drainTime
	cmd.Stdout, cmd.Stderr = text, text
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) { // something of it runs on, and holds its output
		err = nil
	}
	switch {
	case ctx.Err() != nil:
		return text.String(), fmt.Errorf("%s: %w", o.Kind, ctx.Err())
	case limit.Err() != nil:
		return text.String(), fmt.Errorf("%s: it took more than %s, and was killed%s", o.Kind, o.Timeout, text.last())
	case err != nil:
		return text.String(), fmt.Errorf("%s: %w%s", o.Kind, err, text.last())
	}
	return text.String(), nil
}

// look finds a program, and sees that nobody else can change it, nor the others.
func (p Programs) look(o Order) (path string, err error) {
	for _, k := range append([]Kind{o.Kind}, o.With...) {
		at, err := trusted(p.Dir, o.Workload, string(k))
		if err != nil {
			return "", fmt.Errorf("workload %s: its %s is not run: %w", o.Workload, k, err)
		}
		if path == "" {
			path = at
		}
	}
	return path, nil
}

// environment is a program's: of the agent's own only what any program needs.
func environment(words []string) []string {
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "LANG"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return append(env, words...)
}

// bounded keeps the end of what is written. It is for one goroutine.
type bounded struct{ b []byte }

func (t *bounded) Write(b []byte) (int, error) {
	t.b = append(t.b, b...)
	if over := len(t.b) - mostOutput; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(b), nil
}

func (t *bounded) String() string { return string(t.b) }

// last is the last line, as the end of a sentence.
func (t *bounded) last() string {
	lines := strings.Split(strings.TrimSpace(string(t.b)), "\n")
	if s := cluster.CleanText(lines[len(lines)-1]); s != "" {
		return ": " + s
	}
	return ""
}
