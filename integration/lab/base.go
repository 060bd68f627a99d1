package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// basePath is the directory that holds a user's labs.
func basePath() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("meshvpc-lab-%d", os.Geteuid()))
}

// openBase returns the base directory if it is there and nobody else's:
// whoever could write there could give commands to the lab.
func openBase() (string, error) {
	path := basePath()
	info, err := os.Lstat(path)
	if err != nil {
		return "", fmt.Errorf("open lab directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || info.Mode().Perm()&0o077 != 0 || !ok || int(st.Uid) != os.Geteuid() {
		return "", fmt.Errorf("open lab directory %s: it is not a directory that only this user can enter; remove it, or set TMPDIR", path)
	}
	return path, nil
}

// makeBase is openBase that makes the directory if need be.
func makeBase() (string, error) {
	if err := os.Mkdir(basePath(), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", fmt.Errorf("make lab directory: %w", err)
	}
	return openBase()
}

// lock holds a lab's name. It lives as long as any process has the file open,
// so a killed lab frees its name.
func lock(name string) (*os.File, error) {
	for {
		base, err := makeBase()
		if err != nil {
			return nil, err
		}
		path := filepath.Join(base, name+".lock")
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			continue // a lab that ended removed the directory in between
		}
		if err != nil {
			return nil, fmt.Errorf("lock lab %s: %w", name, err)
		}
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, fmt.Errorf("lock lab %s: it runs, or is being started: %w", name, ErrExists)
			}
			return nil, fmt.Errorf("lock lab %s: %w", name, err)
		}
		mine, err1 := f.Stat()
		there, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, there) {
			return f, nil
		}
		f.Close() // its last holder removed it: take the new one
	}
}

// unmake removes what is on disk of a lab whose lock the caller holds.
func unmake(base, name string) error {
	if err := os.RemoveAll(filepath.Join(base, name)); err != nil {
		return fmt.Errorf("remove lab %s: %w", name, err)
	}
	if err := os.Remove(filepath.Join(base, name+".lock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove lab %s: %w", name, err)
	}
	_ = os.Remove(base) // other labs may be in it
	return nil
}
