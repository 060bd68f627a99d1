package main

import (
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
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
			if len(found) <= fewPorts {
				prefixes = append(prefixes, cluster.KeyEndpointStatus(e.own.Node, e.vpc, e.name))
			} else {
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
