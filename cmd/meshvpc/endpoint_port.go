package main

import (
	"fmt"
	"maps"
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
	// Dropped counts the frames that it was kept from sending, by reason.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
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
	return &portReport{e.own.Node, s.State, clean(s.Reason), clean(s.Device), s.Epoch, s.Dropped}
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

// droppedText says what a port was kept from sending: "12 frames dropped that
// it may not send: arp 3, mac 9".
func droppedText(dropped map[string]uint64) string {
	var total uint64
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(dropped)) {
		total += dropped[reason]
		parts = append(parts, fmt.Sprintf("%s %d", reason, dropped[reason]))
	}
	return fmt.Sprintf("%d frames dropped that it may not send: %s", total, strings.Join(parts, ", "))
}

// judgePorts finds the workloads of which a node reports that they have no port, and
// notes those that are kept from sending something.
func (r *statusReport) judgePorts(v *store.View) {
	for it := range store.Below[*cluster.EndpointStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err == nil && it.Value.State == cluster.PortFailed {
			r.add(fmt.Sprintf("endpoint %s of VPC %s on %s: %s", k.Name, k.VPC, k.Node, clean(it.Value.Reason)), fmt.Sprintf("meshvpc endpoint show %s --vpc %s", k.Name, k.VPC))
		}
		if err == nil && len(it.Value.Dropped) > 0 {
			r.Notes = append(r.Notes, fmt.Sprintf("endpoint %s of VPC %s on %s: %s", k.Name, k.VPC, k.Node, droppedText(it.Value.Dropped)))
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

// droppedPorts notes what this host's agent keeps workloads from sending.
func droppedPorts(list []local.Attached) (notes []string) {
	for _, a := range list {
		if len(a.Dropped) > 0 {
			notes = append(notes, fmt.Sprintf("endpoint %s of VPC %s: %s", a.Endpoint, a.VPC, droppedText(a.Dropped)))
		}
	}
	return notes
}
