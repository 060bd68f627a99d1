package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// endpointWait is how long a command waits for the controller.
const endpointWait = 15 * time.Second

func (p *program) endpointCreateCommand() *cli.Command {
	return p.verb("create", "E", "make an endpoint: an address and a MAC that stay", waitFlags(endpointWait, append(workloadFlags(),
		&cli.StringFlag{Name: "vpc", Usage: "`V` that it is of (required)"},
		&cli.StringFlag{Name: "ip", Value: ipAuto, Usage: "auto, none, or an `ADDRESS` of the VPC's network, or one of each family joined by a comma; \"10.10.11.5,auto\" fixes one and takes the other"},
		&cli.StringFlag{Name: "mac", Usage: "a fixed `MAC` (default: one that goes with the name)"},
		&cli.StringFlag{Name: "node", Usage: "the node `N` that it has to be on"},
		&cli.StringFlag{Name: "place", Usage: "where it may run, the most preferred first, `dc=A,dc=B,N`: it moves by itself when its node is lost; with --mode"},
		&cli.StringFlag{Name: "mode", Usage: "what becomes of the workload then, `MODE` stateless: it is attached at several nodes, and another one serves; vip: there is none, and the hosts answer themselves; stateful: with --workload, it never runs at two"},
		&cli.StringFlag{Name: "failback", Usage: "never|auto|window=TIME: whether it returns by itself to a place that is more preferred (default never), such as 'window=Sat 02:00-04:00 UTC'"},
		&cli.StringFlag{Name: "apart", Usage: "with --place: a `GROUP`: failover puts no two endpoints of it on one node, and prefers datacenters that have none of it"},
		&cli.BoolFlag{Name: "force", Usage: "with --place: although one of the datacenters has so many of the voting servers that nothing would leave it by itself"},
		&cli.StringFlag{Name: "exclusive", Usage: "receivers|strict: who makes sure that one node serves it; strict: its node's kernel shuts it, too, unless the store lets it go on (default receivers; stateful is strict)"},
		&cli.StringFlag{Name: "on-isolation", Usage: "keep|fence: what its node does that cannot reach the store; fence takes --exclusive strict (default keep, as long as --exclusive lets it)"},
	)...), p.withStore(p.endpointCreate))
}

// Words of --ip.
const (
	ipAuto = "auto"
	ipNone = "none"
)

func (p *program) endpointCreate(ctx context.Context, c *cli.Context, s *session) error {
	name, vpc := c.Args().First(), c.String("vpc")
	spec, err := endpointSpecFrom(c, name)
	if err != nil {
		return err
	}
	spec.Created = cluster.At(p.now())
	v, err := s.read(ctx, nil, endpointKeys(vpc, name, spec)...)
	if err != nil {
		return err
	}
	if !v.Has(cluster.KeyVPCSpec(vpc)) {
		return p.noVPC(ctx, s, vpc)
	}
	if err := checkEndpoint(v, vpc, name, spec); err != nil {
		return fmt.Errorf("create endpoint %q: %w", name, err)
	}
	if spec.Failover.Moves() && !c.Bool("force") {
		if err := mayFail(v, name, &spec.Failover); err != nil {
			return err
		}
	}
	var change store.Change
	store.Create(&change, cluster.KeyEndpointSpec(vpc, name), spec)
	err = s.commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		err = failed("see it by \"meshvpc endpoint show "+name+"\"", "create endpoint %q: somebody else made it at this moment", name)
	}
	if err != nil {
		return err
	}
	r, err := s.awaitEndpoint(ctx, c.Duration("timeout"), vpc, name)
	if err != nil {
		return err
	}
	if spec.Failover.Moves() {
		p.warnPlaces(v, name, vpc, &spec.Failover)
	}
	if len(r.IPs) == 0 && spec.Auto {
		p.warn("it has a MAC and no address: VPC %s has no network of its own (--network of \"meshvpc vpc create\")", vpc)
	}
	return p.printEndpoint(c, r)
}

// endpointKeys is what decides whether an endpoint can be: the same few keys however
// many there are.
func endpointKeys(vpc, name string, spec *cluster.EndpointSpec) []string {
	keys := []string{cluster.KeyVPCSpec(vpc), cluster.KeyVPCNet(vpc), cluster.KeyEndpointSpec(vpc, name)}
	for _, a := range spec.IPs {
		keys = append(keys, cluster.KeyAllocIP(vpc, a))
	}
	if spec.MAC != (cluster.MAC{}) {
		keys = append(keys, cluster.KeyAllocMAC(vpc, spec.MAC))
	}
	if spec.Failover.Moves() {
		keys = append(keys, cluster.PrefixSrvs, cluster.PrefixNodes, cluster.PrefixMembers(vpc))
	}
	if spec.Node != "" {
		keys = append(keys, cluster.KeyMember(vpc, spec.Node), cluster.KeyNode(spec.Node))
	}
	return keys
}

// endpointSpecFrom reads the flags of `endpoint create`.
func endpointSpecFrom(c *cli.Context, name string) (*cluster.EndpointSpec, error) {
	if err := cluster.CheckNodeName(name); err != nil {
		return nil, usage("want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", "invalid endpoint name %q", clean(name))
	}
	if c.String("vpc") == "" {
		return nil, usage("name it by --vpc; \"meshvpc vpc list\" shows them", "create endpoint %q: of which VPC?", name)
	}
	if err := cluster.CheckVPCName(c.String("vpc")); err != nil {
		return nil, &refusal{exitUsage, err, "see \"meshvpc vpc list\""}
	}
	spec := &cluster.EndpointSpec{State: cluster.EndpointActive, Node: c.String("node")}
	if c.String("ip") != ipNone {
		for word := range strings.SplitSeq(c.String("ip"), ",") {
			if word == ipAuto {
				spec.Auto = true
				continue
			}
			a, err := netip.ParseAddr(word)
			if err != nil {
				return nil, usage("want auto, none, or addresses like 10.10.11.5 or 10.10.11.5,fd00:11::5", "invalid --ip %q", clean(c.String("ip")))
			}
			spec.IPs = append(spec.IPs, a)
		}
	}
	var err error
	if m := c.String("mac"); m != "" {
		if spec.MAC, err = cluster.ParseMAC(m); err != nil {
			return nil, &refusal{exitUsage, err, "leave --mac out to get one that goes with the name"}
		}
	}
	if err := failoverFrom(c, &spec.Failover); err != nil {
		return nil, err
	}
	if err := spec.Validate(); err != nil {
		return nil, &refusal{exitUsage, err, ""}
	}
	spec.SetNeeds()
	return spec, nil
}

// checkEndpoint refuses what the cluster as it is cannot give. The controller has
// the last word; this is for a clear answer at once.
func checkEndpoint(v *store.View, vpc, name string, spec *cluster.EndpointSpec) error {
	if v.Has(cluster.KeyEndpointSpec(vpc, name)) {
		return failed("see it by \"meshvpc endpoint show "+name+"\"", "it exists")
	}
	of, ok := store.At[*cluster.VPCSpec](v, cluster.KeyVPCSpec(vpc))
	if !ok {
		return failed("see \"meshvpc get vpcs/"+vpc+"/spec\"", "the spec of VPC %s cannot be read", vpc)
	}
	return fitsIn(v, of.Value, vpc, name, spec)
}

// fitsIn refuses an endpoint that a VPC cannot have. Whether an automatic address is
// left, the controller says.
func fitsIn(v *store.View, of *cluster.VPCSpec, vpc, name string, spec *cluster.EndpointSpec) error {
	if it, ok := store.At[*cluster.EndpointSpec](v, cluster.KeyEndpointSpec(vpc, name)); name == cluster.GatewayEndpoint && (!ok || it.Value.IsGateway(name)) {
		return failed("choose another name; or \"meshvpc vpc set "+vpc+" --gateway ADDRESS/LENGTH --gateway-mode active\"", "the name %s is for the VPC's gateway of mode active", name)
	}
	if of.State == cluster.VPCDeleting {
		return failed("choose another VPC", "VPC %s is being deleted", vpc)
	}
	for _, a := range spec.IPs {
		if err := checkFixed(v, of, vpc, name, a); err != nil {
			return err
		}
	}
	if it, ok := store.At[*cluster.Allocation](v, cluster.KeyAllocMAC(vpc, spec.MAC)); ok && it.Value.Holder != name {
		return failed("choose another, or leave --mac out", "MAC %s is held by endpoint %s", spec.MAC, clean(it.Value.Holder))
	}
	node, known := store.At[*cluster.Node](v, cluster.KeyNode(spec.Node))
	if v.Has(cluster.KeyMember(vpc, spec.Node)) || spec.Node == "" || !v.Has(cluster.KeyVPCNet(vpc)) && known && of.Members.Selects(spec.Node, node.Value) {
		return nil
	}
	return failed("see \"meshvpc vpc peers "+vpc+"\"", "node %s is no member of VPC %s", clean(spec.Node), vpc)
}

// checkFixed refuses a fixed address that is not of the VPC, reserved or taken.
func checkFixed(v *store.View, of *cluster.VPCSpec, vpc, name string, a netip.Addr) error {
	n, ok := of.Network.Of(a)
	switch {
	case len(of.Network.List()) == 0:
		return failed("make it anew with --network, or use --ip none", "VPC %s has no network that %s could be of", vpc, a)
	case !ok:
		return failed("choose one of it, or leave --ip out", "%s is not of the VPC's network %s", a, of.Network)
	case !allocator.NetworkOf(of, n).Allocates(a):
		return failed("choose another, or leave --ip out", "%s is reserved in %s", a, n)
	}
	it, taken := store.At[*cluster.Allocation](v, cluster.KeyAllocIP(vpc, a))
	switch {
	case !taken || it.Value.Holder == name:
		return nil
	case it.Value.Released:
		return failed(fmt.Sprintf("try again in %s, choose another, or leave --ip out", allocator.QuarantineTime), "%s was given back by endpoint %s a moment ago: other hosts may still send there", a, clean(it.Value.Holder))
	}
	return failed("choose another, or leave --ip out; \"meshvpc endpoint where "+a.String()+"\"", "%s is held by endpoint %s", a, clean(it.Value.Holder))
}

// awaitEndpoint waits until the controller has given an endpoint what it asks for.
func (s *session) awaitEndpoint(ctx context.Context, timeout time.Duration, vpc, name string) (r endpointReport, err error) {
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	prefix := cluster.PrefixEndpoints(vpc) + name + "/"
	err = s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		if !v.Synced(prefix) || !v.Synced(cluster.PrefixNodes) {
			return nil
		}
		found := endpointsOf(v, anyEndpoint)
		if len(found) == 0 {
			return failed("", "endpoint %q: somebody deleted it", name)
		}
		r = found[0].report(v)
		if found[0].own == nil {
			return nil
		}
		if r.Reason != "" {
			return notSo("it gets what it asks for as soon as that is free; or: meshvpc endpoint delete "+name+" --vpc "+vpc, "endpoint %q: %s", name, r.Reason)
		}
		return errLook
	}, prefix, cluster.PrefixNodes)
	if ctx.Err() == nil && wait.Err() != nil {
		return r, notSo("it goes on by itself: \"meshvpc endpoint show "+name+"\"; does a \"meshvpc server\" run?", "endpoint %q: no controller has taken it up after %s", name, timeout)
	}
	return r, err
}
