package main

import (
	"context"
	"fmt"

	"github.com/meshvpc/meshvpc/cluster"
)

// endpointsAt are the endpoints that a node has to do with, as "E of VPC V".
type endpointsAt struct {
	bound []string // that have to be on it
	owned []string // that are on it, and may be elsewhere
}

// endpointsAt reads them.
func (s *session) endpointsAt(ctx context.Context, node string) (at endpointsAt, err error) {
	v, err := s.read(ctx, nil, cluster.PrefixVPCs)
	if err != nil {
		return at, err
	}
	for _, e := range endpointsOf(v, anyEndpoint) {
		name := fmt.Sprintf("%s of VPC %s", e.name, e.vpc)
		switch {
		case e.spec != nil && e.spec.State == cluster.EndpointDeleting:
		case e.spec != nil && e.spec.Node == node:
			at.bound = append(at.bound, name)
		case e.own != nil && e.own.Node == node:
			at.owned = append(at.owned, name)
		}
	}
	return at, nil
}

// mayLoseEndpoints refuses to take out a node with endpoints, or says what becomes of
// them.
func (p *program) mayLoseEndpoints(at endpointsAt, node string, force bool) error {
	all := append(append([]string{}, at.bound...), at.owned...)
	if len(all) > 0 && !force {
		return failed("move them by \"meshvpc endpoint move E --node N\", delete them, or --force", "remove node %s: it has the endpoints %s", node, few(all))
	}
	if len(at.bound) > 0 {
		p.warn("endpoints that have to be on %s keep their addresses and answer nowhere, until they are moved: %s", node, few(at.bound))
	}
	if len(at.owned) > 0 {
		p.warn("endpoints that are on %s keep their addresses and are on no node, until they are attached elsewhere: %s", node, few(at.owned))
	}
	return nil
}
