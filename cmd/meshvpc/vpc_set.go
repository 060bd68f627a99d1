package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) vpcSetCommand() *cli.Command {
	return p.verb("set", "V", "change a VPC and wait until it is so", append(waitFlags(meshWait,
		&cli.StringFlag{Name: "members", Usage: "all, node names, dc=NAME, label=KEY=VALUE, joined by commas"},
		&cli.StringFlag{Name: "mtu", Usage: "`BYTES`"},
		&cli.StringFlag{Name: "network", Usage: "`PREFIX` that endpoints get their addresses from, or one of each family joined by a comma: it only grows"},
		transportFlag(), groupFlag(), learningFlag(), floodFlag(), excludeFlag(), yesFlag(),
		&cli.BoolFlag{Name: "protect", Usage: "refuse to delete it"},
		&cli.BoolFlag{Name: "no-protect", Usage: "allow to delete it"},
		&cli.BoolFlag{Name: "no-nat", Usage: "let nothing out by the gateway"},
		&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until it is so"},
	), gatewayFlags()...), p.withStore(p.vpcSet))
}

func (p *program) vpcSet(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	change, err := changeFrom(c)
	if err != nil {
		return err
	}
	v, err := s.read(ctx, nodeKeys, cluster.PrefixNodes, cluster.PrefixLive, cluster.KeyVPCSpec(name))
	if err != nil {
		return err
	}
	if c.IsSet("members") || c.IsSet("exclude") {
		m, err := p.readMesh(ctx, s, name)
		if err != nil {
			return err
		}
		if err := p.confirmSet(c, m, cluster.Selector(c.String("members"))); err != nil {
			return err
		}
		m.warnExcluded(p, change.exclude)
	}
	err = edit(ctx, s, cluster.KeyVPCSpec(name), func(spec *cluster.VPCSpec) error {
		if spec.State == cluster.VPCDeleting {
			return failed("make another", "set VPC %q: it is being deleted", name)
		}
		if err := change.apply(spec); err != nil {
			return err
		}
		if err := checkSpec(spec); err != nil {
			return err
		}
		if err := checkSet(v, name, spec); err != nil {
			return fmt.Errorf("set VPC %q: %w", name, err)
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return p.noVPC(ctx, s, name)
	}
	if err != nil {
		return err
	}
	if c.Bool("no-wait") || !slices.ContainsFunc(append(gatewayWords(), "members", "mtu", "transport", "multicast-group", "learning"), c.IsSet) {
		m, err := p.readMesh(ctx, s, name)
		if err != nil {
			return err
		}
		return p.printPeers(c, m)
	}
	return p.awaitMesh(ctx, c, s, name)
}

// specChange is what the flags of `vpc set` ask for.
type specChange struct {
	c       *cli.Context
	mtu     int
	network cluster.Networks
	exclude []netip.Addr
}

// changeFrom reads the flags.
func changeFrom(c *cli.Context) (specChange, error) {
	change := specChange{c: c}
	if !slices.ContainsFunc(append(gatewayWords(), "members", "mtu", "network", "transport", "multicast-group", "learning", "flood-limit", "exclude", "protect", "no-protect"), c.IsSet) {
		return change, usage("give --members, --mtu, --network, --gateway, --transport, --multicast-group, --learning, --flood-limit, --exclude, --protect or --no-protect", "nothing to set")
	}
	if c.Bool("protect") && c.Bool("no-protect") {
		return change, usage("give one of them", "--protect and --no-protect exclude each other")
	}
	var err error
	if change.mtu, err = parseMTU(c.String("mtu")); err != nil {
		return change, err
	}
	if change.network, err = cluster.ParseNetworks(c.String("network")); err != nil {
		return change, &refusal{exitUsage, err, ""}
	}
	change.exclude, err = parseAddrs(c.StringSlice("exclude"))
	return change, err
}

// apply changes what was given, and leaves the rest as it is.
func (ch specChange) apply(spec *cluster.VPCSpec) error {
	if ch.c.IsSet("members") {
		spec.Members = cluster.Selector(ch.c.String("members"))
	}
	if ch.c.IsSet("mtu") {
		spec.MTU = ch.mtu
	}
	if ch.c.IsSet("network") {
		if !ch.network.Grows(spec.Network) {
			return failed("name a prefix of each family that holds the old one, or move the endpoints to another VPC",
				"set VPC %q: its network %s only grows, and %q does not hold it: endpoints would lose their addresses", ch.c.Args().First(), spec.Network, ch.network)
		}
		spec.Network = ch.network
	}
	if err := setTransport(ch.c, spec); err != nil {
		return err
	}
	if err := setLearning(ch.c, spec); err != nil {
		return err
	}
	if err := setFlood(ch.c, spec); err != nil {
		return err
	}
	if err := setGateway(ch.c, spec); err != nil {
		return err
	}
	if ch.c.IsSet("exclude") {
		spec.Exclude = ch.exclude
	}
	spec.Protect = spec.Protect && !ch.c.Bool("no-protect") || ch.c.Bool("protect")
	return nil
}

// confirmSet asks before members are taken out of a VPC whose workloads use it.
func (p *program) confirmSet(c *cli.Context, m *mesh, members cluster.Selector) error {
	users := m.dropped(members)
	if !c.IsSet("members") || members.Validate() != nil || len(users) == 0 || c.Bool("yes") {
		return nil
	}
	fmt.Fprintf(p.err, "workloads of %s would lose VPC %s\n", few(users), m.name)
	if err := p.confirm(c, "VPC", m.name); err != nil {
		if r, ok := errors.AsType[*refusal](err); ok {
			return usage(r.do, "set VPC %q: workloads of %s would lose it, and that was not confirmed", m.name, few(users))
		}
		return err
	}
	return nil
}

// dropped names the members that a selector takes out of the VPC and whose
// workloads use it.
func (m *mesh) dropped(members cluster.Selector) []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(m.members)) {
		node := m.nodes[name]
		if use := m.use(name); use != "" && (node == nil || !members.Selects(name, node)) {
			list = append(list, use)
		}
	}
	return list
}

// warnExcluded says which addresses are excluded from now on and in use: who
// has one keeps it.
func (m *mesh) warnExcluded(p *program, exclude []netip.Addr) {
	for _, name := range slices.Sorted(maps.Keys(m.members)) {
		if a := m.members[name].VTEP; slices.Contains(exclude, a) {
			p.warn("%s is in use by %s, which keeps it as long as it is a member", a, name)
		}
	}
}

// checkSet refuses what the cluster as it is cannot carry.
func checkSet(v *store.View, name string, spec *cluster.VPCSpec) error {
	m := meshOf(v, name)
	m.spec = spec
	return checkMembers(v, m, spec, false)
}
