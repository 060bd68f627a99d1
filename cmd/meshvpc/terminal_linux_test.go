package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

// newTerminal makes a terminal: what is typed, and what programs read.
func newTerminal(t *testing.T) (typed, read *os.File) {
	t.Helper()
	typed, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { typed.Close() })
	n, err := unix.IoctlGetInt(int(typed.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(typed.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if read, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { read.Close() })
	return typed, read
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return state.Lflag&unix.ECHO != 0
}

// TestInterruptedPrompt: a person who is asked and types control-C instead has the
// program end, and a terminal that echoes.
func TestInterruptedPrompt(t *testing.T) {
	for name, ask := range map[string]func(terminal) error{
		"secret": func(a terminal) error { _, err := a.secret("password: "); return err },
		"line":   func(a terminal) error { _, err := a.line("yes or no: "); return err },
	} {
		t.Run(name, func(t *testing.T) {
			_, read := newTerminal(t)
			ctx, cancel := context.WithCancel(t.Context())
			asked := make(chan error, 1)
			go func() { asked <- ask(terminal{in: read, out: io.Discard, until: ctx.Done()}) }()
			for name == "secret" && echoes(t, read) { // until it reads
				runtime.Gosched()
			}
			cancel()
			select {
			case err := <-asked:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("asked: %v; want %v", err, context.Canceled)
				}
			case <-time.After(time.Minute):
				t.Fatal("it asks on")
			}
			if !echoes(t, read) {
				t.Error("the terminal does not echo any more")
			}
		})
	}
}

func TestPrompt(t *testing.T) {
	typed, read := newTerminal(t)
	var out bytes.Buffer
	a := terminal{in: read, out: &out}
	if _, err := typed.WriteString("yes\nhorse\n"); err != nil {
		t.Fatal(err)
	}
	line, err := a.line("yes or no: ")
	if err != nil || line != "yes" {
		t.Errorf("line: %q, %v", line, err)
	}
	secret, err := a.secret("password: ")
	if err != nil || string(secret) != "horse" {
		t.Errorf("secret: %q, %v", secret, err)
	}
	if got, want := out.String(), "yes or no: password: \n"; got != want {
		t.Errorf("prompts: %q, want %q", got, want)
	}
}

// TestInterruptedConfirmation: so does one who is asked to confirm.
func TestInterruptedConfirmation(t *testing.T) {
	in, typed := io.Pipe()
	defer typed.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var words bytes.Buffer
	p := newProgram(in, io.Discard, &words)
	c := cli.NewContext(nil, flag.NewFlagSet("", flag.ContinueOnError), &cli.Context{Context: ctx})
	if err := p.confirm(c, "node", "gold-hoster-01"); !errors.Is(err, context.Canceled) {
		t.Errorf("confirm: %v; want %v", err, context.Canceled)
	}
}
