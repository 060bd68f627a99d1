package etcd

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// What is wrong with the disk of a data directory, compared by errors.Is. What was
// acknowledged is on it; nothing more can be.
var (
	// ErrFull is returned when the disk has no room for what is to be written.
	ErrFull = errors.New("the disk is too full")
	// ErrReadOnly is returned when the disk is mounted read-only.
	ErrReadOnly = errors.New("the disk is read-only")
	// ErrFailing is returned when the disk answers with an I/O error.
	ErrFailing = errors.New("the disk fails")
)

// IsDisk reports whether an error is one of the disk's.
func IsDisk(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrReadOnly) || errors.Is(err, ErrFailing)
}

// diskError gives an error of a write to dir its name, if it is the disk's fault.
func diskError(dir string, err error) error {
	switch {
	case IsDisk(err):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		if s, broken := spaceOf(dir); broken == nil {
			return fmt.Errorf("%w: %d MiB are free, etcd needs %d MiB to start: %w", ErrFull, s.usable>>20, needed(dir)>>20, err)
		}
		return fmt.Errorf("%w: %w", ErrFull, err)
	case errors.Is(err, syscall.EROFS):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case errors.Is(err, syscall.EIO):
		return fmt.Errorf("%w: %w", ErrFailing, err)
	}
	return err
}

// space is what a disk has, in bytes.
type space struct {
	free     uint64 // for everybody
	usable   uint64 // for this process: root may use what is kept from others
	total    uint64
	readOnly bool
}

func spaceOf(dir string) (space, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return space{}, fmt.Errorf("read free space: %w", err)
	}
	// The types of these fields differ between platforms; FreeBSD's Bavail is below
	// zero when only root may write.
	block := uint64(fs.Bsize)
	s := space{free: uint64(max(int64(fs.Bavail), 0)) * block, total: uint64(fs.Blocks) * block, readOnly: readOnly(&fs)}
	s.usable = s.free
	if os.Geteuid() == 0 {
		s.usable = uint64(fs.Bfree) * block
	}
	return s, nil
}

func checkFree(dir string, want uint64) error {
	s, err := spaceOf(dir)
	if err != nil {
		return err
	}
	if s.usable < want {
		return fmt.Errorf("%w: %d MiB are free, etcd needs %d MiB: free some, or move the data directory to a larger disk", ErrFull, s.usable>>20, want>>20)
	}
	return nil
}
