package cni

import (
	"errors"
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
)

// view is a device as it is in a container's namespace.
type view struct {
	up        bool
	mac       cluster.MAC
	addresses []netip.Prefix
	routes    []cluster.Route // those by a gateway
}

// What is not there, or must not be.
var (
	errNoNamespace  = errors.New("no network namespace is there")
	errNoDevice     = errors.New("no such device is in the container's network namespace")
	errOwnNamespace = errors.New("it is the host's own network namespace")
)
