package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// What a disk has to offer. A commit waits for a sync of the log, and every
// change waits for a commit.
const (
	leastOfServer = 1 << 30 // bytes free
	leastOfStart  = 64 << 20
	leastOfNode   = 64 << 20
	mostSync      = 50 * time.Millisecond
	syncTries     = 7
	syncBytes     = 4096
)

// lookDisk looks at the disk of the store, or of the agent's cache.
func (t *patient) lookDisk(ctx context.Context) seen {
	if t.agent == nil && t.server == nil {
		return skip("this host is no node")
	}
	dir, stores := t.state, t.server != nil && t.server.External == nil
	if stores {
		dir = t.server.DataDir
		if dir == "" {
			dir = filepath.Join(t.state, "store")
		}
	}
	free, err := freeSpace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return skip("%s is not there yet", dir)
	}
	if err != nil {
		return skip("%v", err)
	}
	d := disk{dir: dir, free: free, server: stores}
	if d.server {
		d.sync, d.err = syncTime(ctx, dir)
	}
	return judgeDisk(d)
}

// disk is what was measured; sync and err are of a server's only.
type disk struct {
	dir    string
	free   uint64 // bytes
	server bool
	sync   time.Duration // median
	err    error
}

func judgeDisk(d disk) (s seen) {
	least, who := uint64(leastOfNode), "the agent keeps its last good state there"
	if d.server {
		least, who = leastOfServer, "a store without space stops"
	}
	switch {
	case d.server && d.free < leastOfStart:
		s.add(gradeProblem, "free some space on the disk of "+d.dir+": du -xh "+mountOf(d.dir)+" | sort -h | tail", "%s free for %s: the server ends as what is left fills up, and starts again with %s", size(d.free), d.dir, size(leastOfStart))
	case d.free < least:
		s.add(gradeSoon, "free some space on the disk of "+d.dir, "%s free for %s, less than %s: %s", size(d.free), d.dir, size(least), who)
	}
	s.good = fmt.Sprintf("%s free for %s", size(d.free), d.dir)
	switch {
	case errors.Is(d.err, fs.ErrPermission):
		s.good += "; run doctor as root to have its speed measured"
	case d.err != nil:
		s.add(gradeProblem, "see that the disk of "+d.dir+" is there, not full and not mounted read-only", "%v", d.err)
	case d.server:
		s.good += fmt.Sprintf(", a sync takes %s", d.sync.Round(100*time.Microsecond))
		if d.sync > mostSync {
			s.add(gradeSoon, "move data_dir to a faster disk (SSD), or take what else writes there off it",
				"a sync of the disk of %s takes %s, more than %s: changes are slow, and leaders are lost", d.dir, d.sync.Round(time.Millisecond), mostSync)
		}
	}
	return s
}

func size(n uint64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

func freeSpace(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("see the space of %s: %w", dir, err)
	}
	return uint64(max(st.Bavail, 0)) * uint64(st.Bsize), nil // FreeBSD: negative when only root may write
}

// syncTime is the median time that a small write and its sync take in dir. The
// file has no name from the start, so that nothing is left behind.
func syncTime(ctx context.Context, dir string) (time.Duration, error) {
	f, err := os.CreateTemp(dir, ".doctor-*")
	if err != nil {
		return 0, fmt.Errorf("measure disk: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return 0, fmt.Errorf("measure disk: %w", err)
	}
	var took []time.Duration
	for range syncTries {
		start := time.Now()
		if _, err := f.Write(make([]byte, syncBytes)); err != nil {
			return 0, fmt.Errorf("measure disk: %w", err)
		}
		if err := f.Sync(); err != nil {
			return 0, fmt.Errorf("measure disk: %w", err)
		}
		took = append(took, time.Since(start))
		if ctx.Err() != nil {
			break
		}
	}
	return median(took), nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
