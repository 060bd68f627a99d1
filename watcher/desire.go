package watcher

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// desire turns memory into what the kernel should carry, and says for each VPC
// that cannot be had whole why ("" as name is the whole host).
func (m *memory) desire(me string) (hostops.Desired, map[string]string) {
	d := hostops.Desired{Hold: !m.Left, Remove: m.Remove}
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
			VTEP: netip.PrefixFrom(mine.VTEP, v.Length),
		}
		out.Tunnels, reasons[name] = m.tunnels(v, mine, me)
		d.VPCs = append(d.VPCs, out)
	}
	return d, reasons
}

// tunnels are the multipoint devices that the VPC needs here: one for each
// family that a peer is reached by, and the preferred one in any case, so that
// the host is ready before its first peer.
func (m *memory) tunnels(v *vpc, mine *cluster.Member, me string) (ts []hostops.Tunnel, reason string) {
	v4, v6 := m.tunnel(m.Underlay.IPv4), m.tunnel(m.Underlay.IPv6)
	strangers := 0
	for _, name := range slices.Sorted(maps.Keys(v.Members)) {
		if name == me {
			continue
		}
		_, remote, ok := mine.LinkTo(v.Members[name])
		t := v6
		if ok && remote.Is4() {
			t = v4
		}
		if !ok || t == nil {
			strangers++
			reason = "no common address family with " + name
			continue
		}
		t.Peers = append(t.Peers, hostops.Peer{Node: name, Underlay: remote, VTEP: v.Members[name].VTEP})
	}
	if strangers > 1 {
		reason += fmt.Sprintf(" and %d more", strangers-1)
	}
	prefer6 := mine.UnderlayIPv6.IsValid()
	for _, c := range []struct {
		t        *hostops.Tunnel
		keep     bool
		address  *cluster.UnderlayAddress
		overhead int
	}{{v4, !prefer6, m.Underlay.IPv4, cluster.OverheadIPv4}, {v6, prefer6, m.Underlay.IPv6, cluster.OverheadIPv6}} {
		switch {
		case c.t == nil && c.keep:
			reason = "this host has lost the underlay address that its peers know"
		case c.t == nil || !c.keep && len(c.t.Peers) == 0:
		default:
			if need := v.MTU + c.overhead; c.address.MTU < need {
				reason = fmt.Sprintf("MTU %d needs %d + %d = %d bytes on %s, which has %d",
					v.MTU, v.MTU, c.overhead, need, c.address.Device, c.address.MTU)
			}
			slices.SortFunc(c.t.Peers, func(a, b hostops.Peer) int { return a.Underlay.Compare(b.Underlay) })
			ts = append(ts, *c.t)
		}
	}
	return ts, reason
}

func (m *memory) tunnel(a *cluster.UnderlayAddress) *hostops.Tunnel {
	if a == nil {
		return nil
	}
	return &hostops.Tunnel{Local: a.Bind, Device: a.Device, Port: m.Port}
}
