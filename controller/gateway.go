package controller

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// inTheWay says who has an address of a gateway that is asked for, or its endpoint's
// name, "" if nobody has.
func (v *vpc) inTheWay(g cluster.Gateway) string {
	if e := v.endpoints[cluster.GatewayEndpoint]; g.Mode == cluster.GatewayActive && e != nil && (e.blocked || e.spec.Value != nil && !e.isGateway()) {
		return fmt.Sprintf("gateway %s is not in force: the name of its endpoint, %s, is taken by another: delete that one", g, e.name)
	}
	for _, name := range slices.Sorted(maps.Keys(v.endpoints)) {
		own := v.endpoints[name].own.Value
		if own == nil || v.endpoints[name].isGateway() {
			continue
		}
		for _, p := range g.Addresses.List() {
			if slices.Contains(own.IPs, p.Addr()) {
				return fmt.Sprintf("gateway %s is not in force: endpoint %s has the address %s", g.Addresses, name, p.Addr())
			}
		}
	}
	return ""
}

// isGateway reports whether an endpoint is the one of a gateway of mode active.
func (e *endpoint) isGateway() bool { return e.spec.Value.IsGateway(e.name) }

// bringGateway has the endpoint of a gateway of mode active be there, and no other
// gateway have one. What the operator says of its failover stays.
func (v *vpc) bringGateway(net *cluster.VPCNet, now cluster.Time, p *plan) {
	e := v.endpoints[cluster.GatewayEndpoint]
	if e == nil {
		e = &endpoint{name: cluster.GatewayEndpoint}
		e.spec.Key = cluster.KeyEndpointSpec(v.name, e.name)
	}
	var spec cluster.EndpointSpec
	switch active := net.Gateway.Mode == cluster.GatewayActive && net.Phase == cluster.PhaseActive; {
	case e.blocked, e.spec.Value != nil && !e.isGateway():
		return
	case e.spec.Value != nil:
		spec = *e.spec.Value
		if !active {
			spec.State = cluster.EndpointDeleting
		}
	case !active:
		return
	default:
		spec.Created, spec.State = now, cluster.EndpointActive
		spec.Failover = cluster.Failover{Mode: cluster.ModeVIP, Place: cluster.Place{cluster.SelectAll}}
	}
	if active := spec.State == cluster.EndpointActive; active {
		spec.MAC, spec.IPs = cluster.GatewayMAC(net.VNI, cluster.GatewayActive, netip.Addr{}), nil
		for _, a := range net.Gateway.Addresses.List() {
			spec.IPs = append(spec.IPs, a.Addr())
		}
	}
	if e.spec.Value != nil && e.spec.Value.State == spec.State && slices.Equal(e.spec.Value.IPs, spec.IPs) && e.spec.Value.MAC == spec.MAC {
		return
	}
	u := unit{verb: "keep endpoint " + e.name, object: "of the gateway"}
	store.Put(&u.change, e.spec, &spec)
	p.add(u)
}
