package main

import (
	"context"
	"net/netip"

	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/hostops/linux"
)

// checkFeatures lists what this host lacks, beside an agent that runs.
func checkFeatures(ctx context.Context) ([]hostops.Problem, error) { return linux.Check(ctx), nil }

func pathMTU(ctx context.Context, from, to netip.Addr, want int) (int, error) {
	return linux.PathMTU(ctx, from, to, want)
}

// foreign lists the vxlan devices, and the chains that drop what our bridges
// forward.
func foreign() (list []tunnel, drops []dropper, err error) {
	all, err := linux.Tunnels()
	if err != nil {
		return nil, nil, err
	}
	for _, t := range all {
		list = append(list, tunnel{t.Name, t.VNI, t.Port, t.Ours})
	}
	forwards, err := linux.Forwards()
	for _, f := range forwards {
		drops = append(drops, dropper{f.Chain, f.IPv6, f.Bridges})
	}
	return list, drops, err
}
