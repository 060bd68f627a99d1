package fake

import (
	"net/netip"
	"slices"
	"syscall"

	"github.com/meshvpc/meshvpc/hostops"
)

func (h *Host) applyNamespace(op hostops.Op) error {
	name := op.On().Object
	switch op := op.(type) {
	case hostops.CreateNamespace:
		n, ok := h.state.Namespaces[name]
		if ok && n.Owner != op.Owner {
			return hostops.ErrForeign
		}
		if !ok {
			h.state.Namespaces[name] = hostops.Namespace{Owner: op.Owner}
		}
	case hostops.SetNamespace:
		n, ok := h.state.Namespaces[name]
		if !ok {
			return syscall.ENOENT
		}
		n.Quiet, n.Filtered = true, true
		h.state.Namespaces[name] = n
	case hostops.DeleteNamespace:
		if n, ok := h.state.Namespaces[name]; ok && n.Owner == 0 {
			return hostops.ErrForeign
		}
		h.deleteNamespace(name)
	case hostops.CreatePort:
		n, ok := h.state.Namespaces[op.Namespace]
		if !ok {
			return syscall.ENOENT
		}
		if h.taken(name) || n.Port != nil {
			return hostops.ErrForeign
		}
		h.state.Devices[name] = hostops.Device{Kind: hostops.KindPort, Owner: op.Owner, MTU: 1500}
		n.Port = &hostops.NamespacePort{Peer: name, MAC: op.MAC, MTU: 1500, Neighbours: h.net.neighbours.NewTable()}
		h.state.Namespaces[op.Namespace] = n
	case hostops.SetPort:
		n, ok := h.state.Namespaces[name]
		if !ok || n.Port == nil {
			return syscall.ENOENT
		}
		p := *n.Port
		p.MTU, p.Up = op.MTU, true
		n.Port = &p
		h.state.Namespaces[name] = n
	case hostops.AddAddress:
		if n, ok := h.state.Namespaces[name]; !ok || n.Port == nil {
			return syscall.ENOENT
		}
		h.address(name, op.Address, true)
	case hostops.RemoveAddress:
		h.address(name, op.Address, false)
	case hostops.SetNeighbour:
		n, ok := h.state.Namespaces[name]
		if !ok || n.Port == nil {
			return syscall.ENOENT
		}
		n.Port.Neighbours.Set(op.Address, op.MAC)
	case hostops.RemoveNeighbour:
		if n, ok := h.state.Namespaces[name]; ok && n.Port != nil {
			n.Port.Neighbours.Delete(op.Address)
		}
	default:
		return h.applyFilter(op)
	}
	return nil
}

func (h *Host) deleteNamespace(name string) {
	n := h.state.Namespaces[name]
	h.forget(n)
	delete(h.state.Namespaces, name)
	if n.Port != nil {
		h.deleteDevice(n.Port.Peer)
	}
}

// forget takes a namespace's addresses out of the network's index.
func (h *Host) forget(n hostops.Namespace) {
	if n.Port == nil {
		return
	}
	for _, a := range n.Port.Addresses {
		h.index(vtep{n.Owner, a.Addr()}, false)
	}
}

func (h *Host) index(v vtep, add bool) {
	hosts := h.net.vteps[v]
	if add {
		if hosts == nil {
			hosts = map[*Host]struct{}{}
			h.net.vteps[v] = hosts
		}
		hosts[h] = struct{}{}
		return
	}
	if delete(hosts, h); len(hosts) == 0 {
		delete(h.net.vteps, v)
	}
}

func (h *Host) address(namespace string, p netip.Prefix, add bool) {
	n, ok := h.state.Namespaces[namespace]
	if !ok || n.Port == nil {
		return
	}
	port := *n.Port
	i := slices.Index(port.Addresses, p)
	port.Addresses = slices.Clone(port.Addresses)
	switch {
	case add && i < 0:
		port.Addresses = append(port.Addresses, p)
	case !add && i >= 0:
		port.Addresses = slices.Delete(port.Addresses, i, i+1)
		if len(port.Addresses) == 0 {
			port.Neighbours = h.net.neighbours.NewTable() // they go with the last address
		}
	}
	n.Port = &port
	h.state.Namespaces[namespace] = n
	h.index(vtep{n.Owner, p.Addr()}, add)
}
