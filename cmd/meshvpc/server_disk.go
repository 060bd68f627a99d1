package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

// explainDisk says what is to be done about a disk that took a server's store away.
func explainDisk(cfg serverConfig, err error) error {
	meanwhile := "changes wait meanwhile, traffic goes on"
	if len(otherEndpoints(cfg)) > 0 {
		meanwhile = "the other servers go on meanwhile"
	}
	mount := mountOf(dataDir(cfg))
	var do string
	switch {
	case errors.Is(err, etcd.ErrFull):
		do = fmt.Sprintf("find what fills it: du -xh %s | sort -h | tail; free some, or move data_dir to a larger disk; then start again: meshvpc server; nothing acknowledged is lost, %s", mount, meanwhile)
	case errors.Is(err, etcd.ErrReadOnly):
		do = fmt.Sprintf("see why: dmesg; then mount it for writing: "+remount+", and start again: meshvpc server; nothing acknowledged is lost, %s", mount, meanwhile)
	default:
		do = "see what it says: dmesg; if it is sound: meshvpc server; if not, put another in its place; " + wayBack(cfg)
	}
	return failed(do, "disk of %s: %w", dataDir(cfg), err)
}

// mountOf is where the file system of a directory begins; the nearest that there is,
// if it is not there.
func mountOf(dir string) string {
	for {
		parent := filepath.Dir(dir)
		var at, above unix.Stat_t
		if parent == dir || unix.Stat(dir, &at) == nil && unix.Stat(parent, &above) == nil && at.Dev != above.Dev {
			return dir
		}
		dir = parent
	}
}
