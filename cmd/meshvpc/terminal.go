package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// asker asks a person.
type asker interface {
	secret(prompt string) ([]byte, error) // without echo
	line(prompt string) (string, error)
}

// terminalOf is the asker of an input that is a terminal; nil of another.
func terminalOf(in io.Reader, out io.Writer) asker {
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return terminal{in: f, out: out}
	}
	return nil
}

type terminal struct {
	in    *os.File
	out   io.Writer
	until <-chan struct{} // closed when nobody waits for an answer any more
}

func (t terminal) secret(prompt string) ([]byte, error) {
	fd := int(t.in.Fd()) // who is left behind asks nothing of a file that may be closed
	before, err := term.GetState(fd)
	if err != nil {
		return nil, fmt.Errorf("read from the terminal: %w", err)
	}
	fmt.Fprint(t.out, prompt)
	text, err := readUntil(t.until, func() ([]byte, error) { return term.ReadPassword(fd) })
	fmt.Fprintln(t.out)
	if errors.Is(err, context.Canceled) {
		return nil, errors.Join(err, term.Restore(fd, before)) // it echoes again
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read from the terminal: %w", err)
	}
	return text, nil
}

// line reads no further than the line's end: what follows is for who asks next.
func (t terminal) line(prompt string) (string, error) {
	fmt.Fprint(t.out, prompt)
	text, err := readUntil(t.until, func() ([]byte, error) { return readLine(t.in) })
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(t.out)
		return "", err
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read from the terminal: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func readLine(in io.Reader) (text []byte, err error) {
	for b := make([]byte, 1); ; {
		n, err := in.Read(b)
		if n != 1 || b[0] == '\n' {
			return text, err
		}
		text = append(text, b[0])
	}
}

// readUntil is what read returns or, as soon as until is closed, context.Canceled:
// what reads a terminal would wait on for a person who has interrupted it. That read
// is left behind, for the program to end with.
func readUntil(until <-chan struct{}, read func() ([]byte, error)) ([]byte, error) {
	type answer struct {
		text []byte
		err  error
	}
	answers := make(chan answer, 1)
	go func() {
		text, err := read()
		answers <- answer{text, err}
	}()
	select {
	case a := <-answers:
		return a.text, a.err
	case <-until:
		return nil, context.Canceled
	}
}
