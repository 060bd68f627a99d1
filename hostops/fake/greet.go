package fake

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// greetKey is what a greeting is heard by.
type greetKey struct {
	group netip.Addr
	vni   cluster.VNI
}

// greeter is one host in a group, and whom it has heard.
type greeter struct {
	local netip.Addr
	heard []netip.Addr
}

// Greet implements hostops.Driver.
func (d *Driver) Greet(g hostops.Greeting) ([]netip.Addr, error) {
	h, n := d.host, d.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := h.hasLocal(g.Device, g.Local); err != nil {
		return nil, err
	}
	key := greetKey{g.Group, g.VNI}
	if n.groups == nil {
		n.groups = map[greetKey]map[*Host]*greeter{}
	}
	if n.groups[key] == nil {
		n.groups[key] = map[*Host]*greeter{}
	}
	me := n.groups[key][h]
	if me == nil {
		me = &greeter{}
		n.groups[key][h] = me
	}
	me.local = g.Local
	for other, o := range n.groups[key] {
		if other != h && !n.dumb && !n.cuts[[2]netip.Addr{g.Local, o.local}] && !slices.Contains(o.heard, g.Local) {
			o.heard = append(o.heard, g.Local)
		}
	}
	heard := me.heard
	me.heard = nil
	return heard, nil
}
