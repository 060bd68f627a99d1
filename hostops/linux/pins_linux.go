package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// watchPins follows the directory of pinned namespaces and, if anything in it
// may have changed, what is in it.
func (d *Driver) watchPins(full bool) error {
	if d.pins == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return fmt.Errorf("watch %s: %w", d.dir, err)
		}
		_, err = unix.InotifyAddWatch(fd, d.dir, unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO|unix.IN_ONLYDIR)
		if err != nil {
			unix.Close(fd)
			if errors.Is(err, unix.ENOENT) {
				return nil // made with the first namespace
			}
			return fmt.Errorf("watch %s: %w", d.dir, err)
		}
		d.pins = newSource(fd, d.buf)
		follow(&d.wg, &d.mu, d.pins, func() {
			changed, err := d.readPins(false)
			if err != nil {
				d.log.Warn("cannot read namespaces", zap.Error(err))
			}
			if changed || err != nil {
				d.signal()
			}
		})
		full = true
	}
	_, err := d.readPins(full)
	return err
}

// readPins tracks each namespace that is named as ours. Without full it looks
// only if the directory has changed, and then reads only those that are new:
// the others' own events tell of them.
func (d *Driver) readPins(full bool) (changed bool, err error) {
	look := full
	for !d.pins.closed {
		n, err := unix.Read(d.pins.fd, d.pins.buf)
		if n <= 0 || err != nil {
			break
		}
		look = true
	}
	if !look {
		return false, nil
	}
	entries, err := os.ReadDir(d.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, fmt.Errorf("list namespaces: %w", err)
	}
	seen := map[string]bool{}
	var failed []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "vpc-") {
			continue
		}
		there, diff, err := d.track(e.Name(), full)
		if err != nil {
			failed = append(failed, err)
		}
		seen[e.Name()] = there || err != nil
		changed = changed || diff
	}
	for name := range d.spaces {
		if !seen[name] {
			d.drop(name)
			changed = true
		}
	}
	return changed, errors.Join(failed...)
}

// drop forgets a namespace and releases what keeps it alive.
func (d *Driver) drop(name string) {
	if sp := d.spaces[name]; sp != nil {
		sp.close()
		delete(d.spaces, name)
	}
	for _, v6 := range []bool{false, true} {
		key := pingKey{name, v6}
		if p := d.pingers[key]; p != nil {
			p.close()
			delete(d.pingers, key)
		}
	}
}

func (d *Driver) pin(namespace string) string { return filepath.Join(d.dir, namespace) }
