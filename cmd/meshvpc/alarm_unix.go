//go:build unix

package main

import (
	"io/fs"
	"syscall"
)

// ownerOf is the user that a file belongs to, -1 if nobody knows.
func ownerOf(info fs.FileInfo) int {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}
