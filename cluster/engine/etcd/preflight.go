package etcd

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// What must be free on the disk of the data directory, in bytes: twice what
// etcd lays out when it starts the first time, or the next segment of its log.
const (
	minFreeNew = 256 << 20
	minFree    = 64 << 20
)

// preflight makes the data directory ready and locks it for this process, so
// that what is wrong is said before etcd fails in its own way (it waits for
// ever for another process, and ends the process on a full disk).
func preflight(dir string) (unlock func(), err error) {
	unlock, err = prepare(dir)
	return unlock, diskError(dir, err)
}

func prepare(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("keep others out: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("is not writable, give it to this user: %w", err)
	}
	unlock = func() { _ = lock.Close() } // nothing was written
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		unlock()
		return nil, fmt.Errorf("%w, stop that first: %w", ErrRunning, err)
	}
	err = checkFree(dir, needed(dir))
	if errors.Is(err, ErrFull) { // the ballast is there for this
		if err = giveUpBallast(dir); err == nil {
			err = checkFree(dir, needed(dir))
		}
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// needed is what must be free: a store that ran here before has laid its log
// out already, and must not be kept from starting by a disk that has filled up
// a little since.
func needed(dir string) uint64 {
	if _, err := os.Stat(filepath.Join(dir, "member")); err == nil {
		return minFree
	}
	return minFreeNew
}

// CheckFree refuses to write size bytes to the disk of a directory where a store
// may lie, and could not grow after that.
func CheckFree(dir string, size uint64) error { return checkFree(dir, size+minFreeNew) }
