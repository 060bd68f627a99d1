package controller

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// report takes what a node reports about the endpoint.
func (e *endpoint) report(node string, it portItem) {
	if e.ports == nil {
		e.ports = map[string]portItem{}
	}
	e.ports[node] = it
}

// released reports whether the owner said that it ended this epoch.
func (e *endpoint) released(own *cluster.EndpointOwn) bool {
	p, ok := e.ports[own.Node]
	return ok && p.Value.State == cluster.PortReleased && p.Value.Era == own.Era && p.Value.Epoch == own.Epoch && !p.Value.Workload.MayRun()
}

// workload is in which state the owner has what it started in this epoch, "" if it has
// not said so.
func (e *endpoint) workload(own *cluster.EndpointOwn) cluster.WorkloadState {
	p, ok := e.ports[own.Node]
	if !ok {
		return ""
	}
	return p.Value.Workload.In(own)
}

// attached reports whether a workload has the endpoint's addresses on a host that
// will let go of them as soon as it reads that it is being deleted. Records that
// went before that would be kept as they were there.
func (w *world) attached(v *vpc, e *endpoint) bool {
	for node, p := range e.ports {
		if p.Value.State != cluster.PortReleased && w.alive[node] && w.serves(v, node) {
			return true
		}
	}
	return false
}

// serves reports whether a node has a part in the VPC, if only its assignment says
// so any more.
func (w *world) serves(v *vpc, node string) bool {
	if n := w.nodes[node]; n != nil && n.State == cluster.NodeLeft {
		return false
	}
	a, assigned := v.assigns[node]
	_, member := v.members[node]
	return member || assigned && a.Value.State == cluster.AssignedMember
}

// place decides which node an endpoint is at. Another owner has a higher epoch, and
// so has the same one after it ended this one, and in a new era: hosts may have seen
// more than a store that was restored knows of.
func (w *world) place(v *vpc, e *endpoint, own *cluster.EndpointOwn, u *unit) {
	first := own.Era == 0
	if first {
		own.Node, own.Epoch = w.lastOwner(v, e)
	}
	own.Restored = own.Restored && e.workload(own) != cluster.WorkloadRunning
	node, why := w.ownerOf(v, e, own)
	if own.Reason == "" {
		own.Reason = why
	}
	own.State = cluster.OwnUnplaced
	if node != "" {
		own.State = cluster.OwnAssigned
	}
	older := w.config != nil && own.Era < w.config.Era
	if node == own.Node && !first && !older && !(e.granted != nil && e.released(own)) {
		w.handOver(v, e, own, u)
		return
	}
	if own.Node != "" { // what it reports decided that, too
		it, _ := store.At[*cluster.EndpointStatus](w.view, cluster.KeyEndpointStatus(own.Node, v.name, e.name))
		u.change.Require(it.Key, it.Mod)
	}
	own.Restored = older && !first && node != "" && node == own.Node && e.spec.Value.Failover.Stateful()
	if e.grant != nil && (node != "" || e.grant.To == "") {
		w.requireGrant(v, e, node, u)
		own.Moved = cmp.Or(e.grant.Moved, own.Moved)
	}
	own.Node, own.To = node, ""
	own.Epoch++
	if w.config != nil {
		own.Era = max(own.Era, w.config.Era)
	}
	own.Era = max(own.Era, 1)
}

// ownerOf is the node that an endpoint is to be at, "" for none, and why it is not
// where its spec wants it.
func (w *world) ownerOf(v *vpc, e *endpoint, own *cluster.EndpointOwn) (node, why string) {
	spec := e.spec.Value
	switch stays := own.Node != "" && w.serves(v, own.Node); {
	case spec.Failover.Moves():
		return w.movesTo(v, e, own, stays)
	case spec.Node == "" && e.granted != nil:
		return e.granted.node, ""
	case spec.Node == "" && stays && !e.released(own):
		return own.Node, ""
	case spec.Node == "":
		return "", ""
	case stays && own.Node != spec.Node && !w.letsGo(e, own):
		return own.Node, fmt.Sprintf("it is to be at %s, and stays at %s, which had it and does not answer", spec.Node, own.Node)
	}
	if !w.serves(v, spec.Node) {
		return "", fmt.Sprintf("node %s is no member of the VPC", spec.Node)
	}
	return spec.Node, ""
}

// movesTo is ownerOf for an endpoint that moves by itself: an operator's word comes
// first, then what failover decided.
func (w *world) movesTo(v *vpc, e *endpoint, own *cluster.EndpointOwn, stays bool) (node, why string) {
	f := &e.spec.Value.Failover
	to := f.MoveTo
	if f.Strict() {
		return w.strictTo(v, e, own)
	}
	asked := to.Node != "" && to.Epoch == own.Epoch && to.Node != own.Node && w.serves(v, to.Node) && !w.fenced[to.Node]
	switch {
	case asked && (!stays || e.grant != nil || w.letsGo(e, own)):
		return to.Node, ""
	case e.grant != nil:
		return e.grant.To, ""
	case asked:
		return own.Node, fmt.Sprintf("it is to move to %s, and stays at %s, which had it and does not answer", to.Node, own.Node)
	case stays && !e.released(own):
		return own.Node, e.waitsFor()
	case e.granted != nil:
		return e.granted.node, ""
	case f.Workload != "":
		return "", e.waitsFor()
	}
	return "", ""
}

// strictTo is movesTo for an endpoint that is exclusive strict. Its node is another
// only after the owner said that it has shut it, and ended its workload, or by what
// failover has proof of, or if the operator vouches for that; else it is asked to hand it
// over.
func (w *world) strictTo(v *vpc, e *endpoint, own *cluster.EndpointOwn) (node, why string) {
	f, forced := &e.spec.Value.Failover, e.spec.Value.ForcedFrom
	to := f.MoveTo
	vouched := forced.Node == own.Node && forced.Epoch == own.Epoch
	if vouched && to == forced {
		own.Restored = false // an operator knows that it is there
	}
	asked := to.Node != "" && to.Epoch == own.Epoch && to.Node != own.Node && w.serves(v, to.Node) && !w.fenced[to.Node]
	free := own.Node == "" || e.released(own) && !own.Restored
	failed := e.workload(own) == cluster.WorkloadFailed && !own.Restored
	switch {
	case asked && (free || failed || e.grant != nil || vouched):
		return to.Node, ""
	case e.grant != nil:
		return e.grant.To, ""
	case free && e.granted != nil:
		return e.granted.node, ""
	case free:
		return "", e.waitsFor()
	case asked:
		return own.Node, w.handsOver(e, own, to.Node)
	}
	return own.Node, e.waitsFor()
}

// handsOver has the owner of a strict endpoint hand it over to a node, if that can have
// it, and says what is waited for.
func (w *world) handsOver(e *endpoint, own *cluster.EndpointOwn, to string) string {
	switch why := w.notReady(e, to); {
	case own.Restored:
		return fmt.Sprintf("it is to move to %s, and stays at %s: the store was restored, and nobody says where its workload runs", to, own.Node)
	case own.To == "" && why != "":
		return fmt.Sprintf("it is to move to %s, where %s", to, why)
	}
	e.to = to
	return fmt.Sprintf("it is to move to %s, when %s has said that it serves it no more", to, own.Node)
}

// notReady says why a workload cannot be started at a node, "" if it can, or there is
// none to be started.
func (w *world) notReady(e *endpoint, node string) string {
	p, ok := e.ports[node]
	switch {
	case e.spec.Value.Failover.Workload == "":
		return ""
	case !ok || !w.alive[node] || p.Value.Workload == nil:
		return "nothing is attached"
	case !p.Value.Gated:
		return "its kernel does not shut it by itself"
	case p.Value.State == cluster.PortStandby && !p.Value.Workload.MayRun():
		return ""
	}
	return "it is " + string(p.Value.State) + ", and its workload " + string(p.Value.Workload.State)
}

// letsGo reports whether the owner has no part in the endpoint any more, or will
// mute its port as soon as it reads who has it, or the operator vouches for that.
func (w *world) letsGo(e *endpoint, own *cluster.EndpointOwn) bool {
	p, reported := e.ports[own.Node]
	forced := e.spec.Value.ForcedFrom
	return !reported || p.Value.State == cluster.PortReleased || w.alive[own.Node] ||
		forced.Node == own.Node && forced.Epoch == own.Epoch
}

// epochMost bounds what is believed of a node's report: no node shall use up all
// epochs.
const epochMost = 1 << 52

// lastOwner is who had an endpoint that never was placed by the records that there
// are, and the greatest epoch that nodes know of. An own record that was lost is
// made as it was, by what nodes report. An endpoint that was deleted and made again
// has no owner, and still goes on above all reports of what it was.
func (w *world) lastOwner(v *vpc, e *endpoint) (node string, epoch int64) {
	lost := slices.ContainsFunc(e.held, func(it allocItem) bool { return !it.Value.Released })
	var of cluster.EndpointStatus
	for _, name := range slices.Sorted(maps.Keys(e.ports)) {
		s := e.ports[name].Value
		if s.Epoch > epochMost {
			continue
		}
		epoch = max(epoch, s.Epoch)
		newer := node == "" || s.Era > of.Era || s.Era == of.Era && s.Epoch > of.Epoch
		runs := s.Workload != nil && (s.Workload.State == cluster.WorkloadStarting || s.Workload.State == cluster.WorkloadRunning)
		if lost && newer && (s.State == cluster.PortReady || runs) && w.serves(v, name) {
			node, of = name, *s
		}
	}
	return node, epoch
}
