package hostops

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Keep is v with all peers that the host has already, each by the tunnel that it
// is reached by now; of what v wants, what is new is added. It is for a v that
// may be older than what the host carries.
func (s State) Keep(v VPC) VPC {
	if s.Devices[v.Name].Owner != v.VNI {
		return v
	}
	known, wanted := map[netip.Addr]Peer{}, map[string]Tunnel{}
	for _, t := range v.Tunnels {
		wanted[v.nameOf(t)] = t
		for _, p := range t.Peers {
			if old, twice := known[p.Underlay]; !twice || old.ReceiveOnly {
				known[p.Underlay] = p
			}
		}
	}
	var tunnels []Tunnel
	reached, own := Addrs(), Addrs()
	for _, name := range slices.Sorted(maps.Keys(s.Devices)) {
		d := s.Devices[name]
		if d.Kind != KindTunnel || d.Owner != v.VNI {
			continue
		}
		t := Tunnel{Local: d.Local, Device: d.Underlay, Port: d.Port, Group: d.Group}
		if w, ok := wanted[name]; ok {
			t.Local, t.Device, t.Port = w.Local, w.Device, w.Port
		}
		if d.VNI != v.VNI {
			t.Pair, t.ReceiveOnly = d.VNI, d.Silent
		}
		t.ToGroup = d.Flood.Has(d.Group)
		addrs := Addrs(slices.Concat(slices.Collect(s.Filter.Sources[d.VNI].Keys()), slices.Collect(d.Flood.Keys()))...)
		addrs.Delete(d.Group)
		for _, a := range slices.SortedFunc(addrs.Keys(), netip.Addr.Compare) {
			p, ok := known[a]
			if !ok {
				p = Peer{Underlay: a, VTEP: s.vtepBehind(v.Name, d, a)}
			}
			if p.Node == "" {
				p.Node, _ = strings.CutPrefix(d.Alias, "tunnel-to-")
			}
			p.ReceiveOnly = false
			if t.Pair != 0 {
				own.Set(a, struct{}{})
			}
			reached.Set(a, struct{}{})
			t.Peers = append(t.Peers, p)
		}
		tunnels = append(tunnels, t)
	}
	for i, t := range tunnels {
		for j, p := range t.Peers { // one that is in no flood list is sent to by its own tunnel
			sends := s.Devices[v.nameOf(t)].Flood.Has(p.Underlay)
			tunnels[i].Peers[j].ReceiveOnly = t.Pair == 0 && !sends && own.Has(p.Underlay)
		}
	}
	v.Tunnels = s.withNew(v, tunnels, reached)
	return v
}

// withNew adds what v wants and no tunnel has yet.
func (s State) withNew(v VPC, tunnels []Tunnel, reached AddrSet) []Tunnel {
	for _, t := range v.Tunnels {
		t.Peers = slices.DeleteFunc(slices.Clone(t.Peers), func(p Peer) bool { return reached.Has(p.Underlay) })
		i := slices.IndexFunc(tunnels, func(o Tunnel) bool { return v.nameOf(o) == v.nameOf(t) })
		switch {
		case i < 0 && (t.Pair == 0 || len(t.Peers) > 0):
			tunnels = append(tunnels, t)
		case i >= 0 && t.Pair == 0:
			tunnels[i].Peers = append(tunnels[i].Peers, t.Peers...)
			slices.SortFunc(tunnels[i].Peers, func(a, b Peer) int { return a.Underlay.Compare(b.Underlay) })
		}
	}
	return tunnels
}

// vtepBehind is the VTEP that the host was told to be behind a tunnel's peer.
func (s State) vtepBehind(vpc string, d Device, peer netip.Addr) netip.Addr {
	port := s.Namespaces[NamespaceOf(vpc)].Port
	if port == nil {
		return netip.Addr{}
	}
	var found netip.Addr
	for vtep, mac := range port.Neighbours.All() {
		if at, _ := d.FDB.Get(mac); at == peer && mac != (cluster.MAC{}) && (!found.IsValid() || vtep.Less(found)) {
			found = vtep
		}
	}
	return found
}
