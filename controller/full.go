package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/allocator"
)

// full says that a pool has no address left, how large it is, and who holds most.
// What is in the endpoint's reason about that pool stays: each address that comes or
// goes would otherwise rewrite all endpoints that wait for one.
func (v *vpc) full(e *endpoint, pool allocator.Network) string {
	head := fmt.Sprintf("%s is full: %d addresses", pool.Prefix, pool.Capacity())
	if own := e.own.Value; own != nil && strings.HasPrefix(own.Reason, head+", ") {
		return own.Reason
	}
	if most := v.mostAt(pool.Prefix); most != "" {
		head += ", most at " + most
	}
	return fmt.Sprintf("%s, and released ones are free again only after %s", head, allocator.QuarantineTime)
}

// mostAt names the node that most of a network's addresses are at, or were asked
// for by, with their number; "" if none are anywhere. It is counted once a pass.
func (v *vpc) mostAt(network netip.Prefix) string {
	if most, ok := v.most[network]; ok {
		return most
	}
	at := map[string]int{}
	for _, e := range v.endpoints {
		own := e.own.Value
		if own == nil || !slices.ContainsFunc(own.IPs, network.Contains) {
			continue
		}
		node := own.Node
		if s := e.spec.Value; node == "" && s != nil {
			node = s.Requester
		}
		if node != "" {
			at[node]++
		}
	}
	most := ""
	if names := slices.Sorted(maps.Keys(at)); len(names) > 0 {
		top := slices.MaxFunc(names, func(a, b string) int { return cmp.Compare(at[a], at[b]) })
		most = fmt.Sprintf("%s (%d)", top, at[top])
	}
	v.most[network] = most
	return most
}
