package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// portReport is an endpoint's port in JSON, as the node that has it reports.
type portReport struct {
	Node   string            `json:"node"`
	State  cluster.PortState `json:"state"`
	Reason string            `json:"reason,omitempty"`
	Device string            `json:"device,omitempty"`
	Epoch  int64             `json:"epoch"`
}

// fewPorts is how many reports are read one by one: of more, a node's all at once.
const fewPorts = 16

// portPrefixes are where the owners of the endpoints in v that keep says report.
func portPrefixes(keep func(*endpointRecords) bool) func(v *store.View) []string {
	return func(v *store.View) (prefixes []string) {
		found := endpointsOf(v, func(e *endpointRecords) bool { return keep(e) && e.own != nil && e.own.Node != "" })
		for _, e := range found {
			switch {
			case len(found) <= fewPorts && e.moves():
				for it := range store.Below[*cluster.Member](v, cluster.PrefixMembers(e.vpc)) {
					prefixes = append(prefixes, cluster.KeyEndpointStatus(strings.TrimPrefix(it.Key, cluster.PrefixMembers(e.vpc)), e.vpc, e.name))
				}
			case len(found) <= fewPorts:
				prefixes = append(prefixes, cluster.KeyEndpointStatus(e.own.Node, e.vpc, e.name))
			default:
				prefixes = append(prefixes, cluster.PrefixStatus(e.own.Node)+"endpoints/")
			}
		}
		slices.Sort(prefixes)
		return slices.Compact(prefixes)
	}
}

// portOf is what the owner of an endpoint reports of its port, nil if nothing.
func portOf(v *store.View, e *endpointRecords) *portReport {
	if e.own == nil || e.own.Node == "" {
		return nil
	}
	it, ok := store.At[*cluster.EndpointStatus](v, cluster.KeyEndpointStatus(e.own.Node, e.vpc, e.name))
	if !ok || it.Value.State == cluster.PortReleased {
		return nil
	}
	s := it.Value
	return &portReport{e.own.Node, s.State, clean(s.Reason), clean(s.Device), s.Epoch}
}

// String is the port in words: "ready, port me-0011223344ff", "failed: why".
func (r *portReport) String() string {
	if r == nil {
		return ""
	}
	if r.State == cluster.PortFailed {
		return string(r.State) + suffix(": ", r.Reason)
	}
	return string(r.State) + suffix(", port ", r.Device) + suffix(": ", r.Reason)
}

// judgePorts finds the workloads of which a node reports that they have no port.
func (r *statusReport) judgePorts(v *store.View) {
	for it := range store.Below[*cluster.EndpointStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err == nil && it.Value.State == cluster.PortFailed {
			r.add(fmt.Sprintf("endpoint %s of VPC %s on %s: %s", k.Name, k.VPC, k.Node, clean(it.Value.Reason)), fmt.Sprintf("meshvpc endpoint show %s --vpc %s", k.Name, k.VPC))
		}
	}
}

// failedPorts are what this host's agent says of workloads that have no port, with
// what mends it.
func failedPorts(list []local.Attached) (found []finding) {
	for _, a := range list {
		if a.State == cluster.PortFailed {
			found = append(found, finding{fmt.Sprintf("endpoint %s of VPC %s: %s", a.Endpoint, a.VPC, clean(a.Reason)),
				fmt.Sprintf("start its workload again, or meshvpc endpoint detach %s --vpc %s", a.Endpoint, a.VPC)})
		}
	}
	return found
}
