package main

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher"
)

// hostAddress is an address of this host that others could reach.
type hostAddress struct {
	device string
	addr   netip.Addr
}

// hostAddresses lists the addresses that others could reach, of devices that
// are up, IPv6 first.
func hostAddresses() ([]hostAddress, error) {
	devices, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	var list []hostAddress
	for _, d := range devices {
		addrs, err := d.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list addresses of %s: %w", d.Name, err)
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok || d.Flags&net.FlagUp == 0 {
				continue
			}
			ip, _ := netip.AddrFromSlice(n.IP)
			if ip = ip.Unmap(); ip.IsGlobalUnicast() {
				list = append(list, hostAddress{d.Name, ip})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b hostAddress) int { return b.addr.BitLen() - a.addr.BitLen() })
	return list, nil
}

// ownAddresses lists all addresses of this host.
func ownAddresses() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list addresses of this host: %w", err)
	}
	var list []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			ip, _ := netip.AddrFromSlice(n.IP)
			list = append(list, ip.Unmap())
		}
	}
	return list, nil
}

// checkUnderlay holds the --underlay words against the addresses of this host
// and returns the address that others reach it at: (bind, advertise).
func checkUnderlay(words []string, have []hostAddress) (bind, advertise netip.Addr, err error) {
	if len(words) > 2 {
		return bind, advertise, usage("want at most one IPv4 and one IPv6 address, or one device", "%d underlays given", len(words))
	}
	if len(words) == 0 {
		if len(have) == 0 {
			return bind, advertise, failed("give this host an address that the others can reach", "find the underlay: this host has no address that others could reach")
		}
		return have[0].addr, have[0].addr, nil
	}
	families := map[bool]string{}
	for _, w := range words {
		spec, err := watcher.ParseUnderlay(w)
		if err != nil {
			return bind, advertise, &refusal{exitUsage, err, ""}
		}
		found := slices.IndexFunc(have, func(a hostAddress) bool {
			return a.addr == spec.Bind || spec.Device != "" && a.device == spec.Device
		})
		if found < 0 {
			return bind, advertise, failed("use one of those", "use underlay %s: this host does not have it; it has %s", w, listAddresses(have))
		}
		if spec.Device == "" {
			if other := families[spec.Bind.Is4()]; other != "" {
				return bind, advertise, usage("want at most one a family", "underlays %s and %s are of one family", other, w)
			}
			families[spec.Bind.Is4()] = w
		}
		a := have[found].addr
		if !bind.IsValid() || a.Is6() && bind.Is4() {
			bind, advertise = a, a
			if spec.Advertise.IsValid() {
				advertise = spec.Advertise
			}
		}
	}
	return bind, advertise, nil
}

func listAddresses(have []hostAddress) string {
	if len(have) == 0 {
		return "none that others could reach"
	}
	words := make([]string, len(have))
	for i, a := range have {
		words[i] = fmt.Sprintf("%s on %s", a.addr, a.device)
	}
	return strings.Join(words, ", ")
}

// chooseName is the node's name: the one given, else the host's name up to its
// first dot.
func chooseName(given string, hostname func() (string, error)) (string, error) {
	if given == "" {
		h, err := hostname()
		if err != nil {
			return "", fmt.Errorf("read host name: %w", err)
		}
		given, _, _ = strings.Cut(strings.ToLower(h), ".")
	}
	if err := cluster.CheckNodeName(given); err != nil {
		return "", &refusal{exitUsage, err, "name this node by --name"}
	}
	return given, nil
}
