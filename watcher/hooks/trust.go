package hooks

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// trusted is the path of a program below dir, all of which nobody but root and this
// user can change. It goes down from the root, each directory by the descriptor of the
// one above: so no name is looked up that was not looked at.
func trusted(dir, workload, program string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real // what is there now; each part of it is looked at
	}
	path := filepath.Join(dir, workload, program)
	at, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open /: %w", err)
	}
	defer func() { _ = unix.Close(at) }() // it was read from only
	if err := ours(at, "/", true); err != nil {
		return "", err
	}
	names := strings.Split(strings.TrimPrefix(path, "/"), "/")
	for i, name := range names {
		here := "/" + strings.Join(names[:i+1], "/")
		last := i == len(names)-1
		flags := unix.O_RDONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK
		if !last {
			flags |= unix.O_DIRECTORY
		}
		next, err := unix.Openat(at, name, flags, 0)
		switch {
		case errors.Is(err, unix.ENOENT):
			return "", fmt.Errorf("there is no %s", here)
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EMLINK), !last && errors.Is(err, unix.ENOTDIR):
			return "", fmt.Errorf("%s is a link, or no directory", here)
		case err != nil:
			return "", fmt.Errorf("open %s: %w", here, err)
		}
		_ = unix.Close(at)
		at = next
		if err := ours(at, here, !last); err != nil {
			return "", err
		}
	}
	return path, nil
}

// ours wraps why somebody else could change what is open, or why it is no program.
func ours(fd int, path string, directory bool) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	sticky := directory && st.Mode&unix.S_ISVTX != 0 // others may add to it, and that is all
	switch {
	case st.Uid != 0 && int(st.Uid) != unix.Geteuid():
		return fmt.Errorf("%s belongs to user %d: chown root %s", path, st.Uid, path)
	case st.Mode&0o022 != 0 && !sticky:
		return fmt.Errorf("%s can be written by others: chmod go-w %s", path, path)
	case !directory && st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("%s is no file", path)
	case !directory && st.Mode&0o111 == 0:
		return fmt.Errorf("%s cannot be executed: chmod +x %s", path, path)
	}
	return nil
}
