//go:build !linux

package etcd

import (
	"os"

	"golang.org/x/sys/unix"
)

func readOnly(fs *unix.Statfs_t) bool { return fs.Flags&unix.MNT_RDONLY != 0 }

// allocate gives an empty file its size, and the blocks to it. ZFS promises no blocks.
func allocate(f *os.File, size int64) error { return fill(f, size) }
