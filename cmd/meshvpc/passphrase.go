package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"
)

// minPassphrase is how long a passphrase has to be, in bytes.
const minPassphrase = 8

func passphraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "passphrase-file", Usage: "read the passphrase of the CA's key from `FILE`, or - for standard input (default: ask for it)"}
}

// passphrase reads a passphrase from where the flags say, else from the terminal,
// twice if it is a new one.
func (p *program) passphrase(c *cli.Context, isNew bool) ([]byte, error) {
	const hint = "type it on a terminal, or give it by --passphrase-file FILE, - for standard input"
	var text []byte
	var err error
	in, terminal := p.in.(*os.File)
	switch file := c.String("passphrase-file"); {
	case file == "-":
		text, err = io.ReadAll(io.LimitReader(p.in, 1<<16))
	case file != "":
		text, err = os.ReadFile(file)
	case terminal && term.IsTerminal(int(in.Fd())):
		return p.askPassphrase(int(in.Fd()), isNew)
	default:
		return nil, usage(hint, "the passphrase of the CA's key is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	return checkPassphrase(bytes.TrimSuffix(text, []byte("\r")), isNew)
}

func (p *program) askPassphrase(terminal int, isNew bool) ([]byte, error) {
	ask := func(what string) ([]byte, error) {
		fmt.Fprint(p.err, what)
		text, err := term.ReadPassword(terminal)
		fmt.Fprintln(p.err)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read passphrase: %w", err)
		}
		return text, nil
	}
	text, err := ask("passphrase of the CA's key: ")
	if err != nil {
		return nil, err
	}
	if isNew {
		again, err := ask("the same again: ")
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(text, again) {
			return nil, usage("run it again", "the two passphrases differ")
		}
	}
	return checkPassphrase(text, isNew)
}

func checkPassphrase(text []byte, isNew bool) ([]byte, error) {
	switch {
	case len(text) == 0:
		return nil, usage("give one of several words", "the passphrase is empty")
	case isNew && len(text) < minPassphrase:
		return nil, usage("give one of several words", "the passphrase is too short: want %d bytes or more", minPassphrase)
	}
	return text, nil
}
