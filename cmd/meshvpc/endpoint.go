package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) endpointCommand() *cli.Command {
	return p.noun("endpoint", "workloads' places in VPCs: addresses and MACs that stay",
		[]string{
			"meshvpc endpoint create web1 --vpc vpc1",
			"meshvpc endpoint create db1 --vpc vpc1 --ip 10.10.11.5,auto --node gold-hoster-01",
			"meshvpc endpoint attach web1 --netns web1",
			"meshvpc endpoint attach vm1 --vpc vpc1 --tap tap-vm1 --owner qemu",
			"meshvpc endpoint detach web1",
			"meshvpc endpoint list --vpc vpc1",
			"meshvpc endpoint show web1",
			"meshvpc endpoint where 10.10.11.5 -o json",
			"meshvpc endpoint move web1 --node gold-hoster-02",
			"meshvpc endpoint create www --vpc vpc1 --place dc=hetzner,dc=skynet --mode stateless",
			"meshvpc endpoint hold www --why \"disk is being replaced\"",
			"meshvpc endpoint release www",
			"meshvpc endpoint delete web1",
		},
		p.endpointCreateCommand(),
		p.verb("list", "", "list the endpoints", storeFlags(ofVPCFlag()), p.withStore(p.endpointList)),
		p.verb("show", "E", "what was asked for and what it has", storeFlags(ofVPCFlag()), p.withStore(p.endpointShow)),
		p.verb("where", "E|IP|MAC", "which endpoint that is, and on which node; of a MAC that is no endpoint's, where bridges have learned it", storeFlags(ofVPCFlag()), p.withStore(p.endpointWhere)),
		p.endpointAttachCommand(),
		p.endpointDetachCommand(),
		p.endpointMoveCommand(),
		p.endpointHoldCommand(),
		p.endpointReleaseCommand(),
		p.endpointDeleteCommand(),
	)
}

func ofVPCFlag() cli.Flag {
	return &cli.StringFlag{Name: "vpc", Usage: "only of VPC `V` (default: of all)"}
}

// endpointRecords are all records of one endpoint.
type endpointRecords struct {
	vpc, name string
	spec      *cluster.EndpointSpec // nil: gone, or not to be read
	own       *cluster.EndpointOwn  // nil: none yet
	hold      *cluster.Hold         // nil: none
}

// moves reports whether it may change its node without anybody's word.
func (e *endpointRecords) moves() bool { return e.spec != nil && e.spec.Failover.Moves() }

// endpointReport is an endpoint in JSON.
type endpointReport struct {
	Endpoint   string   `json:"endpoint"`
	VPC        string   `json:"vpc"`
	IPs        []string `json:"ips"`
	MAC        string   `json:"mac,omitempty"`
	Node       string   `json:"node,omitempty"`
	Datacenter string   `json:"datacenter,omitempty"`
	State      string   `json:"state"`
	Epoch      int64    `json:"epoch"`
	Reason     string   `json:"reason,omitempty"`
	// Port is nil while nothing is attached.
	Port *portReport `json:"port,omitempty"`
	// Failover is nil for one that stays where it is.
	Failover *failoverReport `json:"failover,omitempty"`
}

// endpointsOf lists the endpoints in v that keep says, by VPC and name.
func endpointsOf(v *store.View, keep func(*endpointRecords) bool) (list []*endpointRecords) {
	var at *endpointRecords
	next := func() {
		if at != nil && keep(at) {
			list = append(list, at)
		}
	}
	for it := range store.Below[cluster.Record](v, cluster.PrefixVPCs) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil || k.Kind != cluster.KindEndpoint && k.Kind != cluster.KindOwn && k.Kind != cluster.KindHold {
			continue
		}
		if at == nil || at.vpc != k.VPC || at.name != k.Name {
			next()
			at = &endpointRecords{vpc: k.VPC, name: k.Name}
		}
		switch r := it.Value.(type) {
		case *cluster.EndpointSpec:
			at.spec = r
		case *cluster.EndpointOwn:
			at.own = r
		case *cluster.Hold:
			at.hold = r
		}
	}
	next()
	return list
}

// readEndpoints reads those of one VPC, or of all.
func (p *program) readEndpoints(ctx context.Context, c *cli.Context, s *session, keep func(*endpointRecords) bool) (*store.View, []*endpointRecords, error) {
	prefix := cluster.PrefixVPCs
	if vpc := c.String("vpc"); vpc != "" {
		if err := cluster.CheckVPCName(vpc); err != nil {
			return nil, nil, &refusal{exitUsage, err, ""}
		}
		prefix = cluster.PrefixVPC(vpc)
	}
	v, err := s.read(ctx, portPrefixes(keep), prefix, cluster.PrefixNodes)
	if err != nil {
		return nil, nil, err
	}
	p.warnUnreadable(v)
	return v, endpointsOf(v, keep), nil
}

func (e *endpointRecords) report(v *store.View) endpointReport {
	r := endpointReport{Endpoint: e.name, VPC: e.vpc, IPs: []string{}, State: string(cluster.OwnPending), Reason: "no controller has taken it up yet"}
	if o := e.own; o != nil {
		r.Node, r.State, r.Epoch, r.Reason = o.Node, string(o.State), o.Epoch, clean(o.Reason)
		for _, a := range o.IPs {
			r.IPs = append(r.IPs, a.String())
		}
		if o.MAC.Unicast() {
			r.MAC = o.MAC.String()
		}
	}
	if it, ok := store.At[*cluster.Node](v, cluster.KeyNode(r.Node)); ok {
		r.Datacenter = clean(it.Value.Datacenter)
	}
	r.Port, r.Failover = portOf(v, e), e.failover(v)
	switch {
	case e.spec == nil:
		r.Reason = "its spec is gone: it keeps what it has"
	case e.spec.State == cluster.EndpointDeleting:
		r.State = string(cluster.EndpointDeleting)
	}
	return r
}

func (p *program) endpointList(ctx context.Context, c *cli.Context, s *session) error {
	v, found, err := p.readEndpoints(ctx, c, s, anyEndpoint)
	if err != nil {
		return err
	}
	list := []endpointReport{}
	for _, e := range found {
		list = append(list, e.report(v))
	}
	return p.print(c, list, func(w io.Writer) { endpointTable(w, list) })
}

func endpointTable(w io.Writer, list []endpointReport) {
	var rows [][]string
	for _, r := range list {
		rows = append(rows, []string{r.Endpoint, r.VPC, strings.Join(r.IPs, ", "), r.MAC, r.Node, r.State + suffix(": ", r.Reason) + suffix(", ", r.Port.String())})
	}
	columns(w, []string{"endpoint", "vpc", "addresses", "mac", "node", "state"}, rows)
}

func (p *program) endpointShow(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	v, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	return p.printEndpoint(c, e.report(v))
}

func (p *program) printEndpoint(c *cli.Context, r endpointReport) error {
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "endpoint:   %s of VPC %s\naddresses:  %s\nmac:        %s\nnode:       %s\nstate:      %s\n", r.Endpoint, r.VPC,
			cmp.Or(strings.Join(r.IPs, ", "), "-"), cmp.Or(r.MAC, "-"), cmp.Or(r.Node, "-")+suffix(" in ", r.Datacenter), r.State+suffix(": ", r.Reason))
		if r.Port != nil {
			fmt.Fprintf(w, "port:       %s\n", r.Port)
			if len(r.Port.Dropped) > 0 {
				fmt.Fprintf(w, "dropped:    %s\n", droppedText(r.Port.Dropped))
			}
		}
		r.Failover.text(w)
	})
}

// readEndpoint reads the one endpoint that keep says, and what stands for; it refuses
// none, and one name in several VPCs.
func (p *program) readEndpoint(ctx context.Context, c *cli.Context, s *session, what string, keep func(*endpointRecords) bool) (*store.View, *endpointRecords, error) {
	v, found, err := p.readEndpoints(ctx, c, s, keep)
	if err != nil {
		return nil, nil, err
	}
	var vpcs []string
	for _, e := range found {
		vpcs = append(vpcs, e.vpc)
	}
	switch len(found) {
	case 0:
		return nil, nil, failed("see \"meshvpc endpoint list\"", "%w %q", errNoEndpoint, clean(what))
	case 1:
		return v, found[0], nil
	}
	return nil, nil, failed("say which by --vpc", "endpoint %q is in several VPCs: %s", clean(what), few(vpcs))
}

// errNoEndpoint is returned when no endpoint is what somebody looks for.
var errNoEndpoint = errors.New("there is no endpoint")

func anyEndpoint(*endpointRecords) bool { return true }

func named(name string) func(*endpointRecords) bool {
	return func(e *endpointRecords) bool { return e.name == name }
}

// matching finds endpoints by name, address or MAC.
func matching(what string) func(*endpointRecords) bool {
	if a, err := netip.ParseAddr(what); err == nil {
		return func(e *endpointRecords) bool { return e.own != nil && slices.Contains(e.own.IPs, a) }
	}
	if m, err := cluster.ParseMAC(what); err == nil {
		return func(e *endpointRecords) bool { return e.own != nil && e.own.MAC == m }
	}
	return named(what)
}
