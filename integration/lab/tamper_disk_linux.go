package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// tamperDisk does what Lab.Tamper says of directories.
func tamperDisk(verb string, args []string) error {
	dir, mib := args[0], 0
	if len(args) > 1 {
		var err error
		if mib, err = strconv.Atoi(args[1]); err != nil {
			return err
		}
	}
	switch verb {
	case "disk-small":
		return smallDisk(dir, mib)
	case "disk-fill":
		return fillDisk(dir, uint64(mib)<<20)
	case "disk-unfill":
		return os.Remove(filler(dir))
	case "disk-readonly":
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	case "disk-writable":
		return unix.Unmount(dir, unix.MNT_DETACH)
	}
	return fmt.Errorf("unknown verb %q", verb)
}

// smallDisk has the directory on a disk of so many MiB.
func smallDisk(dir string, mib int) error {
	old, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = old.Close() }() // it was only read
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("mode=700,size=%dm", mib)); err != nil {
		return err
	}
	return os.CopyFS(dir, old.FS())
}

func filler(dir string) string { return filepath.Join(dir, "filler") }

// fillDisk leaves so many bytes free.
func fillDisk(dir string, leave uint64) error {
	f, err := os.OpenFile(filler(dir), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		var s unix.Statfs_t
		if err := unix.Statfs(dir, &s); err != nil {
			return err
		}
		free := s.Bavail * uint64(s.Bsize)
		if free <= leave {
			return nil
		}
		if _, err := f.Write(make([]byte, min(free-leave, 1<<20))); err != nil && !errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
}
