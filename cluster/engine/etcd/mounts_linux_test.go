package etcd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// InOwnMounts runs a test once more, in a process with mounts of its own, which end
// with it; that is where it returns true.
func InOwnMounts(t *testing.T) bool {
	t.Helper()
	if HasOwnMounts() {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	again.Env = append(os.Environ(), ownMounts+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if uid := os.Geteuid(); uid != 0 {
		again.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		again.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		again.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	again.Stdout, again.Stderr = t.Output(), t.Output()
	err := again.Start()
	if err != nil && os.Getenv("MESHVPC_REQUIRE_NETNS") == "" {
		t.Skipf("this host gives no mounts of one's own: %v", err)
	}
	if err == nil {
		err = again.Wait()
	}
	if err != nil {
		t.Error(err)
	}
	return false
}

// SmallDisk is a disk of so many MiB.
func SmallDisk(t *testing.T, mib int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+strconv.Itoa(mib)+"m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // or it ends with the process
	return dir
}

// Fill leaves so many MiB free on a disk, until Unfill, also when others write there.
func Fill(t *testing.T, dir string, leave uint64) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		s, err := spaceOf(dir)
		if err != nil {
			t.Fatal(err)
		}
		if s.free <= leave<<20 {
			return
		}
		if _, err := f.Write(make([]byte, min(s.free-leave<<20, 1<<20))); err != nil && !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
}

// Unfill undoes Fill.
func Unfill(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, "filler")); err != nil {
		t.Fatal(err)
	}
}

// ReadOnly has what is opened below dir from now on read-only, as a disk is that the
// kernel has given up, until undone. What is open already can be written.
func ReadOnly(t *testing.T, dir string) (undo func()) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}
}
