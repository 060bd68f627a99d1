package main

import (
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
		return terminal{f, out}
	}
	return nil
}

type terminal struct {
	in  *os.File
	out io.Writer
}

func (t terminal) secret(prompt string) ([]byte, error) {
	fmt.Fprint(t.out, prompt)
	text, err := term.ReadPassword(int(t.in.Fd()))
	fmt.Fprintln(t.out)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read from the terminal: %w", err)
	}
	return text, nil
}

// line reads no further than the line's end: what follows is for who asks next.
func (t terminal) line(prompt string) (string, error) {
	fmt.Fprint(t.out, prompt)
	var text []byte
	for b := make([]byte, 1); ; {
		n, err := t.in.Read(b)
		if n == 1 && b[0] != '\n' {
			text = append(text, b[0])
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", fmt.Errorf("read from the terminal: %w", err)
		}
		return strings.TrimSpace(string(text)), nil
	}
}
