package etcd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func readOnly(fs *unix.Statfs_t) bool { return fs.Flags&unix.ST_RDONLY != 0 }

// allocate gives an empty file its size, and the blocks to it.
func allocate(f *os.File, size int64) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, size)
	for errors.Is(err, unix.EINTR) {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if errors.Is(err, unix.ENOTSUP) {
		return fill(f, size)
	}
	return err
}
