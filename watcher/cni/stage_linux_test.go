package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the environment says to this program: that it is the plugin of an agent at
// a socket, and on which node; or that it is in namespaces of its own.
const (
	socketWord = "MESHVPC_CNI_SOCKET"
	nodeWord   = "MESHVPC_CNI_NODE"
	stageWord  = "MESHVPC_CNI_STAGE"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv("CNI_COMMAND") != "":
		os.Exit(run(Config{Socket: os.Getenv(socketWord), Node: nodeOfEnv, Version: "test"}, 10*pause))
	case os.Getenv(stageWord) != "":
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := reexec()
	if err != nil {
		fmt.Fprintln(os.Stderr, "SKIP: no namespaces of our own:", err)
		if os.Getenv("MESHVPC_REQUIRE_NETNS") == "1" {
			os.Exit(1)
		}
	}
	os.Exit(code)
}

func nodeOfEnv() (string, error) {
	if node := os.Getenv(nodeWord); node != "" {
		return node, nil
	}
	return "", fmt.Errorf("read config: %w", fs.ErrNotExist)
}

// reexec returns an error if the namespaces cannot be had.
func reexec() (int, error) {
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), stageWord+"=1")
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		c.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig follows the thread
	if err := c.Start(); err != nil {
		return 0, err
	}
	if err := c.Wait(); c.ProcessState == nil {
		return 0, err
	}
	return c.ProcessState.ExitCode(), nil
}

// prepare keeps what is mounted here from others.
func prepare() error {
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}

// mustContainer is the path of a new network namespace.
func mustContainer(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	done := make(chan error)
	go func() { // the thread ends with the goroutine: it stays in the namespace
		runtime.LockOSThread()
		f, err := os.Create(path)
		if err == nil {
			err = errors.Join(f.Close(), unix.Unshare(unix.CLONE_NEWNET), unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""))
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Error(err)
		}
	})
	return path
}

// mustEnter is a handle in a container's namespace, and its device eth0 there.
func mustEnter(t *testing.T, path string) (*netlink.Handle, netlink.Link) {
	t.Helper()
	ns, err := openNamespace(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	link, err := h.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	return h, link
}
