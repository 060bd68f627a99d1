package cni

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// check finds out whether a container is attached as ADD said.
func (p *plugin) check(ctx context.Context, c call) error {
	what := fmt.Sprintf("check container %s in VPC %s", c.container, c.VPC)
	if c.previous == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, what+": there is no prevResult", "the runtime has to pass on what ADD returned")
	}
	port, err := p.port(ctx, p.patience, c.attachment())
	if err != nil {
		return explain(what, err)
	}
	why := ""
	switch {
	case port == nil:
		why = "it is not attached"
	case port.State != cluster.PortReady:
		why = fmt.Sprintf("its port is %s: %s", port.State, port.Reason)
	default:
		why = againstResult(c, *port)
	}
	if why == "" {
		v, err := p.look(c.netns, c.device)
		if err != nil {
			why = err.Error()
		} else {
			why = againstView(c, *port, v)
		}
	}
	if why != "" {
		return types.NewError(codeNotSo, what+": "+why, `"meshvpc status" and the agent's log say more; a new ADD puts it right`)
	}
	return nil
}

// againstResult is how the last result differs from what the agent says; "": in
// nothing that is ours.
func againstResult(c call, port local.Attached) string {
	i := slices.IndexFunc(c.previous.Interfaces, func(i *types100.Interface) bool { return i.Name == c.device && i.Sandbox == c.netns })
	if i < 0 {
		return fmt.Sprintf("the result names no device %s in %s", c.device, c.netns)
	}
	if mac := c.previous.Interfaces[i].Mac; mac != port.MAC.String() && !port.Trusted {
		return fmt.Sprintf("the result says MAC %s, the endpoint has %s", mac, port.MAC)
	}
	var told []netip.Prefix
	for _, ip := range c.previous.IPs {
		if ip.Interface != nil && *ip.Interface == i {
			told = append(told, toPrefix(ip.Address))
		}
	}
	for _, a := range port.Addresses {
		if !slices.Contains(told, a) {
			return fmt.Sprintf("the endpoint has %s, which the result does not say", a)
		}
	}
	for _, a := range told {
		if !slices.Contains(port.Addresses, a) && !port.Trusted {
			return fmt.Sprintf("the result says %s, which the endpoint does not have", a)
		}
	}
	return ""
}

// againstView is what the container's namespace lacks; "": nothing.
func againstView(c call, port local.Attached, v view) string {
	if !v.up {
		return fmt.Sprintf("device %s is down", c.device)
	}
	if v.mac != port.MAC && !port.Trusted {
		return fmt.Sprintf("device %s has MAC %s, the endpoint %s", c.device, v.mac, port.MAC)
	}
	for _, a := range port.Addresses {
		if !slices.Contains(v.addresses, a) {
			return fmt.Sprintf("device %s has not the address %s", c.device, a)
		}
	}
	for _, to := range cluster.RoutesBy(port.Gateways, port.Routes) {
		listed := slices.ContainsFunc(c.previous.Routes, func(r *types.Route) bool {
			gw, _ := netip.AddrFromSlice(r.GW)
			return toPrefix(r.Dst) == to.To && gw.Unmap() == to.Via
		})
		switch {
		case !listed || slices.Contains(v.routes, to):
		case to.IsDefault():
			return fmt.Sprintf("there is no default route by %s", to.Via)
		default:
			return fmt.Sprintf("there is no route to %s by %s", to.To, to.Via)
		}
	}
	return ""
}
