package lab

import (
	"errors"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where namespaces are pinned by name, as ip-netns(8) does it. It
// is the host's own, being on its /run.
const netnsDir = "/run/netns"

// currentNetns opens the calling thread's network namespace.
func currentNetns() (*os.File, error) {
	f, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	return f, nil
}

// inNetns runs f on a thread that is in the named network namespace; "" is the
// host's. A process that f starts and a socket that f opens stay in it.
func (h *host) inNetns(name string, f func() error) error {
	if name == "" {
		return f()
	}
	if err := checkNetnsName(name); err != nil {
		return err
	}
	ns, err := os.Open(filepath.Join(netnsDir, name))
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("enter workload %s of host %s: %w", name, h.cfg.Name, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("enter workload %s: %w", name, err)
	}
	defer ns.Close()
	return h.onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter workload %s: %w", name, err)
		}
		return f()
	})
}

// onThread runs f on a thread that may change its network namespace. A thread
// that does not find back is not used again.
func (h *host) onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := f()
		if back := unix.Setns(int(h.namespace.Fd()), unix.CLONE_NEWNET); back == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// addWorkload makes a namespace, and a veth pair between it and the VPC's
// bridge.
func (h *host) addWorkload(w Workload) (any, error) {
	if err := checkNetnsName(w.Name); err != nil {
		return nil, err
	}
	var bridge netlink.Link
	if w.VPC != "" {
		var err error
		if bridge, err = netlink.LinkByName(w.VPC); err != nil || bridge.Type() != "bridge" {
			return nil, fmt.Errorf("add workload %s: VPC %s is not on host %s: %w", w.Name, w.VPC, h.cfg.Name, ErrNotFound)
		}
	}
	pin := filepath.Join(netnsDir, w.Name)
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("add workload %s to host %s: %w", w.Name, h.cfg.Name, ErrExists)
	}
	if err != nil {
		return nil, fmt.Errorf("add workload %s: %w", w.Name, err)
	}
	f.Close()
	if err := h.makeWorkload(w, pin, bridge); err != nil {
		return nil, errors.Join(fmt.Errorf("add workload %s to host %s: %w", w.Name, h.cfg.Name, err), h.unmakeWorkload(w.Name))
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.workloads = append(h.workloads, w)
	return nil, nil
}

func (h *host) makeWorkload(w Workload, pin string, bridge netlink.Link) error {
	if err := h.makeNetns(pin); err != nil || bridge == nil {
		return err
	}
	return h.plugIn(w, pin, bridge)
}

// makeNetns pins a new network namespace.
func (h *host) makeNetns(pin string) error {
	return h.onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := unix.Mount("/proc/thread-self/ns/net", pin, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin network namespace: %w", err)
		}
		if err := quietIPv6(); err != nil {
			return err
		}
		return up("lo")
	})
}

// plugIn gives a workload a device with its addresses, and the bridge a port.
func (h *host) plugIn(w Workload, pin string, bridge netlink.Link) error {
	ns, err := os.Open(pin)
	if err != nil {
		return err
	}
	defer ns.Close()
	mtu := bridge.Attrs().MTU
	veth := &netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: portName(w.Name), MTU: mtu, TxQLen: -1, MasterIndex: bridge.Attrs().Index},
		PeerName:  WorkloadDevice, PeerNamespace: netlink.NsFd(int(ns.Fd())), PeerTxQLen: -1,
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make device %s: %w", veth.Name, err)
	}
	err = h.inNetns(w.Name, func() error {
		l, err := netlink.LinkByName(WorkloadDevice)
		if err != nil {
			return err
		}
		for _, p := range w.Prefixes {
			if err := addAddress(l.Attrs().Index, p); err != nil {
				return err
			}
		}
		return up(WorkloadDevice)
	})
	if err != nil {
		return err
	}
	if err := up(veth.Name); err != nil {
		return err
	}
	port, err := netlink.LinkByName(veth.Name)
	if err != nil {
		return err
	}
	if err := ready(port.Attrs().Index); err != nil {
		return err
	}
	return h.inNetns(w.Name, func() error {
		l, err := netlink.LinkByName(WorkloadDevice)
		if err != nil {
			return err
		}
		return ready(l.Attrs().Index)
	})
}

func (h *host) removeWorkload(w Workload) (any, error) {
	h.mu.Lock()
	at := slices.IndexFunc(h.workloads, func(x Workload) bool { return x.Name == w.Name })
	if at >= 0 {
		h.workloads = slices.Delete(h.workloads, at, at+1)
	}
	h.mu.Unlock()
	if at < 0 {
		return nil, fmt.Errorf("remove workload %s of host %s: %w", w.Name, h.cfg.Name, ErrNotFound)
	}
	return nil, h.unmakeWorkload(w.Name)
}

func (h *host) unmakeWorkload(name string) error {
	if l, err := netlink.LinkByName(portName(name)); err == nil {
		if err := netlink.LinkDel(l); err != nil {
			return fmt.Errorf("remove device %s: %w", portName(name), err)
		}
	}
	pin := filepath.Join(netnsDir, name)
	_ = unix.Unmount(pin, unix.MNT_DETACH) // not mounted if its making went wrong early
	if err := os.Remove(pin); err != nil {
		return fmt.Errorf("unpin workload %s: %w", name, err)
	}
	return nil
}

// portName is the name of a workload's port on the bridge, at most 15 bytes.
func portName(workload string) string {
	if len(workload) <= 13 {
		return "w-" + workload
	}
	sum := fnv.New32a()
	sum.Write([]byte(workload)) // a hash's Write never fails
	return fmt.Sprintf("w-%08x", sum.Sum32())
}

// checkNetnsName refuses what could leave netnsDir.
func checkNetnsName(name string) error {
	return checkName("workload", name)
}
