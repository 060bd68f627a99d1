package cni

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/cluster"
)

// lookAt looks at a device in the network namespace at a path. Errors wrap
// errNoNamespace, errOwnNamespace or errNoDevice, or the kernel's.
func lookAt(path, device string) (view, error) {
	ns, err := openNamespace(path)
	if err != nil {
		return view{}, err
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return view{}, fmt.Errorf("enter network namespace %s: %w", path, err)
	}
	defer h.Close()
	link, err := h.LinkByName(device)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return view{}, fmt.Errorf("device %s: %w", device, errNoDevice)
	}
	if err != nil {
		return view{}, fmt.Errorf("find device %s in %s: %w", device, path, err)
	}
	return viewOf(h, link)
}

// openNamespace opens a network namespace that is not this process's.
func openNamespace(path string) (netns.NsHandle, error) {
	var at unix.Statfs_t
	ns, err := netns.GetFromPath(path)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return ns, fmt.Errorf("%s: %w", path, errNoNamespace)
	}
	if err != nil {
		return ns, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	// A name whose namespace is not mounted any more is an empty file.
	if err := unix.Fstatfs(int(ns), &at); err != nil || at.Type != unix.NSFS_MAGIC {
		return ns, errors.Join(fmt.Errorf("%s: %w", path, errNoNamespace), ns.Close())
	}
	own, err := netns.Get()
	if err != nil {
		return ns, errors.Join(fmt.Errorf("open own network namespace: %w", err), ns.Close())
	}
	defer own.Close()
	if own.Equal(ns) {
		return ns, errors.Join(fmt.Errorf("%s: %w", path, errOwnNamespace), ns.Close())
	}
	return ns, nil
}

func viewOf(h *netlink.Handle, link netlink.Link) (view, error) {
	at := link.Attrs()
	v := view{up: at.RawFlags&unix.IFF_UP != 0}
	copy(v.mac[:], at.HardwareAddr)
	addrs, err := h.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return v, fmt.Errorf("list addresses of %s: %w", at.Name, err)
	}
	for _, a := range addrs {
		v.addresses = append(v.addresses, toPrefix(*a.IPNet))
	}
	routes, err := h.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		return v, fmt.Errorf("list routes of %s: %w", at.Name, err)
	}
	for _, r := range routes {
		if gw, ok := netip.AddrFromSlice(r.Gw); ok {
			to := cluster.RoutesBy([]netip.Addr{gw.Unmap()}, nil)[0]
			if r.Dst != nil {
				to.To = toPrefix(*r.Dst)
			}
			v.routes = append(v.routes, to)
		}
	}
	return v, nil
}
