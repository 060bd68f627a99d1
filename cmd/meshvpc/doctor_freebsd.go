package main

import (
	"context"
	"net/netip"

	"github.com/meshvpc/meshvpc/hostops"
)

func checkFeatures(context.Context) ([]hostops.Problem, error) { return nil, hostops.ErrUnsupported }

func pathMTU(context.Context, netip.Addr, netip.Addr, int) (int, error) {
	return 0, hostops.ErrUnsupported
}

func foreign() ([]tunnel, []dropper, error) { return nil, nil, hostops.ErrUnsupported }
