package observe

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership/reach"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Scope is what of one VPC matters to observers: where its endpoints with failover may
// run, who owns them, and its members. It is never changed.
type Scope struct {
	Places  []cluster.Place
	Owners  map[string]bool
	Members map[string]*cluster.Member
}

// ScopeOf reads a VPC, nil if no endpoint of it has failover.
func ScopeOf(v *store.View, vpc string) *Scope {
	var s *Scope
	prefix := cluster.PrefixEndpoints(vpc)
	for it := range store.Below[*cluster.EndpointSpec](v, prefix) {
		if !it.Value.Failover.Moves() || it.Value.State != cluster.EndpointActive {
			continue
		}
		if s == nil {
			s = &Scope{Owners: map[string]bool{}, Members: map[string]*cluster.Member{}}
		}
		if p := it.Value.Failover.Place; !slices.ContainsFunc(s.Places, func(q cluster.Place) bool { return slices.Equal(p, q) }) {
			s.Places = append(s.Places, p)
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(it.Key, prefix), "/")
		if own, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(vpc, name)); ok && own.Value.Node != "" {
			s.Owners[own.Value.Node] = true
		}
	}
	if s == nil {
		return nil
	}
	for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(vpc)) {
		s.Members[strings.TrimPrefix(it.Key, cluster.PrefixMembers(vpc))] = it.Value
	}
	return s
}

// Target is a node to be observed.
type Target struct {
	Node       string
	Datacenter string
	Key        reach.KeyHash
	Addresses  []netip.Addr // of the underlay, at most one a family
}

// TargetsOf lists, sorted by node, whom a node observes in VPCs with these scopes. A
// node that has no key cannot be asked.
func TargetsOf(me string, nodes map[string]*cluster.Node, scopes []*Scope) []Target {
	all := map[string]Target{}
	for _, s := range scopes {
		for name, m := range s.Members {
			n := nodes[name]
			if _, known := all[name]; known || name == me || n == nil || n.ID != m.NodeID || !s.concerns(name, n) {
				continue
			}
			key, err := reach.ParseKeyHash(n.Key)
			if err != nil || !slices.Contains(cluster.ObserversOf(name, nodes), me) {
				continue
			}
			all[name] = Target{name, n.Datacenter, key, m.Underlays()}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b Target) int { return strings.Compare(a.Node, b.Node) })
}

// concerns reports whether an endpoint of the VPC is, or could be, a node's.
func (s *Scope) concerns(name string, n *cluster.Node) bool {
	return s.Owners[name] || slices.ContainsFunc(s.Places, func(p cluster.Place) bool {
		_, may := p.Rank(name, n)
		return may
	})
}
