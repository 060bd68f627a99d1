package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// Command is a program to run in a host's namespaces.
type Command struct {
	Host     string
	Workload string   // also in this workload's network namespace, or any other of the host's /run/netns
	Argv     []string // program and arguments; "meshvpc" is the lab's binary
	// Env is the environment, to which the host's MESHVPC_* variables are
	// added; nil is this process's.
	Env []string
	Dir string // "" is this process's, or / where the host has no such directory
	// An *os.File is handed over as it is; anything else is copied. nil is
	// /dev/null.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Signals received here are delivered to the program's process group.
	Signals <-chan os.Signal
}

// execBody is a Command on the wire.
type execBody struct {
	Workload string   `json:"workload,omitempty"`
	Argv     []string `json:"argv"`
	Env      []string `json:"env"`
	Dir      string   `json:"dir"`
}

// execGrace is how long output that the program left behind in a pipe is
// waited for: a daemon that it started may hold the pipe for ever.
const execGrace = 2 * time.Second

// Exec runs a command and returns its exit code, 128+n if signal n ended it.
// When ctx ends the command is killed with all of its session's first process
// group, and ctx's error returned.
func (l *Lab) Exec(ctx context.Context, cmd Command) (int, error) {
	if len(cmd.Argv) == 0 {
		return -1, fmt.Errorf("run on %s: no command given", cmd.Host)
	}
	body := execBody{Workload: cmd.Workload, Argv: cmd.Argv, Env: cmd.Env, Dir: cmd.Dir}
	if body.Env == nil {
		body.Env = os.Environ()
	}
	if body.Dir == "" {
		body.Dir, _ = os.Getwd() // unknown is /, as documented
	}
	p := &plumbing{}
	defer p.close()
	files, err := p.connect(cmd)
	if err != nil {
		return -1, fmt.Errorf("run %s on %s: %w", cmd.Argv[0], cmd.Host, err)
	}
	c, err := l.open(opExec, cmd.Host, body, files...)
	closeAll(p.theirs)
	p.theirs = nil
	if err != nil {
		return -1, err
	}
	defer c.Close()

	over := make(chan struct{})
	var relay sync.WaitGroup
	relay.Go(func() { forward(ctx, c, cmd.Signals, over) })
	code := -1
	err = finish(context.WithoutCancel(ctx), c, &code)
	close(over)
	relay.Wait()
	p.drain()
	if ctx.Err() != nil {
		return -1, fmt.Errorf("run %s on %s: %w", cmd.Argv[0], cmd.Host, ctx.Err())
	}
	return code, err
}

// forward sends signals to the command until it is over; the end of ctx is a
// SIGKILL.
func forward(ctx context.Context, c *conn, signals <-chan os.Signal, over <-chan struct{}) {
	for {
		signal := syscall.SIGKILL
		select {
		case <-over:
			return
		case <-ctx.Done():
		case s, ok := <-signals:
			if !ok {
				signals = nil
				continue
			}
			n, ok := s.(syscall.Signal)
			if !ok {
				continue
			}
			signal = n
		}
		body, err := json.Marshal(int(signal))
		if err != nil || c.send(message{Op: opSignal, Body: body}) != nil || ctx.Err() != nil {
			return // the answer, or the end of the connection, comes by itself
		}
	}
}

// plumbing copies between a command's pipes and what the caller gave.
type plumbing struct {
	theirs []*os.File // our copies of the ends that the command gets
	input  *os.File   // end of the stdin pipe that we write
	output []*os.File // ends of the output pipes that we read
	copies sync.WaitGroup
}

// connect returns stdin, stdout and stderr for the command.
func (p *plumbing) connect(cmd Command) ([]*os.File, error) {
	in, err := p.reader(cmd.Stdin)
	if err != nil {
		return nil, err
	}
	out, err := p.writer(cmd.Stdout)
	if err != nil {
		return nil, err
	}
	if sameWriter(cmd.Stdout, cmd.Stderr) {
		return []*os.File{in, out, out}, nil
	}
	errOut, err := p.writer(cmd.Stderr)
	return []*os.File{in, out, errOut}, err
}

// sameWriter tells whether two writers are one, which must not be written from
// two goroutines.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() { _ = recover() }() // types that cannot be compared are not the same
	return a != nil && a == b
}

func (p *plumbing) reader(r io.Reader) (*os.File, error) {
	if f, ok := r.(*os.File); ok {
		return f, nil
	}
	if r == nil {
		return p.null(os.O_RDONLY)
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.theirs = append(p.theirs, theirs)
	p.input = ours
	p.copies.Go(func() {
		_, _ = io.Copy(ours, r) // a command need not read all of its input
		ours.Close()
	})
	return theirs, nil
}

func (p *plumbing) writer(w io.Writer) (*os.File, error) {
	if f, ok := w.(*os.File); ok {
		return f, nil
	}
	if w == nil {
		return p.null(os.O_WRONLY)
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.theirs = append(p.theirs, theirs)
	p.output = append(p.output, ours)
	p.copies.Go(func() {
		_, _ = io.Copy(w, ours) // the writer's failure is the writer's business, as with a closed pipe
		ours.Close()
	})
	return theirs, nil
}

func (p *plumbing) null(mode int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, mode, 0)
	if err == nil {
		p.theirs = append(p.theirs, f)
	}
	return f, err
}

// drain waits until the output is copied, or execGrace.
func (p *plumbing) drain() {
	deadline := time.Now().Add(execGrace)
	for _, f := range p.output {
		_ = f.SetReadDeadline(deadline) // closed by its goroutine already: nothing to wait for
	}
	if p.input != nil {
		p.input.Close()
	}
	p.copies.Wait()
}

func (p *plumbing) close() {
	closeAll(p.theirs)
	if p.input != nil {
		p.input.Close()
	}
	for _, f := range p.output {
		f.Close()
	}
	p.copies.Wait()
}
