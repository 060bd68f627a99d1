package allocator

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Usage is how much of a VPC's network of one family is taken. Capacity is Used,
// Resting and Free together, unless somebody has a reserved address.
type Usage struct {
	VPC      string       `json:"vpc"`
	Network  netip.Prefix `json:"network"`
	Capacity uint64       `json:"capacity"`
	Used     uint64       `json:"used"`
	Resting  uint64       `json:"resting"` // given back, and not free yet
	Free     uint64       `json:"free"`
	Top      []Share      `json:"top"` // most first, a few
}

// Share is how many addresses endpoints have that are at a node, or that were made
// by its request; Node is "" for all others.
type Share struct {
	Node      string `json:"node"`
	Addresses int    `json:"addresses"`
}

const topMost = 3

// UsageOf counts the addresses of all VPCs that v shows specs of, by name, IPv4
// first. It needs vpcs/ and alloc/ip/ of those.
func UsageOf(v *store.View) []Usage {
	var list []Usage
	for it := range store.Below[*cluster.VPCSpec](v, cluster.PrefixVPCs) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue
		}
		for _, n := range it.Value.Network.List() {
			list = append(list, usageOf(v, k.VPC, NetworkOf(it.Value, n)))
		}
	}
	return list
}

func usageOf(v *store.View, vpc string, n Network) Usage {
	u := Usage{VPC: vpc, Network: n.Prefix, Capacity: n.Capacity(), Top: []Share{}}
	at := map[string]int{}
	for it := range store.Below[*cluster.Allocation](v, cluster.PrefixAllocIP(vpc)) {
		a, ok := addrOf(it.Key)
		switch {
		case !ok || !n.Prefix.Contains(a) || a == n.Gateway:
		case it.Value.Released:
			u.Resting++
		default:
			u.Used++
			at[nodeOf(v, vpc, it.Value.Holder)]++
		}
	}
	u.Free = u.Capacity - min(u.Used+u.Resting, u.Capacity)
	for node, n := range at {
		u.Top = append(u.Top, Share{node, n})
	}
	slices.SortFunc(u.Top, func(a, b Share) int {
		return cmp.Or(cmp.Compare(b.Addresses, a.Addresses), cmp.Compare(a.Node, b.Node))
	})
	u.Top = u.Top[:min(len(u.Top), topMost)]
	return u
}

// nodeOf is where an endpoint is, else who asked for it.
func nodeOf(v *store.View, vpc, endpoint string) string {
	if own, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(vpc, endpoint)); ok && own.Value.Node != "" {
		return own.Value.Node
	}
	if spec, ok := store.At[*cluster.EndpointSpec](v, cluster.KeyEndpointSpec(vpc, endpoint)); ok {
		return spec.Value.Requester
	}
	return ""
}
