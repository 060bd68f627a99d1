package watcher

import (
	"maps"
	"slices"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// detach takes an attachment out of memory. What is not attached is detached
// already, and it may still have to be deleted.
func (a *Agent) detach(view *store.View, w *waiter, q local.DetachRequest) (changed bool, _ *local.Refusal) {
	if err := cluster.CheckNodeName(q.Endpoint); err != nil {
		return false, refuse(local.CodeInvalid, "", "detach endpoint: %v", err)
	}
	vpc, refusal := a.vpcOfDetach(q)
	v := a.memory.VPCs[vpc]
	if refusal != nil || v == nil || v.Leaving {
		return false, refusal
	}
	w.port, w.anyway = portID{vpc, q.Endpoint}, q.Delete
	if v.Attachments[q.Endpoint].Kind == hostops.PortVIP {
		return false, refuseVIP("detach", vpc, q.Endpoint)
	}
	_, attached := v.Attachments[q.Endpoint]
	r := readEndpoint(view, vpc, q.Endpoint)
	ours := r.spec != nil && r.spec.Requester == a.cfg.Node || r.spec == nil && (attached || r.own != nil && r.own.Node == a.cfg.Node)
	if q.Delete && ours && !v.Deletes[q.Endpoint] && (r.spec == nil || r.spec.State != cluster.EndpointDeleting) {
		v.wantDelete(q.Endpoint)
		changed = true
	}
	if !attached {
		return changed, nil
	}
	a.log.Info("detaching", zap.String("vpc", vpc), zap.String("endpoint", q.Endpoint))
	v.end(q.Endpoint, a.cfg.Node, a.now)
	delete(a.unanswered, w.port)
	return true, nil
}

// vpcOfDetach is the VPC that an endpoint is attached in, "" for none.
func (a *Agent) vpcOfDetach(q local.DetachRequest) (string, *local.Refusal) {
	if q.VPC != "" {
		return q.VPC, nil
	}
	var in []string
	for _, vpc := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
		if _, ok := a.memory.VPCs[vpc].Attachments[q.Endpoint]; ok {
			in = append(in, vpc)
		}
	}
	switch len(in) {
	case 0:
		return "", nil
	case 1:
		return in[0], nil
	}
	return "", refuse(local.CodeInvalid, "say which by --vpc", "detach endpoint %q: it is attached in several VPCs: %s", q.Endpoint, andMore(in))
}
