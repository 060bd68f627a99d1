package main

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// drilling measures a drill from what the store tells. It is for one goroutine, and
// pure but for what it keeps.
type drilling struct {
	drill *cluster.Drill
	owner map[string]string    // by endpoint: the last that was seen
	since map[string]time.Time // when that was seen first
}

func newDrilling(d *cluster.Drill) *drilling {
	return &drilling{d, map[string]string{}, map[string]time.Time{}}
}

// watch takes a view, and says which endpoints are not yet where the drill's state wants
// them, and serve there.
func (d *drilling) watch(v *store.View, now time.Time) (still []string) {
	for i := range d.drill.Endpoints {
		e := &d.drill.Endpoints[i]
		id := e.VPC + "/" + e.Endpoint
		it, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(e.VPC, e.Endpoint))
		if !ok {
			continue // somebody deleted it
		}
		own := it.Value
		if d.since[id].IsZero() || d.owner[id] != own.Node {
			d.owner[id], d.since[id] = own.Node, now
		}
		if !d.there(e, own) || !serves(v, e, own) {
			still = append(still, id)
			continue
		}
		d.note(e, own.Node, now.Sub(d.since[id]).Seconds())
	}
	return still
}

// there reports whether an endpoint is where it is to be now.
func (d *drilling) there(e *cluster.Drilled, own *cluster.EndpointOwn) bool {
	if d.drill.State == cluster.DrillReturning {
		return own.Node == e.Home
	}
	return own.Node != "" && !slices.Contains(d.drill.Nodes, own.Node)
}

// serves reports whether the owner says that it serves this epoch.
func serves(v *store.View, e *cluster.Drilled, own *cluster.EndpointOwn) bool {
	s, ok := store.At[*cluster.EndpointStatus](v, cluster.KeyEndpointStatus(own.Node, e.VPC, e.Endpoint))
	return ok && s.Value.State == cluster.PortReady && s.Value.Era == own.Era && s.Value.Epoch == own.Epoch
}

// note keeps how long a way took, once; what took no time that could be measured took a
// millisecond.
func (d *drilling) note(e *cluster.Drilled, at string, took float64) {
	took = max(took, 0.001)
	switch {
	case d.drill.State == cluster.DrillLeaving && e.Away == 0:
		e.To, e.Away = at, took
	case d.drill.State == cluster.DrillReturning && e.To != "" && e.Back == 0:
		e.Back = took
	}
}
