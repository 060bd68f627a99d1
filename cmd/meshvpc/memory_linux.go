package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// releaseText unmaps the pages of this program's file that are mapped at the
// moment; those still in use come back from the page cache by a minor fault.
// Most of what a start touches (the tables of libraries that only the server
// needs, among pages that the kernel mapped around them) is never used again.
func releaseText() error {
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read own memory map: %w", err)
	}
	defer f.Close()
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("read own program: %w", err)
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		start, length, ok := fileMapping(lines.Text(), program)
		if !ok {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED)
		if errno != 0 {
			return fmt.Errorf("release program text: %w", errno)
		}
	}
	return lines.Err()
}

// fileMapping reads a line of /proc/self/maps, and reports whether it is a
// mapping of program that cannot be written: nothing in it can get lost.
func fileMapping(line, program string) (start, length uintptr, ok bool) {
	var from, to uint64
	var mode string
	if n, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); n != 3 || err != nil {
		return 0, 0, false
	}
	if !strings.HasSuffix(line, " "+program) || mode[1] != '-' || to <= from {
		return 0, 0, false
	}
	return uintptr(from), uintptr(to - from), true
}
