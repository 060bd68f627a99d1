package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

// sites is what endpoints can be moved by, as the controller would.
type sites struct {
	view      *store.View
	nodes     map[string]*cluster.Node
	judged    map[string]cluster.Class // nodes that are not OK
	suspected map[string]bool          // some observer that is sure does not hear it
	reports   map[string]map[string]*cluster.EndpointStatus
	members   map[string]map[string]bool // by VPC, of those that were asked for
	chooser   *failover.Chooser
}

// readSites reads nodes, endpoints and what hosts report of them.
func (s *session) readSites(ctx context.Context) (*sites, error) {
	v, err := s.read(ctx, nil, cluster.KeyConfig, cluster.KeyJudgement, cluster.PrefixNodes, cluster.PrefixLive, cluster.PrefixVPCs, cluster.PrefixStat, cluster.PrefixFences, cluster.PrefixSrvs, cluster.PrefixDrills)
	if err != nil {
		return nil, err
	}
	return sitesOf(v), nil
}

// sitesOf sorts a view of all that readSites reads.
func sitesOf(v *store.View) *sites {
	in := &sites{view: v, nodes: nodesOf(v), judged: map[string]cluster.Class{}, suspected: map[string]bool{}, reports: map[string]map[string]*cluster.EndpointStatus{},
		members: map[string]map[string]bool{}}
	if it, ok := store.At[*cluster.Judgement](v, cluster.KeyJudgement); ok {
		for _, n := range it.Value.Nodes {
			in.judged[n.Node] = n.Class
		}
	}
	for it := range store.Below[*cluster.Verdicts](v, cluster.PrefixStat) {
		for _, s := range it.Value.Suspects {
			in.suspected[s.Node] = in.suspected[s.Node] || !it.Value.Unsure
		}
	}
	for it := range store.Below[*cluster.EndpointStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue
		}
		id := k.VPC + "/" + k.Name
		if in.reports[id] == nil {
			in.reports[id] = map[string]*cluster.EndpointStatus{}
		}
		in.reports[id][k.Node] = it.Value
	}
	in.chooser = &failover.Chooser{Nodes: in.nodes, Unfit: in.unfit, Failed: func(string) bool { return false }}
	for _, e := range endpointsOf(v, (*endpointRecords).moves) {
		in.chooser.Put(in.movable(e))
	}
	return in
}

// nodesOf are the nodes in a view.
func nodesOf(v *store.View) map[string]*cluster.Node {
	nodes := map[string]*cluster.Node{}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		nodes[strings.TrimPrefix(it.Key, cluster.PrefixNodes)] = it.Value
	}
	return nodes
}

// movable is an endpoint as failover looks at it.
func (in *sites) movable(e *endpointRecords) *failover.Endpoint {
	if in.members[e.vpc] == nil {
		in.members[e.vpc] = membersOf(in.view, e.vpc)
	}
	return &failover.Endpoint{VPC: e.vpc, Name: e.name, Failover: &e.spec.Failover, Own: e.own, Held: e.hold != nil,
		Reports: in.reports[e.vpc+"/"+e.name], Members: in.members[e.vpc]}
}

// membersOf are the members of a VPC.
func membersOf(v *store.View, vpc string) map[string]bool {
	members := map[string]bool{}
	for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(vpc)) {
		members[last(it.Key)] = true
	}
	return members
}

// unfit says why nothing would be given to a node now, "" if it is well, as far as
// records tell: what failed lately the controller alone remembers.
func (in *sites) unfit(name string) string {
	switch class := in.judged[name]; {
	case in.nodes[name].State != cluster.NodeActive:
		return "it is " + string(in.nodes[name].State)
	case in.view.Has(cluster.KeyFence(name)):
		return "it is fenced"
	case !in.view.Has(cluster.KeyLive(name)):
		return "it has no live record"
	case class != "":
		return "it is " + string(class)
	case in.suspected[name]:
		return "some observers do not hear it"
	}
	return ""
}

// in lists the nodes of a datacenter, sorted.
func (in *sites) in(dc string) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(in.nodes)) {
		if n := in.nodes[name]; n.Datacenter == dc && n.State != cluster.NodeLeft {
			names = append(names, name)
		}
	}
	return names
}

// noDatacenter refuses one that has no node.
func (in *sites) noDatacenter(dc string) error {
	var all []string
	for _, n := range in.nodes {
		all = append(all, n.Datacenter)
	}
	slices.Sort(all)
	return failed("there are "+few(slices.Compact(all)), "there is no datacenter %q", clean(dc))
}
