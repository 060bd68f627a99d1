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
		below = cluster.PrefixVPC(name)
	}
	v, err := s.read(ctx, nil, below)
	if err != nil {
		return err
	}
	for _, bad := range v.Problems() {
		if k, err := cluster.ParseKey(bad.Key); err == nil && (k.Kind == cluster.KindVPCSpec || k.Kind == cluster.KindEndpoint) {
			return fmt.Errorf("export VPC %q: %s: %w", k.VPC, cluster.Short(bad.Key), bad.Err) // a part would pass for the whole
		}
	}
	x := export{objects: []document.Object{}}
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
		x.add(document.ObjectOf(k.VPC, it.Value), doc, err)
		x.endpoints(v, k.VPC)
	}
	if x.err != nil {
		return x.err
	}
	switch {
	case len(x.objects) == 0 && !all && v.Has(cluster.KeyVPCSpec(name)):
		return failed("\"meshvpc vpc list\" shows how far it is", "export VPC %q: it is being deleted", name)
	case len(x.objects) == 0 && !all:
		return p.noVPC(ctx, s, name)
	case len(x.objects) == 0:
		x.text.WriteString("[]\n")
	}
	if c.String("output") != "json" {
		_, err := io.Copy(p.out, &x.text)
		return err
	}
	if all || len(x.objects) > 1 {
		return p.print(c, x.objects, nil)
	}
	return p.print(c, x.objects[0], nil)
}

// export gathers documents.
type export struct {
	text    bytes.Buffer
	objects []document.Object
	err     error // the first
}

func (x *export) add(o document.Object, doc []byte, err error) {
	if x.err == nil {
		x.err = err
	}
	if len(x.objects) > 0 {
		x.text.WriteString("---\n")
	}
	x.text.Write(doc)
	x.objects = append(x.objects, o)
}

// endpoints adds those of a VPC but what nodes had made, which is theirs, and a
// gateway's, which is its VPC's.
func (x *export) endpoints(v *store.View, vpc string) {
	for it := range store.Below[*cluster.EndpointSpec](v, cluster.PrefixEndpoints(vpc)) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil || it.Value.Requester != "" || it.Value.IsGateway(k.Name) || it.Value.State == cluster.EndpointDeleting {
			continue
		}
		name := document.EndpointName{VPC: vpc, Name: k.Name}
		doc, err := document.FormatEndpoint(name, it.Value)
		x.add(document.EndpointObject(name, it.Value), doc, err)
	}
}
