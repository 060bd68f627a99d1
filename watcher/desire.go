package watcher

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// desire turns memory into what the kernel should carry, and says for each VPC
// that cannot be had whole why ("" as name is the whole host).
func (m *memory) desire(me string) (hostops.Desired, map[string]string) {
	d := hostops.Desired{Hold: !m.Left, Remove: m.Remove, Fenced: m.outside(me), KeepFenced: !m.fencesRead}
	reasons := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(m.VPCs)) {
		v := m.VPCs[name]
		if v.Leaving {
			continue
		}
		mine := v.Members[me]
		if v.VNI == 0 || m.Port == 0 || mine == nil {
			reasons[name] = "the records of this VPC have not been read yet"
			continue
		}
		out := hostops.VPC{
			Name: name, VNI: v.VNI, MTU: v.MTU,
			VTEP: netip.PrefixFrom(mine.VTEP, v.Length), Static: v.Static, Places: v.places(mine, me),
			Ports: v.ports(name, me), FloodLimit: v.Flood.Rate(), Gateway: v.gateway(mine),
		}
		out.Tunnels, reasons[name] = m.tunnels(v, mine, me)
		d.VPCs = append(d.VPCs, out)
	}
	return d, reasons
}

// tunnels are the devices that the VPC needs here: one for each pair that has a
// tunnel of its own, as its record says (see cluster.LinkUse), and a shared one
// for each family that other peers are reached by. The preferred of these is
// there in any case if this host shares tunnels at all, so that it is ready
// before its first peer.
func (m *memory) tunnels(v *vpc, mine *cluster.Member, me string) (ts []hostops.Tunnel, reason string) {
	v4, v6 := m.tunnel(m.Underlay.IPv4), m.tunnel(m.Underlay.IPv6)
	var own []hostops.Tunnel
	var strangers, waiting []string
	used := map[*hostops.Tunnel]bool{}
	mixed := map[*hostops.Tunnel]bool{} // not exactly its peers are members of the group
	members := v.inOrder()
	for _, m := range members {
		name, peer := m.name, m.Member
		if name == me {
			continue
		}
		_, remote, ok := mine.LinkTo(peer)
		shared := v6
		if ok && remote.Is4() {
			shared = v4
		}
		if !ok || shared == nil {
			strangers = append(strangers, name)
			continue
		}
		if !used[shared] {
			used[shared] = true
			shared.Peers = make([]hostops.Peer, 0, len(members)) // most often all are
		}
		p := hostops.Peer{Node: name, Underlay: remote, VTEP: peer.VTEP}
		_, open := v.Open[name]
		p2p := !open && (mine.Transport == cluster.P2P || peer.Transport == cluster.P2P)
		link, has := v.Links[name]
		switch {
		case !has && (p2p || v.P2P):
			waiting = append(waiting, name)
		case !has:
			shared.Peers = append(shared.Peers, p)
			if peer.Transport != cluster.Multicast {
				mixed[shared] = true
			}
		default:
			mixed[shared] = mixed[shared] || peer.Transport == cluster.Multicast
			t := *shared
			t.Pair, t.Peers = link.VNI, []hostops.Peer{p}
			t.ReceiveOnly = link.Use == cluster.LinkPreparing || link.Use == cluster.LinkRetiring
			own = append(own, t)
			if p.ReceiveOnly = !t.ReceiveOnly; t.ReceiveOnly || !p2p || link.Use == cluster.LinkRestoring {
				shared.Peers = append(shared.Peers, p)
			}
		}
	}
	slices.Sort(strangers)
	slices.Sort(waiting)
	slices.SortFunc(own, func(a, b hostops.Tunnel) int { return strings.Compare(a.Peers[0].Node, b.Peers[0].Node) })
	switch {
	case len(strangers) > 0:
		reason = "no common address family with " + andMore(strangers)
	case len(waiting) > 0:
		reason = "waiting for the controller to allocate a tunnel to " + andMore(waiting)
	}
	prefer6 := mine.UnderlayIPv6.IsValid()
	for _, c := range []struct {
		t        *hostops.Tunnel
		prefer   bool
		address  *cluster.UnderlayAddress
		overhead int
	}{{v4, !prefer6, m.Underlay.IPv4, cluster.OverheadIPv4}, {v6, prefer6, m.Underlay.IPv6, cluster.OverheadIPv6}} {
		switch {
		case c.t == nil && c.prefer:
			reason = "this host has lost the underlay address that its peers know"
			continue
		case c.t == nil || !c.prefer && !used[c.t]:
			continue
		}
		if need := v.MTU + c.overhead; c.address.MTU < need {
			reason = fmt.Sprintf("MTU %d needs %d + %d = %d bytes on %s, which has %d",
				v.MTU, v.MTU, c.overhead, need, c.address.Device, c.address.MTU)
		}
		if v.Group.IsValid() && v.Group.Is4() == c.t.Local.Is4() {
			c.t.Group, c.t.ToGroup = v.Group, v.ToGroup && !mixed[c.t]
		}
		// What it would learn it would send by, and so would the peers, for ever.
		c.t.ReceiveOnly = len(c.t.Peers) > 0 && !slices.ContainsFunc(c.t.Peers, func(p hostops.Peer) bool { return !p.ReceiveOnly })
		if len(c.t.Peers) > 0 || c.t.Group.IsValid() || c.prefer && mine.Transport != cluster.P2P {
			slices.SortFunc(c.t.Peers, func(a, b hostops.Peer) int { return a.Underlay.Compare(b.Underlay) })
			ts = append(ts, *c.t)
		}
	}
	return append(ts, own...), reason
}

// andMore is the first of names, which are not none, and how many more there
// are.
func andMore(names []string) string {
	if n := len(names); n > 1 {
		return fmt.Sprintf("%s and %d more", names[0], n-1)
	}
	return names[0]
}

func (m *memory) tunnel(a *cluster.UnderlayAddress) *hostops.Tunnel {
	if a == nil {
		return nil
	}
	return &hostops.Tunnel{Local: a.Bind, Device: a.Device, Port: m.Port}
}
