package main

import (
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
)

func floodFlag() cli.Flag {
	return &cli.StringFlag{Name: "flood-limit", Usage: fmt.Sprintf("frames a second that a host floods into each tunnel at most: `N` or none (default: %s)", cluster.DefaultFloodLimit)}
}

// setFlood takes over --flood-limit, where given.
func setFlood(c *cli.Context, spec *cluster.VPCSpec) (err error) {
	if !c.IsSet("flood-limit") {
		return nil
	}
	if spec.FloodLimit, err = cluster.ParseFloodLimit(c.String("flood-limit")); err != nil {
		return &refusal{exitUsage, err, ""}
	}
	return nil
}

// floods notes which members kept frames from others that were over the limit.
func (r *meshReport) floods() (notes []string) {
	for _, b := range r.Members {
		if b.FloodDropped > 0 {
			notes = append(notes, fmt.Sprintf("VPC %s: %s kept %d frames from the other hosts that were over the flood limit of %s a second: see who floods, or meshvpc vpc set %s --flood-limit N",
				r.VPC, b.Node, b.FloodDropped, r.limit, r.VPC))
		}
	}
	return notes
}
