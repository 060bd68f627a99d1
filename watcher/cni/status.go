package cni

import (
	"context"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/meshvpc/meshvpc/cluster"
)

// pathState is the agent's view of itself, of which standing is what matters here.
const pathState = "/v1/state"

type standing struct {
	Left       bool                         `json:"left"`
	StaleSince cluster.Time                 `json:"stale_since"` // zero: in contact with the store
	StaleError string                       `json:"stale_error"`
	VPCs       map[string]cluster.VPCStatus `json:"vpcs"`
}

// status tells whether a container could be added now.
func (p *plugin) status(ctx context.Context, c call) error {
	var s standing
	if err := p.agent.Get(ctx, pathState, &s); err != nil {
		return types.NewError(types.ErrPluginNotAvailable, err.Error(), `see that the agent runs: "meshvpc service status"`)
	}
	if e := judge(c.VPC, s); e != nil {
		return e
	}
	return nil
}

// judge says why no container can be added to a VPC; nil: one can.
func judge(vpc string, s standing) *types.Error {
	v, here := s.VPCs[vpc]
	switch {
	case s.Left:
		return types.NewError(types.ErrLimitedConnectivity, "this host was removed from the cluster", `"meshvpc cluster join" makes it a node again`)
	case !here:
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("VPC %s is not on this host", vpc),
			fmt.Sprintf("see \"meshvpc vpc show %s\": it has to be there, and this host one of its members", vpc))
	case !v.Ready:
		return types.NewError(types.ErrLimitedConnectivity, fmt.Sprintf("VPC %s is not ready on this host: %s", vpc, v.Reason), fmt.Sprintf("see \"meshvpc vpc status %s\"", vpc))
	case isCut(v.Links):
		return types.NewError(types.ErrLimitedConnectivity, fmt.Sprintf("all tunnels of VPC %s on this host are down", vpc), fmt.Sprintf("see \"meshvpc vpc status %s\"", vpc))
	case !s.StaleSince.IsZero():
		return types.NewError(types.ErrPluginNotAvailable, fmt.Sprintf("no contact with the store since %s: %s", s.StaleSince, s.StaleError),
			`containers that are there go on; "meshvpc status" says what is wrong`)
	}
	return nil
}

// isCut reports whether a host hears none of its peers.
func isCut(links []cluster.Link) bool {
	for _, l := range links {
		if l.State != cluster.LinkDown {
			return false
		}
	}
	return len(links) > 0
}
