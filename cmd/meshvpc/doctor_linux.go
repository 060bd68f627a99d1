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

// foreign lists the vxlan devices, and names the chain that drops what is
// forwarded.
func foreign() (list []tunnel, drops string, err error) {
	all, err := linux.Tunnels()
	if err != nil {
		return nil, "", err
	}
	for _, t := range all {
		list = append(list, tunnel{t.Name, t.VNI, t.Port, t.Ours})
	}
	drops, err = linux.ForwardDrops()
	return list, drops, err
}
