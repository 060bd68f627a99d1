package linux

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/hostops"
)

// settings are what makes a namespace quiet, below /proc/sys/net. IPv4 is forwarded by
// a device's own setting, IPv6 by that of all: what is forwarded is the filter's matter.
func settings(r hostops.Routing) map[string]string {
	forward6 := "0"
	if r.Gateway {
		forward6 = "1"
	}
	s := map[string]string{
		"ipv4/ip_forward":                  "0",
		"ipv4/conf/all/accept_redirects":   "0",
		"ipv6/conf/all/forwarding":         forward6,
		"ipv6/conf/all/accept_ra":          "0",
		"ipv6/conf/default/accept_ra":      "0",
		"ipv6/conf/default/accept_dad":     "0",
		"ipv6/conf/default/forwarding":     "0",
		"ipv6/conf/all/accept_redirects":   "0",
		"ipv4/icmp_echo_ignore_broadcasts": "1",

		// The ports are on one bridge: each answers for its own addresses, and asks by them.
		"ipv4/conf/all/arp_ignore":   "1",
		"ipv4/conf/all/arp_announce": "2",

		// Without it an address takes those along that were put beside it later.
		"ipv4/conf/all/promote_secondaries": "1",
	}
	if _, err := os.Stat("/proc/sys/net/ipv6/conf/" + inner); err == nil {
		s["ipv6/conf/"+inner+"/accept_ra"] = "0"
		s["ipv6/conf/"+inner+"/forwarding"] = "0"
	}
	return s
}

// quiet reads the settings of the calling thread's namespace.
func quiet(r hostops.Routing) bool {
	for name, want := range settings(r) {
		got, err := os.ReadFile(filepath.Join("/proc/sys/net", name))
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil || strings.TrimSpace(string(got)) != want {
			return false
		}
	}
	return true
}

// makeQuiet begins with the settings of all devices, which change those of each.
func makeQuiet(r hostops.Routing) error {
	all := settings(r)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		want := all[name]
		path := filepath.Join("/proc/sys/net", name)
		if got, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(got)) == want {
			continue
		}
		if err := os.WriteFile(path, []byte(want), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// askNobody ends neighbour discovery on the inner end: it is told its peers'
// MACs, and a question for any other address would be a broadcast to all of
// them. Devices take this from the first namespace's defaults, not from their
// own's, so it is set here.
func askNobody() error { return setNeigh(inner, "mcast_solicit", "0") }

// preparePort sets what a port of a namespace does before it is up. It runs there.
func preparePort(name string, forward bool) error {
	if name == inner {
		return askNobody()
	}
	value := "0"
	if forward {
		value = "1"
	}
	if err := os.WriteFile(forwarding(name), []byte(value), 0); err != nil {
		return err
	}
	path := filepath.Join("/proc/sys/net/ipv6/conf", name, "accept_ra")
	if err := os.WriteFile(path, []byte("0"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func forwarding(device string) string {
	return filepath.Join("/proc/sys/net/ipv4/conf", device, "forwarding")
}

// forwards reports whether IPv4 that comes in by a device of the calling thread's
// namespace is forwarded.
func forwards(device string) bool {
	on, err := os.ReadFile(forwarding(device))
	return err == nil && strings.TrimSpace(string(on)) == "1"
}

// setNeigh sets how a device of the calling thread's namespace asks for MACs, in
// both families, as far as the kernel has them.
func setNeigh(device, setting, value string) error {
	for _, family := range []string{"ipv4", "ipv6"} {
		path := filepath.Join("/proc/sys/net", family, "neigh", device, setting)
		if err := os.WriteFile(path, []byte(value), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
