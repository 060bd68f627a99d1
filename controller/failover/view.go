package failover

import (
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// View is what the leader sees in one pass, at one revision of the store. Decide
// changes nothing in it and keeps nothing of it.
type View struct {
	// Now is the leader's clock, a reading that no change of the wall clock moves.
	Now     time.Time
	Timings cluster.FailoverTimings
	// Behind: until now nobody knew how far the view was behind the store, so what moved
	// since the last one may have moved long ago. So it is when a candidate is elected.
	Behind bool

	// By node's name.
	Nodes    map[string]*cluster.Node
	Live     map[string]*cluster.Live
	Underlay map[string][]netip.Addr // where its frames come from, two at most
	Verdicts map[string]*cluster.Verdicts
	Fences   map[string]Fence
	Applied  map[string]*cluster.FenceStatus

	// Endpoints are those that have a failover; others take no part.
	Endpoints []*Endpoint
}

// Fence is a fence in force.
type Fence struct {
	*cluster.Fence
	Revision int64 // of its last write; who has applied this much has the fence
}

// Endpoint is an endpoint that can move.
type Endpoint struct {
	VPC, Name string
	Failover  *cluster.Failover
	Own       *cluster.EndpointOwn // nil, or without a MAC: it is not ready to be anywhere
	Held      bool                 // by an operator
	// Reports are what nodes say of it. One that is ready or standby is a candidate.
	Reports map[string]*cluster.EndpointStatus
	// Members are the nodes that have a part in the VPC, so receive its frames. An owner
	// that is none is taken for gone: a member record that merely vanished is no reason
	// to leave a node out. Endpoints of one VPC may share the map.
	Members map[string]bool
}

func (e *Endpoint) id() string { return e.VPC + "/" + e.Name }

// owner is the node that has the endpoint, "" for none.
func (e *Endpoint) owner() string {
	if e.Own == nil || e.Own.State != cluster.OwnAssigned {
		return ""
	}
	return e.Own.Node
}

// settled reports whether the endpoint has its addresses, so that it can be anywhere.
func (e *Endpoint) settled() bool {
	return e.Own != nil && e.Own.State != cluster.OwnPending && e.Failover != nil
}

// strict reports whether nobody else may have the endpoint while its owner may serve it.
func (e *Endpoint) strict() bool { return e.Failover != nil && e.Failover.Strict() }

// isCurrent reports whether a node's report is of the epoch that is in force.
func (e *Endpoint) isCurrent(s *cluster.EndpointStatus) bool {
	return s.Era == e.Own.Era && s.Epoch == e.Own.Epoch
}
