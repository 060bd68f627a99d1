package watcher

import (
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// gatherer collects this host's records from the view. What it made of a VPC
// stays until the view of that VPC moves, so that a pass costs what changed.
type gatherer struct{ node string }

// follow lists the prefixes that this host watches.
func (g *gatherer) follow(v *store.View) []string {
	prefixes := []string{cluster.KeyConfig, cluster.KeyNode(g.node), cluster.PrefixHost(g.node), cluster.PrefixFences}
	for it := range store.Below[*cluster.HostVPC](v, cluster.PrefixHost(g.node)) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			prefixes = append(prefixes, cluster.PrefixVPC(k.VPC))
		}
	}
	return prefixes
}

// gather reads the view.
func (g *gatherer) gather(v *store.View) records {
	r := records{
		synced: v.Synced(cluster.KeyConfig) && v.Synced(cluster.KeyNode(g.node)) && v.Synced(cluster.PrefixHost(g.node)),
		vpcs:   map[string]vpcRecords{},
	}
	if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok {
		r.config = it.Value
	}
	if it, ok := store.At[*cluster.Node](v, cluster.KeyNode(g.node)); ok {
		r.node = it.Value
	}
	assigned := map[string]*cluster.HostVPC{}
	for it := range store.Below[*cluster.HostVPC](v, cluster.PrefixHost(g.node)) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			assigned[k.VPC] = it.Value
		}
	}
	for name, a := range assigned {
		vr := g.gatherVPC(v, name)
		vr.assignment = a
		vr.links, vr.linksAt = g.gatherLinks(v, name)
		r.vpcs[name] = vr
	}
	for _, p := range v.Problems() { // an assignment that never could be read still is one
		if k, err := cluster.ParseKey(p.Key); err == nil && k.Kind == cluster.KindHostVPC && assigned[k.VPC] == nil {
			r.vpcs[k.VPC] = vpcRecords{}
		}
	}
	return r
}

// gatherLinks reads the links that have a tunnel of their own, and the revisions
// of their records.
func (g *gatherer) gatherLinks(v *store.View, vpc string) (links map[string]cluster.HostLink, at map[string]int64) {
	prefix := cluster.PrefixHostLinks(g.node, vpc)
	for it := range store.Below[*cluster.HostLink](v, prefix) {
		if links == nil {
			links, at = map[string]cluster.HostLink{}, map[string]int64{}
		}
		peer := strings.TrimPrefix(it.Key, prefix)
		links[peer], at[peer] = cluster.HostLink{VNI: it.Value.VNI, Use: it.Value.Use}, it.Mod
	}
	return links, at
}

// gatherVPC reads what is the same for all members of a VPC.
func (g *gatherer) gatherVPC(v *store.View, name string) vpcRecords {
	prefix := cluster.PrefixVPC(name)
	if !v.Synced(prefix) {
		return vpcRecords{}
	}
	return *store.Made(v, prefix, func() *vpcRecords { return readVPC(v, name) })
}

func readVPC(v *store.View, name string) *vpcRecords {
	r := &vpcRecords{members: map[string]*cluster.Member{}}
	r.read = r
	if it, ok := store.At[*cluster.VPCNet](v, cluster.KeyVPCNet(name)); ok {
		r.net = it.Value
	}
	if it, ok := store.At[*cluster.VPCSpec](v, cluster.KeyVPCSpec(name)); ok {
		r.network, r.flood = &it.Value.Network, &it.Value.FloodLimit
	}
	if it, ok := store.At[*cluster.PingRequest](v, cluster.KeyVPCPing(name)); ok {
		r.ping = it.Value
	}
	if it, ok := store.At[*cluster.FindRequest](v, cluster.KeyVPCFind(name)); ok {
		r.find = it.Value
	}
	for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(name)) {
		node := strings.TrimPrefix(it.Key, cluster.PrefixMembers(name))
		r.members[node] = it.Value
		if it.Value.Transport == cluster.P2P {
			if r.p2pAt == nil {
				r.p2pAt = map[string]int64{}
			}
			r.p2pAt[node] = it.Mod
		}
	}
	for _, p := range v.Problems() {
		if node, ok := strings.CutPrefix(p.Key, cluster.PrefixMembers(name)); ok && r.members[node] == nil {
			r.unreadable = append(r.unreadable, node)
		}
	}
	if r.net != nil && r.net.Learning.FromRecords() {
		r.places = readPlaces(v, name)
	}
	if r.net != nil && r.net.Learning == cluster.LearnPublish {
		r.published = readPublished(v, name)
	}
	r.scope, r.vips = observe.ScopeOf(v, name), readVIPs(v, name)
	slices.Sort(r.unreadable)
	r.sorted = inOrder(r.members)
	return r
}

// readPlaces reads the endpoints of a static VPC.
func readPlaces(v *store.View, name string) *placeRecords {
	r := &placeRecords{owns: map[string]*cluster.EndpointOwn{}, specs: map[string]*cluster.EndpointSpec{}, kept: map[string]bool{}}
	note := func(key string) string {
		endpoint, _, _ := strings.Cut(strings.TrimPrefix(key, cluster.PrefixEndpoints(name)), "/")
		r.kept[endpoint] = true
		return endpoint
	}
	for it := range store.Below[*cluster.EndpointSpec](v, cluster.PrefixEndpoints(name)) {
		r.specs[note(it.Key)] = it.Value
	}
	for it := range store.Below[*cluster.EndpointOwn](v, cluster.PrefixEndpoints(name)) {
		r.owns[note(it.Key)] = it.Value
	}
	for _, p := range v.Problems() {
		if strings.HasPrefix(p.Key, cluster.PrefixEndpoints(name)) {
			note(p.Key)
		}
	}
	return r
}
