package controller

import (
	"cmp"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

// requestTime is how long a request waits for what it needs, from when this leader
// first saw it.
const requestTime = 60 * time.Second

// request is what a node asks for of one endpoint.
type request struct {
	node     string
	vpc      *vpc
	endpoint *endpoint
	key      string
	mod      int64
	value    *cluster.Request // nil: nobody can read it
}

// outcome is what becomes of a request.
type outcome int

const (
	refused outcome = iota // it is deleted; the records say why
	waits                  // it stays
	granted
)

func (w *world) readRequests() {
	for it := range store.Below[*cluster.Request](w.view, cluster.PrefixReqs) {
		if k, err := cluster.ParseKey(it.Key); err == nil {
			v := w.vpc(k.VPC)
			w.asked = append(w.asked, &request{k.Node, v, v.endpoint(k.Name), it.Key, it.Mod, it.Value})
		}
	}
}

// requests decides what becomes of what nodes ask for, whoever asked first first.
// One at most is granted for each endpoint: what it asks for is done, and it is
// deleted, where the endpoint is looked after. The plan deletes the others, but
// those that wait; next is when the first of these has waited enough.
func (s *state) requests(w *world, now time.Time) (p plan, next time.Time) {
	p.group = "requests"
	slices.SortFunc(w.asked, func(a, b *request) int { return cmp.Or(cmp.Compare(a.mod, b.mod), cmp.Compare(a.key, b.key)) })
	still := map[string]sighting{}
	for _, r := range w.asked {
		what := refused
		if r.value != nil {
			what = w.judge(r)
		}
		switch {
		case what == granted && r.endpoint.granted == nil:
			r.endpoint.granted = r
			w.counts(r)
			continue
		case what == granted: // to another, at this moment; the next pass knows
			continue
		case what == waits:
			seen, ok := s.asked[r.key]
			if !ok || seen.mod != r.mod {
				seen = sighting{r.mod, now}
			}
			if end := seen.at.Add(requestTime); now.Before(end) {
				still[r.key] = seen
				next = earlier(next, end)
				continue
			}
		}
		u := unit{verb: "refuse", object: r.node + " " + r.endpoint.name}
		u.change.Remove(r.key, r.mod)
		p.add(u)
	}
	s.asked = still
	return p, next
}

// judge says what becomes of a request, as the records are.
func (w *world) judge(r *request) outcome {
	v, n := r.vpc, w.nodes[r.node]
	if n == nil || n.ID != r.value.NodeID || n.State == cluster.NodeLeft {
		return refused
	}
	spec := v.spec.Value
	a, assigned := v.assigns[r.node]
	_, member := v.members[r.node]
	switch {
	case v.blocked:
		return waits
	case spec == nil, v.deleting():
		return refused
	case v.net.Value == nil, v.net.Value.Phase != cluster.PhaseActive:
		if spec.Members.Selects(r.node, n) {
			return waits
		}
		return refused
	case !assigned, a.Value.State != cluster.AssignedMember, r.endpoint.blocked:
		return refused
	case !member: // its record was lost
		return waits
	case r.value.Want == cluster.WantDelete:
		return w.judgeDelete(r)
	}
	return w.judgeAttach(r)
}

// judgeDelete grants the deletion of what was made for a workload of the node, and
// serves none elsewhere.
func (w *world) judgeDelete(r *request) outcome {
	spec, own := r.endpoint.spec.Value, r.endpoint.own.Value
	switch {
	case spec == nil, spec.State != cluster.EndpointActive, spec.Requester != r.node:
		return refused
	case own != nil && own.Node != r.node && w.serves(r.vpc, own.Node):
		return refused
	}
	return granted
}

// judgeAttach grants an endpoint to a node where it may be, if no other has it.
func (w *world) judgeAttach(r *request) outcome {
	spec, own := r.endpoint.spec.Value, r.endpoint.own.Value
	switch {
	case spec == nil && r.endpoint.name == cluster.GatewayEndpoint:
		return refused // it is the controller's to make
	case spec == nil && own == nil && r.value.Create:
		return granted
	case spec == nil:
		return refused
	case spec.State == cluster.EndpointDeleting:
		return waits
	case spec.Node != "" && spec.Node != r.node, !w.mayHave(r.node, spec), spec.Failover.Workload != "": // what is started is given by failover alone
		return refused
	case spec.Failover.Moves() && w.crowds(r):
		return refused // it is in standby there, and failover finds another
	case own == nil, own.Node == "", r.endpoint.released(own), !w.serves(r.vpc, own.Node):
		return granted
	}
	return refused // it is another's, or this node's already
}

// mayHave reports whether an endpoint, if it moves by itself, may be at a node.
func (w *world) mayHave(node string, spec *cluster.EndpointSpec) bool {
	_, place := spec.Failover.Place.Rank(node, w.nodes[node])
	return !spec.Failover.Moves() || place && !w.fenced[node]
}

// choosing is what is where, for the endpoints that move by themselves.
func (w *world) choosing() *failover.Chooser {
	if w.chooser == nil {
		w.chooser = &failover.Chooser{Nodes: w.nodes}
		for _, v := range w.vpcs {
			for _, e := range v.endpoints {
				if v.moves(e) {
					w.chooser.Put(v.movable(e))
				}
			}
		}
	}
	return w.chooser
}

// crowds reports whether a node may not have what it asks for beside what it has.
func (w *world) crowds(r *request) bool {
	return w.choosing().Crowded(r.vpc.movable(r.endpoint), r.node) != ""
}

// counts takes a request that is granted for done: others of this pass may be of the
// same group.
func (w *world) counts(r *request) {
	if spec := r.endpoint.spec.Value; spec != nil && spec.Failover.Moves() && r.value.Want != cluster.WantDelete {
		w.choosing().Move(r.vpc.movable(r.endpoint), r.node)
	}
}

// movable is an endpoint as failover looks at it, but for what nodes report.
func (v *vpc) movable(e *endpoint) *failover.Endpoint {
	return &failover.Endpoint{VPC: v.name, Name: e.name, Failover: &e.spec.Value.Failover, Own: e.own.Value, Held: e.hold.Mod != 0}
}

// take does what a granted request asks for of the spec, in one unit with the
// request's deletion; the rest is for whoever looks after the endpoint.
func (e *endpoint) take(u *unit) {
	r := e.granted
	if r == nil {
		return
	}
	u.change.Remove(r.key, r.mod)
	switch {
	case r.value.Want == cluster.WantDelete:
		spec := *e.spec.Value
		spec.State = cluster.EndpointDeleting
		store.Put(&u.change, e.spec, &spec)
		e.spec.Value = &spec
	case e.spec.Value == nil:
		spec := &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Requester: r.node, Created: r.value.At}
		store.Put(&u.change, e.spec, spec)
		e.spec.Value = spec
	}
}
