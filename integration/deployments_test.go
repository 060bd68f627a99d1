package integration

import (
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/hostops"
)

// TestSnippetsNameOurDevices: what keeps other programs off our devices names
// all of them and nothing else, and the file for udev comes before the files of
// the system, for udev applies the first one that matches.
func TestSnippetsNameOurDevices(t *testing.T) {
	const vni = 16777215
	ours := []string{hostops.TunnelOf(vni, netip.IPv4Unspecified()), hostops.TunnelOf(vni, netip.IPv6Unspecified()), hostops.PortOf(vni), "mp-16777215"}
	for file, line := range map[string]string{
		"udev/10-meshvpc.link":        "OriginalName=",
		"networkd/10-meshvpc.network": "Name=",
		"networkmanager/meshvpc.conf": "unmanaged-devices=",
	} {
		b, err := os.ReadFile(filepath.Join("../deployments", file))
		if err != nil {
			t.Fatal(err)
		}
		var patterns []string
		for l := range strings.Lines(string(b)) {
			if list, ok := strings.CutPrefix(strings.TrimSpace(l), line); ok {
				for _, p := range strings.FieldsFunc(list, func(r rune) bool { return r == ' ' || r == ';' }) {
					patterns = append(patterns, strings.TrimPrefix(p, "interface-name:"))
				}
			}
		}
		matches := func(name string) bool {
			return slices.ContainsFunc(patterns, func(p string) bool {
				ok, err := path.Match(p, name)
				return ok && err == nil
			})
		}
		for _, name := range ours {
			if !matches(name) {
				t.Errorf("%s: no pattern of %q is for %s", file, patterns, name)
			}
		}
		for _, name := range []string{"eth0", "vpc1", "mvx", "mn", "vxlan7", "lo"} {
			if matches(name) {
				t.Errorf("%s: a pattern of %q takes in %s", file, patterns, name)
			}
		}
		if base := filepath.Base(file); strings.HasSuffix(base, ".link") && base >= "70" {
			t.Errorf("%s: the system's files come first", file)
		}
	}
}
