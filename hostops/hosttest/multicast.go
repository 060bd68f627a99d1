package hosttest

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/hostops"
)

// multicast joins a group, floods to it, floods to a list again, moves its
// underlay and leaves the group.
func multicast(t *testing.T, b *bench) {
	for i, group := range Groups() {
		name := []string{"mv4-10000", "mv6-10000"}[i]
		v := func(joined, toGroup bool) hostops.VPC {
			v := MakeVPC(0)
			if joined {
				v.Tunnels[i].Group = group
			}
			v.Tunnels[i].ToGroup = toGroup
			return v
		}
		list := hostops.Addrs(Peer(0, i == 1), Peer(1, i == 1))
		moved := v(true, true)
		moved.Tunnels[i].Device, moved.Tunnels[i].Local = "u1", []netip.Addr{
			netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8:1::1")}[i]
		for _, step := range []struct {
			name  string
			v     hostops.VPC
			group netip.Addr
			flood hostops.AddrSet
		}{
			{"not joined", v(false, false), netip.Addr{}, list},
			{"joined", v(true, false), group, list},
			{"flooding to the group", v(true, true), group, hostops.Addrs(group)},
			{"moved", moved, group, hostops.Addrs(group)},
			{"moved back, fallen back", v(true, false), group, list},
			{"moved again", moved, group, hostops.Addrs(group)},
			{"moved back, left", v(false, false), netip.Addr{}, list},
			{"left", v(false, false), netip.Addr{}, list},
			{"flooding to the group at once", v(true, true), group, hostops.Addrs(group)},
			{"left at once", v(false, false), netip.Addr{}, list},
			{"gone", hostops.VPC{}, netip.Addr{}, nil},
			{"new", v(true, true), group, hostops.Addrs(group)},
			{"gone again", hostops.VPC{}, netip.Addr{}, nil},
			{"new with a list", v(true, false), group, list},
		} {
			vpcs := []hostops.VPC{step.v}
			if step.flood == nil {
				vpcs = nil
			}
			if n := b.converge(vpcs...); n != 0 {
				t.Errorf("%s: %d repairs", step.name, n)
			}
			d := b.state().Devices[name]
			if diff := cmp.Diff(step.flood, d.Flood, values()); diff != "" || d.Group != step.group || d.Up != (step.flood != nil) {
				t.Errorf("%s: group %s, up %v, flood list (-want +got):\n%s", step.name, d.Group, d.Up, diff)
			}
		}
		b.settle()
		must(t, b.kernel.AddPeer(name, Peer(7, i == 1)))
		b.changed("peer added")
		if n := b.converge(v(true, false)); n != 1 {
			t.Errorf("a peer that was added by hand counts as %d repairs", n)
		}
	}
}
