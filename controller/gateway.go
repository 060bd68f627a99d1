package controller

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// inTheWay says who has an address of a gateway that is asked for, "" if nobody has.
func (v *vpc) inTheWay(g cluster.Gateway) string {
	for _, name := range slices.Sorted(maps.Keys(v.endpoints)) {
		own := v.endpoints[name].own.Value
		if own == nil {
			continue
		}
		for _, p := range g.Addresses.List() {
			if slices.Contains(own.IPs, p.Addr()) {
				return fmt.Sprintf("gateway %s is not in force: endpoint %s has the address %s", g.Addresses, name, p.Addr())
			}
		}
	}
	return ""
}
