package linux

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// settings are what makes a namespace quiet, below /proc/sys/net.
func settings() map[string]string {
	s := map[string]string{
		"ipv4/ip_forward":                  "0",
		"ipv4/conf/all/accept_redirects":   "0",
		"ipv6/conf/all/forwarding":         "0",
		"ipv6/conf/all/accept_ra":          "0",
		"ipv6/conf/default/accept_ra":      "0",
		"ipv6/conf/default/accept_dad":     "0",
		"ipv6/conf/default/forwarding":     "0",
		"ipv6/conf/all/accept_redirects":   "0",
		"ipv4/icmp_echo_ignore_broadcasts": "1",

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
func quiet() bool {
	for name, want := range settings() {
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

func makeQuiet() error {
	for name, want := range settings() {
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
