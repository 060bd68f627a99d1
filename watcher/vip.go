package watcher

import (
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// readVIPs reads the specs of a VPC's VIPs, nil if it has none.
func readVIPs(v *store.View, vpc string) (vips map[string]*cluster.EndpointSpec) {
	for it := range store.Below[*cluster.EndpointSpec](v, cluster.PrefixEndpoints(vpc)) {
		if it.Value.Failover.Mode != cluster.ModeVIP {
			continue
		}
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue
		}
		if vips == nil {
			vips = map[string]*cluster.EndpointSpec{}
		}
		vips[k.Name] = it.Value
	}
	return vips
}

// absorbVIPs has each VIP that this host may serve attached to the VPC's own namespace,
// as nobody else attaches it, and reports whether any came or went. From then on it is
// what a workload's attachment is. A spec that vanished changes nothing; a VIP is
// forgotten when nothing of it is left in a list that holds this node's own record.
func (a *Agent) absorbVIPs(view *store.View, r records) (changed bool) {
	if a.hold != "" || a.memory.Left || r.node == nil {
		return false
	}
	for name, v := range a.memory.VPCs {
		if v.Leaving || v.read == nil || !v.confirmed || v.hold != "" {
			continue
		}
		for endpoint, at := range v.Attachments {
			if at.Kind == hostops.PortVIP && a.endsVIP(readEndpoint(view, name, endpoint), r.node) {
				a.log.Info("no VIP of this host any more", zap.String("vpc", name), zap.String("endpoint", endpoint))
				v.end(endpoint, a.cfg.Node, a.now)
				changed = true
			}
		}
		for endpoint, spec := range r.vpcs[name].vips {
			_, attached := v.Attachments[endpoint]
			if _, may := spec.Failover.Place.Rank(a.cfg.Node, r.node); !attached && may && spec.State == cluster.EndpointActive && v.vips() < cluster.MaxVIPs {
				v.attach(endpoint, attachment{Kind: hostops.PortVIP, Standby: true, kept: true}) // the controller gives it, unasked
				changed = true
			}
		}
	}
	return changed
}

// vips counts the VIPs that this host may serve.
func (v *vpc) vips() (n int) {
	for _, at := range v.Attachments {
		if at.Kind == hostops.PortVIP {
			n++
		}
	}
	return n
}

// ended reports whether this host has ended the term of an own record.
func (v *vpc) ended(endpoint string, o *cluster.EndpointOwn) bool {
	r, ended := v.Released[endpoint]
	return ended && !r.before(termOf(o))
}

// endsVIP reports whether records say that this host is not to serve a VIP any more.
func (a *Agent) endsVIP(r endpointRecords, me *cluster.Node) bool {
	if r.spec == nil {
		return r.none
	}
	_, may := r.spec.Failover.Place.Rank(a.cfg.Node, me)
	return r.spec.Failover.Mode != cluster.ModeVIP || !may
}

// refuseVIP refuses to attach or detach what hosts serve themselves.
func refuseVIP(verb, vpc, endpoint string) *local.Refusal {
	return refuse(local.CodeInvalid, "run what is to answer there in the network namespace "+hostops.NamespaceOf(vpc)+" of each of its places",
		"%s endpoint %q: it is a VIP, which hosts serve themselves: nothing is attached", verb, endpoint)
}
