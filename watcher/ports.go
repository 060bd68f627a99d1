package watcher

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// portProblem is why a port is not as desired, "" if nothing is known.
func (a *Agent) portProblem(id portID) string {
	for _, p := range a.host0.Problems {
		if p.VPC == id.vpc && p.Endpoint == id.endpoint {
			return cluster.CleanText(p.Reason)
		}
	}
	return ""
}

// portState is how an attachment is, and why if that is not as it should be.
func (a *Agent) portState(id portID, at attachment) (_ cluster.PortState, reason string) {
	v := a.memory.VPCs[id.vpc]
	serves := v.serves(id.endpoint, a.cfg.Node)
	problem := a.portProblem(id)
	switch {
	case at.lost != "":
		return cluster.PortFailed, at.lost
	case at.Own == nil:
		return cluster.PortFailed, "waiting for the controller to give it addresses"
	case problem != "":
		return cluster.PortFailed, problem
	case !a.host0.Attached[id.vpc][id.endpoint]:
		return cluster.PortFailed, cmp.Or(cluster.CleanText(a.status(id.vpc).Reason), "it is not in place yet")
	case serves && at.shut != "":
		return cluster.PortStandby, at.shut
	case at.Workload.Name != "":
		return v.workloadPort(id.endpoint, at, serves)
	case serves:
		return cluster.PortReady, at.hold
	case at.Own.Node != "" && at.Own.Node != a.cfg.Node:
		return cluster.PortStandby, at.hold
	}
	return cluster.PortStandby, cmp.Or(at.hold, "waiting for the controller to make this node its owner")
}

// workloadPort is portState of a port that is in place, as far as its workload goes.
func (v *vpc) workloadPort(endpoint string, at attachment, serves bool) (_ cluster.PortState, reason string) {
	w := v.Workloads[endpoint]
	switch {
	case w == nil || w.State.MayRun() && w.tries > 0:
		return cluster.PortFailed, w.waits()
	case serves && w.State == cluster.WorkloadFailed && w.term == termOf(at.Own):
		return cluster.PortFailed, cluster.CleanText("its workload failed: " + w.Reason)
	case serves && at.Own.Restored && w.State != cluster.WorkloadRunning:
		return cluster.PortStandby, "the store was restored, and nobody says where its workload is to run"
	case serves && v.mayServe(endpoint):
		return cluster.PortReady, at.hold
	case serves || w.State.MayRun():
		return cluster.PortStandby, w.waits()
	}
	return cluster.PortStandby, at.hold
}

// workloadStatus is what is reported of an endpoint's workload. Of a strict one that is
// this host's its end is not said before the port lets nothing pass either, and the next
// agent would know: another node may have it by that word.
func (a *Agent) workloadStatus(id portID, at attachment) *cluster.WorkloadStatus {
	v := a.memory.VPCs[id.vpc]
	w := v.Workloads[id.endpoint]
	s := w.status()
	if s != nil && at.Strict && v.owns(id.endpoint, a.cfg.Node) && w.term == termOf(at.Own) && !s.State.MayRun() && (!w.kept || !a.down(id, at)) {
		s.State = cluster.WorkloadStopping
	}
	return s
}

// attached is a workload's port as clients see it.
func (a *Agent) attached(id portID, at attachment) local.Attached {
	v := a.memory.VPCs[id.vpc]
	t := local.Attached{
		VPC: id.vpc, Endpoint: id.endpoint, Device: at.device(id.vpc, id.endpoint), Inner: at.Inner, MTU: v.MTU,
		Trusted: at.Trusted, Created: at.Ours, For: at.For, Epoch: termOf(at.Own).Epoch,
	}
	t.State, t.Reason = a.portState(id, at)
	t.Dropped = a.dropped(id, at)
	if at.Kind == hostops.PortNetns {
		t.Netns = at.Target
	}
	if at.Own != nil {
		t.MAC, t.Addresses = at.Own.MAC, v.addressesOf(at.Own)
		if t.Gateways = v.gatewaysOf(at); t.Gateways != nil {
			t.Routes = v.Gateway.Routes.List()
		}
	}
	return t
}

// portIDs lists what is attached, by VPC and endpoint.
func (a *Agent) portIDs() (ids []portID) {
	for vpc, v := range a.memory.VPCs {
		for name := range v.Attachments {
			ids = append(ids, portID{vpc, name})
		}
	}
	slices.SortFunc(ids, func(x, y portID) int {
		return cmp.Or(strings.Compare(x.vpc, y.vpc), strings.Compare(x.endpoint, y.endpoint))
	})
	return ids
}

// ports lists what is attached for clients.
func (a *Agent) ports() local.Ports {
	p := local.Ports{Ports: []local.Attached{}}
	for _, id := range a.portIDs() {
		p.Ports = append(p.Ports, a.attached(id, a.memory.VPCs[id.vpc].Attachments[id.endpoint]))
	}
	return p
}

// reportPorts writes the reports about endpoints that changed.
func (a *Agent) reportPorts() {
	if a.mute() {
		return
	}
	seen := map[portID]bool{}
	for vpc, v := range a.memory.VPCs {
		for name := range v.Attachments {
			a.reportPort(portID{vpc, name}, seen)
		}
		for name := range v.Released {
			a.reportPort(portID{vpc, name}, seen)
		}
		for name := range v.Workloads {
			a.reportPort(portID{vpc, name}, seen)
		}
	}
	for id := range a.told {
		if !seen[id] {
			delete(a.told, id)
			a.write(cluster.KeyEndpointStatus(a.cfg.Node, id.vpc, id.endpoint), nil, 0)
		}
	}
}

// reportPort writes the report about one endpoint, if there is one and it changed.
func (a *Agent) reportPort(id portID, seen map[portID]bool) {
	if seen[id] {
		return
	}
	s := a.endpointStatus(id)
	if s == nil {
		return
	}
	seen[id] = true
	if old := a.told[id]; old != nil && sameEndpoint(s, old) {
		return
	}
	s.At = cluster.At(a.now)
	own := *s // encoding cleans texts in place, beside the passes
	a.write(cluster.KeyEndpointStatus(a.cfg.Node, id.vpc, id.endpoint), &own, 0)
	a.told[id] = s
}

// endpointStatus is what this host says of an endpoint, nil if nothing: of one
// that somebody waits for to be attached, only that it is.
func (a *Agent) endpointStatus(id portID) *cluster.EndpointStatus {
	v := a.memory.VPCs[id.vpc]
	s := &cluster.EndpointStatus{NodeID: a.cfg.NodeID}
	if at, ok := v.Attachments[id.endpoint]; ok {
		s.State, s.Reason = a.portState(id, at)
		s.Gated = at.Strict && a.gate.closed[id]
		if o := at.Own; o != nil && o.Node == a.cfg.Node && o.To != "" && at.hold == "" && at.Workload.Name == "" && a.down(id, at) { // it is being handed over
			s.State, s.Reason = cluster.PortReleased, ""
		}
		s.Dropped = a.dropped(id, at)
		s.Device, s.Era, s.Epoch = at.device(id.vpc, id.endpoint), termOf(at.Own).Era, termOf(at.Own).Epoch
		s.Workload = a.workloadStatus(id, at)
		ready := s.State == cluster.PortReady
		if ended, was := v.Released[id.endpoint]; (!was || ended.before(termOf(at.Own)) || at.Own.Node != a.cfg.Node) && (at.kept || !ready) && (ready || !a.unanswered[id]) {
			return s
		}
	}
	ended, ok := v.Released[id.endpoint]
	if w := v.Workloads[id.endpoint]; w != nil && w.State.MayRun() { // nothing is released before that has ended
		return &cluster.EndpointStatus{NodeID: a.cfg.NodeID, State: cluster.PortFailed, Reason: w.waits(), Era: w.Era, Epoch: w.Epoch, Workload: w.status()}
	}
	if !ok {
		return nil
	}
	w := v.Workloads[id.endpoint]
	if at := v.Attachments[id.endpoint]; w != nil && at.Strict && !a.down(id, at) {
		return &cluster.EndpointStatus{NodeID: a.cfg.NodeID, State: cluster.PortStandby, Reason: "its port is not shut yet", Era: ended.Era, Epoch: ended.Epoch, Workload: a.workloadStatus(id, at)}
	}
	if w != nil && !ended.kept {
		return &cluster.EndpointStatus{NodeID: a.cfg.NodeID, State: cluster.PortStandby, Reason: "its end is not in the cache file yet", Era: ended.Era, Epoch: ended.Epoch, Workload: w.status()}
	}
	return &cluster.EndpointStatus{NodeID: a.cfg.NodeID, State: cluster.PortReleased, Era: ended.Era, Epoch: ended.Epoch, Workload: w.status()}
}

func sameEndpoint(x, y *cluster.EndpointStatus) bool {
	return x.NodeID == y.NodeID && x.State == y.State && x.Reason == y.Reason && x.Device == y.Device && x.Era == y.Era && x.Epoch == y.Epoch && x.Gated == y.Gated &&
		maps.Equal(x.Dropped, y.Dropped) && (x.Workload == y.Workload || x.Workload != nil && y.Workload != nil && *x.Workload == *y.Workload)
}

// compareEndpoints sees that the store holds what was reported of endpoints, and
// what was asked for, as compareOwn does.
func (a *Agent) compareEndpoints(have map[string][]byte) {
	for key, value := range have {
		k, err := cluster.ParseKey(key)
		if err != nil || k.Kind != cluster.KindPort && k.Kind != cluster.KindRequest {
			continue
		}
		id := portID{k.VPC, k.Name}
		switch r, asked := a.requests[id]; {
		case k.Kind == cluster.KindRequest && (!asked || !holds(value, &r)):
			a.forgetRequest(id, asked)
		case k.Kind == cluster.KindPort && a.told[id] == nil:
			a.write(key, nil, 0)
		}
	}
	for id, s := range a.told {
		own := *s
		if !holds(have[cluster.KeyEndpointStatus(a.cfg.Node, id.vpc, id.endpoint)], &own) {
			delete(a.told, id)
		}
	}
	for id := range a.requests {
		if _, there := have[cluster.KeyRequest(a.cfg.Node, id.vpc, id.endpoint)]; !there {
			delete(a.requests, id)
		}
	}
}
