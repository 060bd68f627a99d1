package cluster

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Routes are prefixes that a VPC's gateway leads to, as the text that ParseRoutes gives
// back: sorted, joined by commas. "" is none.
type Routes string

// maxRoutes bounds them: each is a route of each workload.
const maxRoutes = 64

// ParseRoutes reads prefixes joined by commas; "" is none. Errors wrap ErrInvalid.
func ParseRoutes(s string) (Routes, error) {
	if s == "" {
		return "", nil
	}
	var list []netip.Prefix
	for word := range strings.SplitSeq(s, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(word))
		if err != nil && strings.Contains(word, " ") {
			return "", fmt.Errorf("%w route %q: it leads to the gateway, which forwards to its own host's uplink only; want a prefix alone, without a next hop", ErrInvalid, CleanText(word))
		}
		if err != nil {
			return "", fmt.Errorf("%w routes %q: want prefixes like 192.168.0.0/16, joined by commas", ErrInvalid, CleanText(s))
		}
		list = append(list, p)
	}
	slices.SortFunc(list, netip.Prefix.Compare)
	return routesOf(list), nil
}

func routesOf(list []netip.Prefix) Routes {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = p.String()
	}
	return Routes(strings.Join(words, ","))
}

// List are the prefixes, sorted; those that cannot be read are left out.
func (r Routes) List() (list []netip.Prefix) {
	if r == "" {
		return nil
	}
	for word := range strings.SplitSeq(string(r), ",") {
		if p, err := netip.ParsePrefix(word); err == nil {
			list = append(list, p)
		}
	}
	return list
}

// Route leads what is for a prefix to a gateway of its family.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// IsDefault reports whether it leads everything of its family.
func (r Route) IsDefault() bool { return r.To.Bits() == 0 }

// RoutesBy are those that a workload has by gateways, at most one a family: to prefixes,
// in order; to everything, if there are none.
func RoutesBy(gateways []netip.Addr, to []netip.Prefix) (list []Route) {
	for _, g := range gateways {
		if len(to) == 0 {
			all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			if g.Is4() {
				all = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			}
			list = append(list, Route{all, g})
		}
		for _, p := range to {
			if p.Addr().Is4() == g.Is4() {
				list = append(list, Route{p, g})
			}
		}
	}
	return list
}

// checkRoutes is the first rule that the routes break, beside the peer network, if that
// is a good one, and the VPC's own.
func (g Gateway) checkRoutes(peer netip.Prefix, own Networks) error {
	switch parsed, err := ParseRoutes(string(g.Routes)); {
	case g.Routes == "":
		return nil
	case err != nil:
		return err
	case parsed != g.Routes:
		return fmt.Errorf("%w routes %q: want %q", ErrInvalid, CleanText(string(g.Routes)), parsed)
	case !g.Exists():
		return fmt.Errorf("%w routes %s: there is no gateway that they could lead to; name its address", ErrInvalid, g.Routes)
	case !g.NAT:
		return fmt.Errorf("%w routes %s: the gateway leads nowhere without NAT; ask for that too, or take the routes out", ErrInvalid, g.Routes)
	}
	list := g.Routes.List()
	if len(list) > maxRoutes {
		return fmt.Errorf("%w routes: %d of them, want %d at most; join some to a shorter prefix", ErrInvalid, len(list), maxRoutes)
	}
	for i, p := range list {
		if err := g.checkRoute(p, peer, own); err != nil {
			return err
		}
		if slices.Contains(list[:i], p) {
			return fmt.Errorf("%w route %s: it is there twice", ErrInvalid, p)
		}
	}
	return nil
}

func (g Gateway) checkRoute(p, peer netip.Prefix, own Networks) error {
	family, has := "IPv6", g.Addresses.IPv6.IsValid()
	if p.Addr().Is4() {
		family, has = "IPv4", g.Addresses.IPv4.IsValid()
	}
	within := func(n netip.Prefix) bool { return n.IsValid() && n.Bits() <= p.Bits() && n.Overlaps(p) }
	switch {
	case p.Addr().Is4In6():
		return fmt.Errorf("%w route %s: want it as an IPv4 prefix", ErrInvalid, p)
	case p != p.Masked():
		return fmt.Errorf("%w route %s: host bits are set; want %s", ErrInvalid, p, p.Masked())
	case !has:
		return fmt.Errorf("%w route %s: the gateway has no %s address that it could lead to; name one too", ErrInvalid, p, family)
	case within(peer):
		return fmt.Errorf("%w route %s: it is in the peer network %s, which the gateway does not lead to", ErrInvalid, p, peer)
	case slices.ContainsFunc(notForVPCs, within):
		return fmt.Errorf("%w route %s: no gateway leads to these addresses", ErrInvalid, p)
	}
	for _, n := range append(own.List(), g.Addresses.List()...) {
		if n = n.Masked(); within(n) {
			return fmt.Errorf("%w route %s: it is in the VPC's network %s, where workloads reach each other without the gateway", ErrInvalid, p, n)
		}
	}
	return nil
}
