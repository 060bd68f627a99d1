package controller

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// findOwners decides whose each underlay address is: of the nodes that report
// it, and were found there, the one that peers know by it already, else the one
// that reported first. A node that has not reported, or whose new address is
// another's or not confirmed, keeps what peers know it by.
func (w *world) findOwners(c *confirmations) {
	w.confirm, w.owners = c, make(map[netip.Addr]string, len(w.names))
	contested := map[netip.Addr][]string{}
	for _, name := range w.names {
		n := w.nodes[name]
		if n.State == cluster.NodeLeft {
			continue
		}
		for _, a := range w.underlay(name).Advertised() {
			one := c.of(Question{name, n.Key, a})
			if one.held = one.held || w.knownAddresses()[name][a]; !one.held {
				w.open = append(w.open, one)
				continue
			}
			switch first, ok := w.owners[a]; {
			case !ok:
				w.owners[a] = name
			case contested[a] == nil:
				contested[a] = []string{first, name}
			default:
				contested[a] = append(contested[a], name)
			}
		}
	}
	if len(contested)+len(w.open) > 0 {
		w.settleOwners(contested)
	}
	for _, v := range w.vpcs {
		for node, m := range v.members {
			if n := w.nodes[node]; n == nil || n.State == cluster.NodeLeft || n.ID != m.Value.NodeID {
				continue
			}
			for _, a := range [2]netip.Addr{m.Value.UnderlayIPv4, m.Value.UnderlayIPv6} {
				if _, ok := w.owners[a]; !ok && a.IsValid() {
					w.owners[a] = node // nobody reports it
				}
			}
		}
	}
}

// settleOwners decides about addresses that several nodes report, and those of
// nodes that cannot move.
func (w *world) settleOwners(contested map[netip.Addr][]string) {
	known := w.knownAddresses()
	for a, names := range contested {
		w.owners[a] = slices.MinFunc(names, func(x, y string) int {
			return cmp.Compare(w.reports[x].Mod, w.reports[y].Mod)
		})
		if i := slices.IndexFunc(names, func(n string) bool { return known[n][a] }); i >= 0 {
			w.owners[a] = names[i]
		}
	}
	for _, name := range w.names {
		if !w.cannotMove(name) {
			continue
		}
		for a := range known[name] {
			if !known[w.owners[a]][a] {
				w.owners[a] = name
			}
		}
	}
}

// knownAddresses lists, by node, the addresses in its member records.
func (w *world) knownAddresses() map[string]map[netip.Addr]bool {
	if w.known != nil {
		return w.known
	}
	w.known = make(map[string]map[netip.Addr]bool, len(w.names))
	for _, v := range w.vpcs {
		for node, m := range v.members {
			if n := w.nodes[node]; n == nil || n.State == cluster.NodeLeft || n.ID != m.Value.NodeID {
				continue
			}
			if w.known[node] == nil {
				w.known[node] = map[netip.Addr]bool{}
			}
			for _, a := range []netip.Addr{m.Value.UnderlayIPv4, m.Value.UnderlayIPv6} {
				if a.IsValid() {
					w.known[node][a] = true
				}
			}
		}
	}
	return w.known
}

// underlay is what a node reports, the zero Underlay if it has not.
func (w *world) underlay(name string) cluster.Underlay {
	if r, ok := w.reports[name]; ok {
		return r.Value.Underlay
	}
	return cluster.Underlay{}
}

// cannotMove reports whether an address that the node reports is not its own.
func (w *world) cannotMove(name string) bool {
	for _, a := range w.underlay(name).Advertised() {
		if w.owners[a] != name {
			return true
		}
	}
	return false
}

// holds reports whether an address is that of a node that reports it.
func (w *world) holds(a netip.Addr) bool {
	return slices.Contains(w.underlay(w.owners[a]).Advertised(), a)
}

// place is where peers reach a node, and what stands against what it reports.
type place struct {
	v4, v6  netip.Addr
	against string // "192.0.2.1, which it reports, is gold-hoster-01's"
	asked   bool   // whether it is there, and no answer yet
}

func (p place) none() bool { return !p.v4.IsValid() && !p.v6.IsValid() }

// placeOf picks a node's addresses. Old is its member record, nil for none. Of a
// node that is reached in one family, nothing is said of another one that it
// never was reached in.
func (w *world) placeOf(name string, u cluster.Underlay, old *cluster.Member) place {
	if old == nil {
		old = &cluster.Member{}
	}
	var p place
	unconfirmed := ""
	pick := func(a *cluster.UnderlayAddress, was netip.Addr) netip.Addr {
		if a == nil {
			return netip.Addr{}
		}
		owner, one := w.owners[a.Advertise], w.confirm.of(Question{name, w.nodes[name].Key, a.Advertise})
		switch {
		case owner == name:
			return a.Advertise
		case !one.held && one.why == "" && !w.holds(a.Advertise):
			p.asked = true
		case owner != "":
			p.against = fmt.Sprintf("%s, which it reports as its underlay address, is %s's", a.Advertise, owner)
		case was.IsValid():
			p.against = one.against()
		default:
			unconfirmed = one.against()
		}
		return was
	}
	p.v4, p.v6 = pick(u.IPv4, old.UnderlayIPv4), pick(u.IPv6, old.UnderlayIPv6)
	if p.none() {
		p.against = cmp.Or(p.against, unconfirmed)
		p.v4, p.v6 = old.UnderlayIPv4, old.UnderlayIPv6
	}
	return p
}

// cannotCarry says why packets of mtu bytes do not pass through u, "" if they
// do.
func cannotCarry(u cluster.Underlay, mtu int) string {
	check := func(a *cluster.UnderlayAddress, overhead int) string {
		if a == nil || a.MTU >= mtu+overhead {
			return ""
		}
		return fmt.Sprintf("needs %d + %d = %d bytes on %s, which has %d", mtu, overhead, mtu+overhead, cluster.CleanText(a.Device), a.MTU)
	}
	if s := check(u.IPv6, cluster.OverheadIPv6); s != "" {
		return s
	}
	return check(u.IPv4, cluster.OverheadIPv4)
}
