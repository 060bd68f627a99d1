package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// apply carries out steps, and ends with the first that fails.
func (h serviceHost) apply(ctx context.Context, steps []step, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for _, s := range steps {
		err := h.do(ctx, s)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return notSo(`it goes on by itself; "meshvpc service status" says how far it is`, "%s: not done within %s", s, bound)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(s.String(), doRun+" "), err)
		}
	}
	return nil
}

func (h serviceHost) do(ctx context.Context, s step) error {
	path := h.at(s.Path)
	switch s.Do {
	case doRun:
		_, err := h.run(ctx, s.Command...)
		return err
	case doRemove:
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	case doMkdir:
		return os.MkdirAll(path, s.Mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if s.Do == doLink {
		return os.Symlink(s.Text, path)
	}
	return replaceFile(path, s.Text, s.Mode)
}

// replaceFile gives a file that text and mode; it is never there in part.
func replaceFile(path, text string, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".meshvpc-*")
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
