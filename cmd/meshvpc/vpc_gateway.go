package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
)

// gatewayWords are the names of the flags about a VPC's gateway.
func gatewayWords() []string { return []string{"gateway", "gateway-mode"} }

func gatewayFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "gateway", Usage: "`ADDRESS/LENGTH` of the VPC's router on every member: one IPv4, one IPv6 or both; repeated or joined by a comma; vpc set takes it away by none (default: none, nothing leaves the VPC)"},
		&cli.StringFlag{Name: "gateway-mode", Usage: "anycast, one MAC for all hosts, or `per-host`, each its own (default: anycast)"},
	}
}

// setGateway takes over the flags about the gateway, where given.
func setGateway(c *cli.Context, spec *cluster.VPCSpec) (err error) {
	if c.IsSet("gateway") {
		text := strings.Join(c.StringSlice("gateway"), ",")
		if text == "none" {
			spec.Gateway, spec.GatewayMode = cluster.Networks{}, ""
			return noMore(c)
		}
		if spec.Gateway, err = cluster.ParseGateway(text); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	if c.IsSet("gateway-mode") {
		if spec.GatewayMode, err = cluster.ParseGatewayMode(c.String("gateway-mode")); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	if !spec.AskedGateway().Exists() && c.IsSet("gateway-mode") {
		return usage("give --gateway ADDRESS/LENGTH too", "--gateway-mode without a gateway")
	}
	return nil
}

// noMore refuses what is asked of a gateway that is taken away.
func noMore(c *cli.Context) error {
	for _, name := range gatewayWords()[1:] {
		if c.IsSet(name) {
			return usage("leave it out", "--%s without a gateway", name)
		}
	}
	return nil
}
