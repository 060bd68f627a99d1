package controller

import (
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
)

// surplus says why an endpoint gets nothing: its VPC has as many VIPs as it may have.
// Those that have something keep it, and the first by name come first.
func (v *vpc) surplus(e *endpoint) string {
	if !e.isVIP() || e.given() {
		return ""
	}
	n := 0
	for name, o := range v.endpoints {
		if o.isVIP() && (o.given() || name < e.name) {
			n++
		}
	}
	if n < cluster.MaxVIPs {
		return ""
	}
	return fmt.Sprintf("the VPC has %d VIPs, as many as it can have: each is a port on all hosts at its places; delete one", cluster.MaxVIPs)
}

// isVIP reports whether hosts are to serve an endpoint themselves.
func (e *endpoint) isVIP() bool {
	s := e.spec.Value
	return s != nil && s.State == cluster.EndpointActive && s.Failover.Mode == cluster.ModeVIP
}

// given reports whether an endpoint has had its MAC.
func (e *endpoint) given() bool { return e.own.Value != nil && e.own.Value.MAC.Unicast() }
