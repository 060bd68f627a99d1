package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) vpcCreateCommand() *cli.Command {
	return p.verb("create", "V", "make a VPC and wait until its mesh is up", append(waitFlags(meshWait,
		&cli.StringFlag{Name: "members", Value: string(cluster.SelectAll), Usage: "all, node names, dc=NAME, label=KEY=VALUE, joined by commas"},
		&cli.StringFlag{Name: "peer-network", Value: cluster.DefaultPeerNetwork.String(), Usage: "`PREFIX` that the tunnels' own addresses come from"},
		&cli.StringFlag{Name: "network", Usage: "`PREFIX` that endpoints get their addresses from, or one of each family joined by a comma"},
		&cli.StringFlag{Name: "mtu", Usage: "`BYTES` (default: what every member can carry)"},
		&cli.StringFlag{Name: "vni", Usage: "`NUMBER` (default: the lowest free)"},
		transportFlag(), groupFlag(), learningFlag(), floodFlag(), excludeFlag(),
		&cli.BoolFlag{Name: "protect", Usage: "refuse to delete it"},
		&cli.BoolFlag{Name: "no-wait", Usage: "do not wait for the mesh"},
	), gatewayFlags()...), p.withStore(p.vpcCreate))
}

func excludeFlag() cli.Flag {
	return &cli.StringSliceFlag{Name: "exclude", Usage: "`ADDRESS` never to give to a host or an endpoint; may be repeated"}
}

func transportFlag() cli.Flag {
	return &cli.StringFlag{Name: "transport", Usage: "auto, `p2p` (a tunnel for each pair) or multicast (default: auto, one tunnel that floods to a list)"}
}

func groupFlag() cli.Flag {
	return &cli.StringFlag{Name: "multicast-group", Usage: "`ADDRESS` of the underlay that --transport multicast floods to"}
}

func (p *program) vpcCreate(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	if err := cluster.CheckVPCName(name); err != nil {
		return &refusal{exitUsage, err, "choose another name"}
	}
	spec, err := specFrom(c)
	if err != nil {
		return err
	}
	spec.Created = cluster.At(p.now())
	if err := checkSpec(spec); err != nil {
		return err
	}
	prefixes := []string{cluster.PrefixNodes, cluster.PrefixLive, cluster.KeyVPCSpec(name), cluster.KeyVPCNet(name)}
	if spec.VNI != 0 {
		prefixes = append(prefixes, cluster.KeyAllocVNI(spec.VNI), cluster.KeyConfig)
	}
	v, err := s.read(ctx, nodeKeys, prefixes...)
	if err == nil {
		err = checkCreate(v, name, spec, !c.Bool("no-wait"))
	}
	if err != nil {
		return fmt.Errorf("create VPC %q: %w", name, err)
	}
	var change store.Change
	store.Create(&change, cluster.KeyVPCSpec(name), spec)
	err = s.commit(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		err = failed("see it by \"meshvpc vpc show "+name+"\"", "create VPC %q: somebody else made it at this moment", name)
	}
	if err != nil {
		return err
	}
	if c.Bool("no-wait") {
		m, err := p.readMesh(ctx, s, name)
		if err != nil {
			return err
		}
		return p.printPeers(c, m)
	}
	return p.awaitMesh(ctx, c, s, name)
}

// specFrom reads the flags of `vpc create`.
func specFrom(c *cli.Context) (*cluster.VPCSpec, error) {
	spec := &cluster.VPCSpec{State: cluster.VPCActive, Members: cluster.Selector(c.String("members")), Protect: c.Bool("protect")}
	var err error
	if spec.PeerNetwork, err = parsePrefix("--peer-network", c.String("peer-network")); err != nil {
		return nil, err
	}
	if spec.Network, err = cluster.ParseNetworks(c.String("network")); err != nil {
		return nil, &refusal{exitUsage, err, ""}
	}
	if v := c.String("vni"); v != "" {
		if spec.VNI, err = cluster.ParseVNI(v); err != nil {
			return nil, &refusal{exitUsage, err, "leave --vni out to get the lowest free one"}
		}
	}
	if spec.MTU, err = parseMTU(c.String("mtu")); err != nil {
		return nil, err
	}
	if err = setTransport(c, spec); err != nil {
		return nil, err
	}
	if err = setLearning(c, spec); err != nil {
		return nil, err
	}
	if err = setFlood(c, spec); err != nil {
		return nil, err
	}
	if err = setGateway(c, spec); err != nil {
		return nil, err
	}
	spec.Exclude, err = parseAddrs(c.StringSlice("exclude"))
	return spec, err
}

func learningFlag() cli.Flag {
	return &cli.StringFlag{Name: "learning", Usage: "how hosts come to know where workloads are: dynamic, from frames, static, from attached endpoints alone, or publish, from these and what hosts publish of all other workloads (default: dynamic)"}
}

// setLearning takes over --learning, where given.
func setLearning(c *cli.Context, spec *cluster.VPCSpec) (err error) {
	if !c.IsSet("learning") {
		return nil
	}
	if spec.Learning, err = cluster.ParseLearning(c.String("learning")); err != nil {
		return &refusal{exitUsage, err, ""}
	}
	return nil
}

// setTransport takes over --transport and --multicast-group, where given.
func setTransport(c *cli.Context, spec *cluster.VPCSpec) error {
	if c.IsSet("transport") {
		spec.Transport = cluster.Transport(c.String("transport"))
		if spec.Transport != cluster.Multicast {
			spec.MulticastGroup = netip.Addr{}
		}
		if spec.Transport == cluster.Auto {
			spec.Transport = "" // as a VPC that names none
		}
	}
	if g := c.String("multicast-group"); g != "" {
		group, err := netip.ParseAddr(g)
		if err != nil {
			return usage("want one like 239.1.1.1 or ff05::1:1", "invalid --multicast-group %q", g)
		}
		spec.MulticastGroup = group
	}
	return nil
}

func parsePrefix(flag, s string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(s)
	if err != nil {
		return prefix, usage("want a prefix like 10.100.0.0/16 or fd00:100::/64", "invalid %s %q", flag, s)
	}
	return prefix, nil
}

func parseMTU(s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	var mtu int
	if n, err := fmt.Sscanf(s, "%d", &mtu); err != nil || n != 1 || fmt.Sprint(mtu) != s || mtu < cluster.MinMTU || mtu > cluster.MaxMTU {
		return 0, usage("leave --mtu out to get what every member can carry", "invalid MTU %q: want %d to %d", s, cluster.MinMTU, cluster.MaxMTU)
	}
	return mtu, nil
}

func parseAddrs(words []string) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, w := range words {
		a, err := netip.ParseAddr(w)
		if err != nil {
			return nil, usage("want an address of the peer network", "invalid --exclude %q", w)
		}
		list = append(list, a)
	}
	return list, nil
}

// checkSpec refuses what is wrong by itself, whatever the cluster is like.
func checkSpec(spec *cluster.VPCSpec) error {
	err := spec.Validate()
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc(spec.Network.List(), spec.PeerNetwork.Overlaps):
		return &refusal{exitUsage, err, "choose another --peer-network: workloads would take the tunnels' addresses for their own"}
	}
	return &refusal{exitUsage, err, ""}
}

// checkCreate refuses a VPC that exists, or that the cluster as it is cannot
// carry; someone says whether somebody will wait for it. The controller has the
// last word; this is for a clear answer at once.
func checkCreate(v *store.View, name string, spec *cluster.VPCSpec, someone bool) error {
	m := meshOf(v, name)
	if m.spec != nil || v.Has(cluster.KeyVPCSpec(name)) {
		if m.spec != nil && m.spec.State == cluster.VPCDeleting {
			return failed("wait until \"meshvpc vpc list\" no longer shows it", "it is being deleted")
		}
		return failed(fmt.Sprintf("see it by \"meshvpc vpc show %s\", change it by \"meshvpc vpc set %s\"", name, name), "it exists")
	}
	if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok && spec.VNI != 0 && !it.Value.VNIs.Contains(spec.VNI) {
		return failed("choose one of them, or leave the VNI out", "VNI %d is not of the cluster's range %d-%d", spec.VNI, it.Value.VNIs.First, it.Value.VNIs.Last)
	}
	if it, ok := store.At[*cluster.Allocation](v, cluster.KeyAllocVNI(spec.VNI)); ok && it.Value.Holder != name {
		why := "is held by " + it.Value.Of()
		if it.Value.Released {
			why = "was released by " + it.Value.Of() + " a moment ago and rests"
		}
		return failed("choose another, or leave the VNI out", "VNI %d %s", spec.VNI, why)
	}
	m.spec = spec
	return checkMembers(v, m, spec, someone)
}

// checkMembers holds a spec against the nodes: those it names exist, there is
// one at all (if somebody will wait for it), the peer network has room for
// them, and each can carry the MTU.
func checkMembers(v *store.View, m *mesh, spec *cluster.VPCSpec, someone bool) error {
	var known, unknown, datacenters []string
	for name, n := range m.nodes {
		if n.State != cluster.NodeLeft && n.Agent {
			known = append(known, name)
			datacenters = append(datacenters, clean(n.Datacenter))
		}
	}
	slices.Sort(known)
	slices.Sort(datacenters)
	for _, name := range spec.Members.Names() {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return failed(nodesHint(known), "unknown members %s", strings.Join(unknown, ", "))
	}
	selected := m.expected()
	if len(selected) == 0 && someone {
		do := nodesHint(known)
		if len(known) > 0 {
			do += fmt.Sprintf(" in the datacenters %s; --no-wait makes a VPC that awaits its members", few(slices.Compact(datacenters)))
		}
		return failed(do, "members %q select no node", string(spec.Members))
	}
	if err := checkRoom(spec, len(selected)); err != nil {
		return err
	}
	if err := checkTransport(v, spec, selected); err != nil {
		return err
	}
	return checkCarry(v, spec.MTU, selected)
}

// checkTransport refuses a transport that a member cannot do.
func checkTransport(v *store.View, spec *cluster.VPCSpec, selected []string) error {
	net := &cluster.VPCNet{Transport: spec.InForce(), MulticastGroup: spec.MulticastGroup}
	var parts []string
	for _, n := range selected {
		it, ok := store.At[*cluster.NodeStatus](v, cluster.KeyNodeStatus(n))
		if !ok {
			continue
		}
		u := it.Value.Underlay
		if _, why := it.Value.TransportIn(net, u.IPv4 != nil, u.IPv6 != nil); why != "" {
			parts = append(parts, n+": "+why)
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return failed("choose another --transport, or other --members", "transport %s is not for every member: %s", cmp.Or(string(net.Transport), string(cluster.Auto)), few(parts))
}

// checkCarry refuses an MTU that the underlay of a member does not carry.
func checkCarry(v *store.View, mtu int, selected []string) error {
	if mtu == 0 {
		return nil
	}
	least, parts := 0, []string(nil)
	for _, n := range selected {
		it, ok := store.At[*cluster.NodeStatus](v, cluster.KeyNodeStatus(n))
		if !ok || it.Value.Underlay.MTU() == 0 || it.Value.Underlay.MTU() >= mtu {
			continue
		}
		carries := it.Value.Underlay.MTU()
		if least == 0 || carries < least {
			least = carries
		}
		parts = append(parts, fmt.Sprintf("%s carries %d (%s)", n, carries, arithmetic(it.Value.Underlay)))
	}
	if len(parts) == 0 {
		return nil
	}
	return failed(fmt.Sprintf("MTU %d fits all of them; or leave the MTU out", least), "MTU %d is above what the underlay carries: %s", mtu, few(parts))
}

// arithmetic shows where the MTU of an underlay comes from.
func arithmetic(u cluster.Underlay) string {
	var parts []string
	if u.IPv4 != nil {
		parts = append(parts, fmt.Sprintf("%d of %s − %d over IPv4", u.IPv4.MTU, clean(u.IPv4.Device), cluster.OverheadIPv4))
	}
	if u.IPv6 != nil {
		parts = append(parts, fmt.Sprintf("%d of %s − %d over IPv6", u.IPv6.MTU, clean(u.IPv6.Device), cluster.OverheadIPv6))
	}
	return strings.Join(parts, ", ")
}

// checkRoom refuses a peer network with fewer addresses than members.
func checkRoom(spec *cluster.VPCSpec, members int) error {
	n := allocator.Network{Prefix: spec.PeerNetwork, Exclude: spec.Exclude}
	room := n.Capacity()
	if room >= uint64(max(members, 1)) {
		return nil
	}
	reserved := "none reserved"
	if all := uint64(1) << min(spec.PeerNetwork.Addr().BitLen()-spec.PeerNetwork.Bits(), 62); all > room {
		reserved = fmt.Sprintf("%d addresses less %d reserved", all, all-room)
	}
	return failed("choose a shorter prefix, or leave the peer network out to get "+cluster.DefaultPeerNetwork.String(),
		"peer network %s is too small: %d members fit (%s), %d are named", spec.PeerNetwork, room, reserved, members)
}
