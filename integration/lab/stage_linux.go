package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Descriptors that a stage inherits.
const (
	fdControl = 3 // to whoever started it
	fdLock    = 4 // the supervisor only: the lab's lock
)

// Stage runs one of the lab's own processes if args, the whole of os.Args, ask
// for it. A program that starts labs calls it first thing in main, before it
// reads flags or starts anything, and exits with exit when handled.
func Stage(args []string) (handled bool, exit int) {
	if len(args) < 2 || args[1] != stageWord {
		return false, 0
	}
	if len(args) > 3 && args[2] == "tamper" {
		return true, tamper(args[3], args[4:])
	}
	err := errors.New("lab stages are started by the lab")
	if len(args) == 4 {
		switch args[2] {
		case "supervisor":
			err = superviseLab()
		case "host":
			err = runHost()
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "meshvpc lab: %v\n", err)
		return true, 1
	}
	return true, 0
}

// control opens the connection that the stage was started with.
func control() (*conn, error) {
	syscall.CloseOnExec(fdControl)
	return connFrom(os.NewFile(fdControl, "control"))
}

// privateMounts makes a mount namespace of our own out of the one inherited,
// with a proc of our own if the kernel allows it (a container may not: all that
// we read there works with the outer one too).
func privateMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w: %w: %s", err, ErrRefused, unprivilegedHint)
	}
	_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	return nil
}

// sysctl writes a setting of the calling thread's network namespace.
func sysctl(name, value string) error {
	if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", name, value, err)
	}
	return nil
}

// quietIPv6 lets addresses be usable at once, and none come from outside.
func quietIPv6() error {
	for _, of := range []string{"all", "default"} {
		for _, setting := range []string{"accept_dad", "accept_ra", "autoconf", "router_solicitations", "disable_ipv6"} {
			err := sysctl("ipv6/conf/"+of+"/"+setting, "0")
			if errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%w: %w: this kernel runs without IPv6; boot it without ipv6.disable=1", err, ErrRefused)
			}
			if err != nil {
				return fmt.Errorf("%w: %w: /proc/sys must be writable; in a container, run it privileged", err, ErrRefused)
			}
		}
	}
	return nil
}
