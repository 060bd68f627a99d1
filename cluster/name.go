package cluster

import (
	"fmt"
	"regexp"
	"strings"
)

var (
	nodeName    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	vpcName     = regexp.MustCompile(`^[a-z][a-z0-9-]{0,14}$`)
	kernelClone = regexp.MustCompile(`^(bridge|vxlan|tap|tun|epair|vlan|lagg|gif|gre|wg|dummy|bond|team|veth|ifb|ipvlan|macvlan|br|eth|vnet|lo)[0-9]+$`)
	ownDevice   = regexp.MustCompile(`^(mv4|mv6|mp|mn)-[0-9]+$`)
)

// CheckNodeName wraps ErrInvalid when s cannot name a node or an endpoint:
// 1 to 63 of a-z, 0-9 and "-", neither first nor last a "-".
func CheckNodeName(s string) error {
	if !nodeName.MatchString(s) {
		return fmt.Errorf("%w node name %q: want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", ErrInvalid, CleanText(s))
	}
	return nil
}

// CheckVPCName wraps ErrInvalid when s cannot name a VPC. The name is that of
// the bridge on every host, so it is held to 15 bytes (IFNAMSIZ-1) and may not
// be one that a kernel or meshvpc gives to devices.
func CheckVPCName(s string) error {
	switch {
	case !vpcName.MatchString(s):
		return fmt.Errorf("%w VPC name %q: want 1 to 15 of a-z, 0-9 and -, beginning with a letter", ErrInvalid, CleanText(s))
	case strings.HasPrefix(s, "vpc-"), s == "all", s == "default", s == "lo", ownDevice.MatchString(s):
		return fmt.Errorf("%w VPC name %q: it is reserved", ErrInvalid, CleanText(s))
	case kernelClone.MatchString(s):
		return fmt.Errorf("%w VPC name %q: kernels give such names to devices", ErrInvalid, CleanText(s))
	}
	return nil
}
