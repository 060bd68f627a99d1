//go:build linux

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/integration/lab"
)

// place is a host as this process reaches into it.
type place struct {
	lab.Host
	net  int // descriptor of its network namespace
	root int // descriptor of its root directory
}

// handOver runs in a host and gives its namespace and root to whoever holds
// the other end of standard input.
func handOver() error {
	net, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	root, err := unix.Open("/", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open root: %w", err)
	}
	return unix.Sendmsg(0, []byte{1}, unix.UnixRights(net, root), nil, 0)
}

// reach asks a host for its descriptors.
func reach(ctx context.Context, l *lab.Lab, host lab.Host) (*place, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "hand-over")
	defer theirs.Close()
	defer unix.Close(pair[0])
	code, err := l.Exec(ctx, lab.Command{Host: host.Name, Argv: []string{self, handWord}, Stdin: theirs, Stderr: os.Stderr})
	if err != nil || code != 0 {
		return nil, fmt.Errorf("reach into %s: exit %d: %w", host.Name, code, err)
	}
	oob := make([]byte, unix.CmsgSpace(8))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("reach into %s: %w", host.Name, err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("reach into %s: %d messages: %w", host.Name, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 2 {
		return nil, fmt.Errorf("reach into %s: %d descriptors: %w", host.Name, len(fds), err)
	}
	return &place{Host: host, net: fds[0], root: fds[1]}, nil
}

func (p *place) close() error { return errors.Join(unix.Close(p.net), unix.Close(p.root)) }

// inside runs f on a thread of its own in a network namespace. The thread ends
// with f.
func inside(namespace int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread is not to be used again
		err := unix.Setns(namespace, unix.CLONE_NEWNET)
		if err != nil {
			err = fmt.Errorf("enter network namespace: %w", err)
		} else {
			err = f()
		}
		done <- err
	}()
	return <-done
}
