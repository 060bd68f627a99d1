package linux

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops/hosttest"
)

// pinRoom makes a network namespace that is held by its pin alone.
func pinRoom(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			err = unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "none", unix.MS_BIND, "")
		}
		done <- err
	}()
	return <-done
}

func unpinRoom(path string) error {
	return errors.Join(unix.Unmount(path, unix.MNT_DETACH), os.Remove(path))
}

func (k kernel) NewRoom(name string) (string, error) {
	path := filepath.Join(k.rooms, name)
	if old, err := netns.GetFromPath(path); err == nil {
		k.t.Cleanup(func() { old.Close() }) // something else holds it
		if err := unpinRoom(path); err != nil {
			return "", err
		}
	}
	return path, pinRoom(path)
}

func (k kernel) EndRoom(path string) error { return unpinRoom(path) }

// inRoom runs f with a handle in a workload's namespace.
func inRoom(t testing.TB, path string, f func(*netlink.Handle) error) error {
	t.Helper()
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

func (k kernel) AddInRoom(path, name string) error {
	return inRoom(k.t, path, func(h *netlink.Handle) error { return h.LinkAdd(veth(name, 1500)) })
}

func (k kernel) InRoom(path, name string) (in hosttest.Inner, err error) {
	err = inRoom(k.t, path, func(h *netlink.Handle) error {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		a := l.Attrs()
		in = hosttest.Inner{MAC: cluster.MAC(a.HardwareAddr), MTU: a.MTU, Up: a.RawFlags&unix.IFF_UP != 0}
		as, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, a := range as {
			ip, _ := netip.AddrFromSlice(a.IP)
			ones, _ := a.Mask.Size()
			if ip = ip.Unmap(); !ip.IsLinkLocalUnicast() {
				in.Addresses = append(in.Addresses, netip.PrefixFrom(ip, ones))
			}
		}
		for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			rs, err := h.RouteList(l, family)
			if err != nil {
				return err
			}
			for _, r := range rs {
				if ip, ok := netip.AddrFromSlice(r.Gw); ok {
					to := cluster.RoutesBy([]netip.Addr{ip.Unmap()}, nil)[0]
					if r.Dst != nil {
						a, _ := netip.AddrFromSlice(r.Dst.IP)
						ones, _ := r.Dst.Mask.Size()
						to.To = netip.PrefixFrom(a.Unmap(), ones)
					}
					in.Routes = append(in.Routes, to)
				}
			}
		}
		return nil
	})
	return in, err
}

func (k kernel) AddRoute(device string, p netip.Prefix) error {
	a := address(p.Masked())
	return k.nl.RouteAdd(&netlink.Route{LinkIndex: k.link(device).Attrs().Index, Dst: a.IPNet, Scope: netlink.SCOPE_LINK})
}
