package integration

import (
	"bytes"
	"compress/gzip"
	"fmt"
)

// initrd is a root file system for a kernel to start with: a cpio archive in
// the format "newc" (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst).
type initrd struct{ bytes.Buffer }

// The modes of what is put into an initrd.
const (
	modeDir     = 0o040755
	modeProgram = 0o100755
	modeFile    = 0o100644
)

// put appends a file, or a directory without content.
func (r *initrd) put(name string, mode int, content []byte) {
	// The magic; inode, mode, uid, gid, links, time, size, device (2), special
	// device (2), length of the name with its zero, checksum.
	r.WriteString("070701")
	for _, n := range []int{0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0} {
		fmt.Fprintf(r, "%08X", n)
	}
	r.WriteString(name + "\x00")
	r.align()
	r.Write(content)
	r.align()
}

func (r *initrd) align() {
	for r.Len()%4 != 0 {
		r.WriteByte(0)
	}
}

// pack ends the archive and compresses it.
func (r *initrd) pack() ([]byte, error) {
	r.put("TRAILER!!!", 0, nil)
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(r.Bytes()); err != nil {
		return nil, err
	}
	err = z.Close()
	return out.Bytes(), err
}
