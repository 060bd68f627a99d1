package linux

import (
	"fmt"
	"sync/atomic"

	"github.com/google/nftables"

	"github.com/meshvpc/meshvpc/cluster"
)

// Tunnel is a vxlan device of this host.
type Tunnel struct {
	Name string
	VNI  cluster.VNI
	Port uint16 // UDP
	Ours bool   // it carries our mark
}

// Tunnels lists the vxlan devices in this process's network namespace, also
// while another process drives the host.
func Tunnels() ([]Tunnel, error) {
	var requests atomic.Uint64
	c, err := dial(make([]byte, readSize), &requests)
	if err != nil {
		return nil, fmt.Errorf("list tunnels: %w", err)
	}
	defer c.close()
	ds, err := readLinks(c)
	if err != nil {
		return nil, err
	}
	var list []Tunnel
	for _, d := range ds {
		if d.kind == "vxlan" {
			_, ours := d.ours()
			list = append(list, Tunnel{d.name, d.vni, d.port, ours})
		}
	}
	return list, nil
}

// ForwardDrops names the chain of IPv4's packet filter, "table chain", that
// drops what it is to forward and no rule accepts; "" if there is none. Rules
// of the old iptables do not show.
func ForwardDrops() (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Hooknum != nil && *ch.Hooknum == *nftables.ChainHookForward && ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			return ch.Table.Name + " " + ch.Name, nil
		}
	}
	return "", nil
}
