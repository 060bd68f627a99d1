package watcher

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// UnderlaySpec is one word of the underlay setting: a device, whose addresses
// are followed, or an address of the host, with what others see in its place
// behind 1:1 NAT. Exactly one of Device and Bind is set.
type UnderlaySpec struct {
	Device    string
	Bind      netip.Addr
	Advertise netip.Addr // zero: the same as Bind
}

// ParseUnderlay reads "DEVICE", "ADDRESS" or "ADDRESS=ADDRESS"; other input
// wraps cluster.ErrInvalid.
func ParseUnderlay(s string) (UnderlaySpec, error) {
	bind, advertise, nat := strings.Cut(s, "=")
	a, err := netip.ParseAddr(bind)
	if err != nil {
		if nat || s == "" || len(s) > 15 || strings.ContainsAny(s, "/: \t%") {
			return UnderlaySpec{}, fmt.Errorf("%w underlay %q: want DEVICE, ADDRESS or ADDRESS=ADDRESS", cluster.ErrInvalid, s)
		}
		return UnderlaySpec{Device: s}, nil
	}
	spec := UnderlaySpec{Bind: a}
	if nat {
		if spec.Advertise, err = netip.ParseAddr(advertise); err != nil || spec.Advertise.Is4() != a.Is4() {
			return UnderlaySpec{}, fmt.Errorf("%w underlay %q: want two addresses of one family", cluster.ErrInvalid, s)
		}
	}
	if !usable(a) || nat && !usable(spec.Advertise) {
		return UnderlaySpec{}, fmt.Errorf("%w underlay %q: it cannot be reached from other hosts", cluster.ErrInvalid, s)
	}
	return spec, nil
}

// usable reports whether peers on other networks could send to a.
func usable(a netip.Addr) bool {
	return a.IsGlobalUnicast() && !a.Is4In6() && a.Zone() == ""
}

// FindUnderlay is the underlay that an agent reports first with these settings,
// on a host with these addresses: see Config.
func FindUnderlay(specs []UnderlaySpec, hint netip.Addr, host []hostops.Address) cluster.Underlay {
	u, _ := chooseUnderlay(specs, hint, host, cluster.Underlay{})
	return u
}

// chooseUnderlay finds the underlay addresses among the host's own. Without
// specs it takes the device that holds hint, the address that this host reaches
// the store from. prior, the last choice, is kept while it is still right, so
// that a second address on the device moves nothing. Families that cannot be
// found are nil, and problems say why.
func chooseUnderlay(specs []UnderlaySpec, hint netip.Addr, host []hostops.Address, prior cluster.Underlay) (cluster.Underlay, []string) {
	var (
		u        cluster.Underlay
		problems []string
	)
	if len(specs) == 0 {
		dev := deviceOf(host, hint)
		if dev == "" {
			dev = firstDevice(host)
		}
		if dev == "" {
			return u, []string{"no address that peers could reach is on this host"}
		}
		specs = []UnderlaySpec{{Device: dev}}
	}
	for _, s := range specs {
		if s.Device != "" {
			on := func(a hostops.Address) bool { return a.Device == s.Device }
			for _, p := range []netip.Addr{bindOf(prior.IPv4), bindOf(prior.IPv6)} {
				take(&u, host, netip.Addr{}, func(a hostops.Address) bool { return on(a) && a.Prefix.Addr() == p })
			}
			found := take(&u, host, netip.Addr{}, on)
			if !found {
				problems = append(problems, fmt.Sprintf("underlay device %s has no address that peers could reach", s.Device))
			}
			continue
		}
		if !take(&u, host, s.Advertise, func(a hostops.Address) bool { return a.Prefix.Addr() == s.Bind }) {
			problems = append(problems, fmt.Sprintf("underlay address %s is not on this host, which has %s", s.Bind, list(host)))
		}
	}
	return u, problems
}

// take fills each family of u that is still empty with the first usable
// address that is wanted, and reports whether there was any.
func take(u *cluster.Underlay, host []hostops.Address, advertise netip.Addr, wanted func(hostops.Address) bool) bool {
	found := false
	for _, a := range host {
		ip := a.Prefix.Addr()
		if !a.Up || !usable(ip) || !wanted(a) {
			continue
		}
		found = true
		slot := &u.IPv6
		if ip.Is4() {
			slot = &u.IPv4
		}
		if *slot != nil {
			continue
		}
		out := ip
		if advertise.IsValid() {
			out = advertise
		}
		*slot = &cluster.UnderlayAddress{Bind: ip, Advertise: out, Device: a.Device, MTU: a.MTU}
	}
	return found
}

// findUnderlay looks for the underlay addresses among the host's own and
// reports whether they changed. What is lost is kept in memory: tunnels stay
// until something better is known.
func (a *Agent) findUnderlay(ctx context.Context) bool {
	addresses, err := a.cfg.Driver.Addresses(ctx)
	if err != nil {
		a.underlay = []string{err.Error()}
		return false
	}
	var hint netip.Addr
	if len(a.cfg.Underlay) == 0 {
		hint = a.cfg.Hint()
	}
	u, problems := chooseUnderlay(a.cfg.Underlay, hint, addresses, a.memory.Underlay)
	a.underlay = problems
	if len(problems) > 0 {
		u = merge(u, a.memory.Underlay)
	}
	if sameUnderlay(u, a.memory.Underlay) {
		return false
	}
	a.log.Info("underlay is", zap.Stringer("address", u))
	a.memory.Underlay = u
	a.out.Moved = true
	return true
}

// merge fills the families that u lacks from old.
func merge(u, old cluster.Underlay) cluster.Underlay {
	if u.IPv4 == nil {
		u.IPv4 = old.IPv4
	}
	if u.IPv6 == nil {
		u.IPv6 = old.IPv6
	}
	return u
}

func sameUnderlay(a, b cluster.Underlay) bool {
	same := func(x, y *cluster.UnderlayAddress) bool {
		return x == y || x != nil && y != nil && *x == *y
	}
	return same(a.IPv4, b.IPv4) && same(a.IPv6, b.IPv6)
}

func bindOf(a *cluster.UnderlayAddress) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	return a.Bind
}

func deviceOf(host []hostops.Address, ip netip.Addr) string {
	for _, a := range host {
		if a.Prefix.Addr() == ip && usable(ip) {
			return a.Device
		}
	}
	return ""
}

func firstDevice(host []hostops.Address) string {
	for _, a := range host {
		if a.Up && usable(a.Prefix.Addr()) {
			return a.Device
		}
	}
	return ""
}

// list names the host's usable addresses, for a message.
func list(host []hostops.Address) string {
	var names []string
	for _, a := range host {
		if usable(a.Prefix.Addr()) {
			names = append(names, a.Prefix.Addr().String()+" on "+a.Device)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
