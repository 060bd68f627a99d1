package cluster

import (
	"fmt"
	"net/netip"
	"strings"
)

// Networks are the prefixes that the addresses of a VPC's workloads come from: at
// most one a family. The zero value is none.
type Networks struct{ IPv4, IPv6 netip.Prefix }

// ParseNetworks reads one prefix, or one of each family joined by a comma; "" is
// none. Errors wrap ErrInvalid.
func ParseNetworks(s string) (n Networks, err error) {
	if s == "" {
		return n, nil
	}
	for word := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(word))
		if err != nil {
			return Networks{}, fmt.Errorf("%w network %q: want a prefix like 10.10.11.0/24, or one of each family, like 10.10.11.0/24,fd00:11::/64", ErrInvalid, CleanText(s))
		}
		of := &n.IPv6
		if p.Addr().Is4() {
			of = &n.IPv4
		}
		if of.IsValid() {
			return Networks{}, fmt.Errorf("%w network %s: two prefixes of one family", ErrInvalid, CleanText(s))
		}
		*of = p
	}
	return n, nil
}

// List are the prefixes, IPv4 first.
func (n Networks) List() (list []netip.Prefix) {
	for _, p := range []netip.Prefix{n.IPv4, n.IPv6} {
		if p.IsValid() {
			list = append(list, p)
		}
	}
	return list
}

// Of is the prefix that an address lies in.
func (n Networks) Of(a netip.Addr) (netip.Prefix, bool) {
	for _, p := range n.List() {
		if p.Contains(a) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// Grows reports whether all of o lies in n: nobody who has an address of o loses it.
func (n Networks) Grows(o Networks) bool {
	for _, p := range o.List() {
		if by, ok := n.Of(p.Addr()); !ok || by.Bits() > p.Bits() {
			return false
		}
	}
	return true
}

// String is what ParseNetworks reads.
func (n Networks) String() string {
	var words []string
	for _, p := range n.List() {
		words = append(words, p.String())
	}
	return strings.Join(words, ",")
}

// MarshalText writes n as String does.
func (n Networks) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what ParseNetworks reads.
func (n *Networks) UnmarshalText(b []byte) error {
	v, err := ParseNetworks(string(b))
	if err == nil {
		*n = v
	}
	return err
}

// check is the first rule that a prefix breaks, by itself or beside the peer
// network, if that is a good one.
func (n Networks) check(peer netip.Prefix) error {
	for _, p := range n.List() {
		if err := checkNetwork("network", p); err != nil {
			return err
		}
		if peer.IsValid() && p.Overlaps(peer) {
			return fmt.Errorf("%w peer network %s: it overlaps the VPC's own network %s", ErrInvalid, peer, p)
		}
	}
	return nil
}
