package cluster

import (
	"fmt"
	"slices"
	"strings"
)

// What stands before the number in names that others give to devices. Regular
// expressions would take every program longer to make at its start than a host
// takes to join a VPC's peer.
var (
	kernelClones = []string{"bridge", "vxlan", "tap", "tun", "epair", "vlan", "lagg", "gif", "gre", "wg", "dummy", "bond", "team", "veth", "ifb", "ipvlan", "macvlan", "br", "eth", "vnet", "lo"}
	ownDevices   = []string{"mv4-", "mv6-", "mp-", "mn-"}
)

// isNumbered reports whether s is one of stems and a number.
func isNumbered(s string, stems []string) bool {
	stem := strings.TrimRight(s, "0123456789")
	return len(stem) < len(s) && slices.Contains(stems, stem)
}

// isWord reports whether s is 1 to most of letters, digits and marks.
func isWord(s string, most int, marks string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && strings.IndexByte(marks, c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= most
}

// CheckNodeName wraps ErrInvalid when s cannot name a node or an endpoint:
// 1 to 63 of a-z, 0-9 and "-", neither first nor last a "-".
func CheckNodeName(s string) error {
	if len(s) > 63 || !isLabel(s) || s[0] == '-' || s[len(s)-1] == '-' {
		return fmt.Errorf("%w node name %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", ErrInvalid, CleanText(s))
	}
	return nil
}

// isLabel reports whether s is one or more of a-z, 0-9 and "-". Names stand in
// every key, so this is no regular expression.
func isLabel(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return s != ""
}

// CheckVPCName wraps ErrInvalid when s cannot name a VPC. The name is that of
// the bridge on every host, so it is held to 15 bytes (IFNAMSIZ-1) and may not
// be one that a kernel or meshvpc gives to devices.
func CheckVPCName(s string) error {
	switch {
	case len(s) > 15 || !isLabel(s) || s[0] < 'a':
		return fmt.Errorf("%w VPC name %q: want 1 to 15 of a-z, 0-9 and -, beginning with a letter", ErrInvalid, CleanText(s))
	case strings.HasPrefix(s, "vpc-"), s == "all", s == "default", s == "lo", isNumbered(s, ownDevices):
		return fmt.Errorf("%w VPC name %q: it is reserved", ErrInvalid, CleanText(s))
	case isNumbered(s, kernelClones):
		return fmt.Errorf("%w VPC name %q: kernels give such names to devices", ErrInvalid, CleanText(s))
	}
	return nil
}
