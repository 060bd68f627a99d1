package fake

import (
	"maps"
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
		n.Quiet, n.Filtered, n.Routing = true, true, op.Routing
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
		if h.taken(name) || portOf(n, op.Inner) != nil {
			return hostops.ErrForeign
		}
		h.state.Devices[name] = hostops.Device{Kind: hostops.KindPort, Owner: op.Owner, Use: op.Use, MTU: 1500}
		p := hostops.NamespacePort{Peer: name, MAC: op.MAC, MTU: 1500, Sourced: hostops.IsVIP(op.Inner)}
		if isVTEP(op.Inner) {
			p.Neighbours = h.net.neighbours.NewTable()
		}
		h.setPortOf(op.Namespace, op.Inner, &p)
	case hostops.SetPort:
		old := portOf(h.state.Namespaces[name], op.Inner)
		if old == nil {
			return syscall.ENOENT
		}
		p := *old
		p.MTU, p.Up, p.Forwards = op.MTU, true, op.Forwards
		h.setPortOf(name, op.Inner, &p)
	case hostops.SetVIP:
		old := portOf(h.state.Namespaces[op.Namespace], op.Inner)
		if old == nil {
			return syscall.ENOENT
		}
		p := *old
		p.MTU, p.Up, p.Forwards, p.Addresses = op.MTU, true, op.Forwards, slices.Clone(op.Addresses)
		h.setPortOf(op.Namespace, op.Inner, &p)
	case hostops.SetUplink:
		return h.set(name, func(d *hostops.Device) {
			d.MTU, d.Addresses, d.Up, d.Quiet, d.Forwards = op.MTU, slices.Clone(op.Addresses), true, true, true
		})
	case hostops.SetDefault:
		old := portOf(h.state.Namespaces[name], op.Inner)
		if old == nil {
			return syscall.ENOENT
		}
		p := *old
		p.Gateways = slices.Clone(op.Gateways)
		h.setPortOf(name, op.Inner, &p)
	case hostops.AddAddress:
		if portOf(h.state.Namespaces[name], op.Inner) == nil {
			return syscall.ENOENT
		}
		h.address(name, op.Inner, op.Address, true)
	case hostops.RemoveAddress:
		h.address(name, op.Inner, op.Address, false)
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
	for _, p := range n.Further {
		h.deleteDevice(p.Peer)
	}
}

func isVTEP(inner string) bool { return inner == "" || inner == hostops.InnerVTEP }

// portOf is one of a namespace's ports, nil if it is not there.
func portOf(n hostops.Namespace, inner string) *hostops.NamespacePort {
	if isVTEP(inner) {
		return n.Port
	}
	return n.Further[inner]
}

// setPortOf replaces one of a namespace's ports; nil removes it.
func (h *Host) setPortOf(namespace, inner string, p *hostops.NamespacePort) {
	n := h.state.Namespaces[namespace]
	switch {
	case isVTEP(inner):
		n.Port = p
	default:
		n.Further = maps.Clone(n.Further)
		if n.Further == nil {
			n.Further = map[string]*hostops.NamespacePort{}
		}
		if n.Further[inner] = p; p == nil {
			delete(n.Further, inner)
		}
	}
	h.state.Namespaces[namespace] = n
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

func (h *Host) address(namespace, inner string, p netip.Prefix, add bool) {
	n := h.state.Namespaces[namespace]
	old := portOf(n, inner)
	if old == nil {
		return
	}
	port := *old
	i := slices.Index(port.Addresses, p)
	port.Addresses = slices.Clone(port.Addresses)
	switch {
	case add && i < 0:
		port.Addresses = append(port.Addresses, p)
	case !add && i >= 0:
		port.Addresses = slices.Delete(port.Addresses, i, i+1)
		if len(port.Addresses) == 0 && isVTEP(inner) {
			port.Neighbours = h.net.neighbours.NewTable() // they go with the last address
		}
	}
	h.setPortOf(namespace, inner, &port)
	if isVTEP(inner) {
		h.index(vtep{n.Owner, p.Addr()}, add)
	}
}
