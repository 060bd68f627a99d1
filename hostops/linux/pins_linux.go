package linux

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
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

// readPins tracks each namespace that is named as ours. Without full it reads only
// those that have come or gone: the others' own events tell of them, and what else
// has its namespaces in the directory, as containers have, concerns nobody here.
func (d *Driver) readPins(full bool) (changed bool, err error) {
	names, all := d.movedPins()
	if full || all {
		entries, err := os.ReadDir(d.dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false, fmt.Errorf("list namespaces: %w", err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		names = slices.AppendSeq(names, maps.Keys(d.spaces))
	}
	slices.Sort(names)
	var failed []error
	for _, name := range slices.Compact(names) {
		if !strings.HasPrefix(name, hostops.NamespaceOf("")) {
			continue
		}
		there, diff, err := d.track(name, full)
		if err != nil {
			failed = append(failed, err)
		} else if !there && d.spaces[name] != nil {
			d.drop(name)
			diff = true
		}
		changed = changed || diff
	}
	return changed, errors.Join(failed...)
}

// movedPins drains the directory's events: the names that have come or gone. all:
// that may be any of them.
func (d *Driver) movedPins() (names []string, all bool) {
	for !d.pins.closed {
		n, err := unix.Read(d.pins.fd, d.pins.buf)
		if n <= 0 || err != nil {
			break
		}
		for b := d.pins.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			length := unix.SizeofInotifyEvent + int(native32(b[12:]))
			if native32(b[4:])&unix.IN_Q_OVERFLOW != 0 || length > len(b) {
				return nil, true
			}
			names = append(names, cstr(b[unix.SizeofInotifyEvent:length]))
			b = b[length:]
		}
	}
	return names, false
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
