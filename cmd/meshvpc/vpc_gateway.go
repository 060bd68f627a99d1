package main

import (
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
)

// gatewayWords are the names of the flags about a VPC's gateway.
func gatewayWords() []string { return []string{"gateway", "gateway-mode", "nat", "no-nat", "routes"} }

func gatewayFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "gateway", Usage: "`ADDRESS/LENGTH` of the VPC's router on every member: one IPv4, one IPv6 or both; repeated or joined by a comma; vpc set takes it away by none (default: none, nothing leaves the VPC)"},
		&cli.StringFlag{Name: "gateway-mode", Usage: "anycast, one MAC for all hosts, `per-host`, each its own, or active, one host at a time, as an endpoint named gateway that failover moves (default: anycast)"},
		&cli.StringSliceFlag{Name: "routes", Usage: "`PREFIX` that attached workloads send by the gateway, instead of everything: for those that have another way out; takes --nat; repeated or joined by a comma; none: everything again"},
		&cli.BoolFlag{Name: "nat", Usage: "let workloads out by the gateway and their host, with the host's address: to all that the host reaches, but for the host"},
	}
}

// setGateway takes over the flags about the gateway, where given.
func setGateway(c *cli.Context, spec *cluster.VPCSpec) (err error) {
	if c.IsSet("gateway") {
		text := strings.Join(c.StringSlice("gateway"), ",")
		if text == "none" {
			spec.Gateway, spec.GatewayMode, spec.NAT, spec.Routes = cluster.Networks{}, "", false, ""
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
	if c.IsSet("routes") {
		text := strings.Join(c.StringSlice("routes"), ",")
		if text == "none" {
			text = ""
		}
		if spec.Routes, err = cluster.ParseRoutes(text); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	if c.Bool("nat") && c.Bool("no-nat") {
		return usage("give one of them", "--nat and --no-nat exclude each other")
	}
	spec.NAT = spec.NAT && !c.Bool("no-nat") || c.Bool("nat")
	switch {
	case !spec.AskedGateway().Exists():
		return noMore(c)
	case spec.Routes != "" && !spec.NAT:
		return usage("--nat too, or --routes none", "--routes %s without --nat: the gateway leads nowhere", spec.Routes)
	}
	return nil
}

// noMore refuses what is asked of a gateway that there is not.
func noMore(c *cli.Context) error {
	for _, name := range []string{"gateway-mode", "nat", "routes"} {
		if c.IsSet(name) {
			return usage("give --gateway ADDRESS/LENGTH too, or leave it out", "--%s without a gateway", name)
		}
	}
	return nil
}
