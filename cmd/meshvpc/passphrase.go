package main

import (
	"bytes"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
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
	switch file := c.String("passphrase-file"); {
	case file == "-":
		text, err = readUntil(c.Done(), func() ([]byte, error) { return io.ReadAll(io.LimitReader(p.in, 1<<16)) })
	case file != "":
		text, err = os.ReadFile(file)
	case p.asks != nil:
		return askPassphrase(p.asks, isNew)
	default:
		return nil, usage(hint, "the passphrase of the CA's key is missing")
	}
	if err != nil {
		return nil, fmt.Errorf("read passphrase: %w", err)
	}
	text, _, _ = bytes.Cut(text, []byte("\n"))
	return checkPassphrase(bytes.TrimSuffix(text, []byte("\r")), isNew)
}

func askPassphrase(terminal asker, isNew bool) ([]byte, error) {
	text, err := terminal.secret("passphrase of the CA's key: ")
	if err != nil {
		return nil, err
	}
	if isNew {
		again, err := terminal.secret("the same again: ")
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
