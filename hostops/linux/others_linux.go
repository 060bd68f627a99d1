package linux

import (
	"fmt"
	"sync/atomic"

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
	ds, err := devicesHere()
	if err != nil {
		return nil, fmt.Errorf("list tunnels: %w", err)
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

// devicesHere lists the devices of this process's network namespace.
func devicesHere() (devices, error) {
	var requests atomic.Uint64
	c, err := dial(make([]byte, readSize), &requests)
	if err != nil {
		return nil, err
	}
	defer c.close()
	return readLinks(c)
}
