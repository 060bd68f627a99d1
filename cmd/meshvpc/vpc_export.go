package main

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/document"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) vpcExportCommand() *cli.Command {
	return p.verb("export", "[V]", "print what was asked for as documents that apply reads", storeFlags(
		&cli.BoolFlag{Name: "all", Usage: "every VPC"},
	), p.withStore(p.vpcExport))
}

func (p *program) vpcExport(ctx context.Context, c *cli.Context, s *session) error {
	name, all := c.Args().First(), c.Bool("all")
	if all == (name != "") {
		return usage("like \"meshvpc vpc export vpc1\" or \"meshvpc vpc export --all\"", "export: want one of V and --all")
	}
	below := cluster.PrefixVPCs
	if !all {
		below = cluster.KeyVPCSpec(name)
	}
	v, err := s.read(ctx, nil, below)
	if err != nil {
		return err
	}
	for _, bad := range v.Problems() {
		if k, err := cluster.ParseKey(bad.Key); err == nil && k.Kind == cluster.KindVPCSpec {
			return fmt.Errorf("export VPC %q: %w", k.VPC, bad.Err) // a part would pass for the whole
		}
	}
	var text bytes.Buffer
	objects := []document.Object{}
	for it := range store.Below[*cluster.VPCSpec](v, below) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			return err
		}
		if it.Value.State == cluster.VPCDeleting {
			p.warn("VPC %s is being deleted and is left out", k.VPC)
			continue
		}
		doc, err := document.Format(k.VPC, it.Value)
		if err != nil {
			return err
		}
		if len(objects) > 0 {
			text.WriteString("---\n")
		}
		text.Write(doc)
		objects = append(objects, document.ObjectOf(k.VPC, it.Value))
	}
	switch {
	case len(objects) == 0 && !all && v.Has(below):
		return failed("\"meshvpc vpc list\" shows how far it is", "export VPC %q: it is being deleted", name)
	case len(objects) == 0 && !all:
		return p.noVPC(ctx, s, name)
	case len(objects) == 0:
		text.WriteString("[]\n")
	}
	if c.String("output") != "json" {
		_, err := io.Copy(p.out, &text)
		return err
	}
	if all {
		return p.print(c, objects, nil)
	}
	return p.print(c, objects[0], nil)
}
