package watcher

import (
	"maps"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/watcher/observe"
)

// Keeping is the word to renew this node's live record with a greater counter: while
// it owns an endpoint that can move, so that others need not find that out by its
// lease.
type Keeping struct {
	Every  time.Duration // 0: not at all
	Lease  mvcc.LeaseID
	Record cluster.Live // but for its counter
	// Order numbers what is ordered.
	Order int64
	// Grant is how long after a renewal was sent the gate may be open for it; 0: it may
	// not. Grants have to be as they are for that.
	Grant  time.Duration
	Grants []Granted
}

// duty is what a node has to do for endpoints that can move.
type duty struct {
	owner   bool // of one of them
	timings cluster.FailoverTimings
	keeping Keeping          // as last ordered
	scopes  []*observe.Scope // of its VPCs
	ordered bool             // something was to be observed
}

// duties orders what endpoints that can move ask of this node, when that changed.
// Records that do not count change nothing.
func (a *Agent) duties(r records, live mvcc.LeaseID) {
	if a.hold == "" && r.synced && r.config != nil {
		a.observe(scopesOf(r), r.config.Failover.Timings())
		a.duty.owner = !a.memory.Left && slices.ContainsFunc(a.duty.scopes, func(s *observe.Scope) bool { return s.Owners[a.cfg.Node] })
	}
	var k Keeping
	if a.duty.owner && live != 0 && !a.mute() {
		k = Keeping{Every: a.duty.timings.Keepalive, Lease: live, Record: a.liveRecord()}
		a.grant(&k)
	}
	if !k.equal(a.duty.keeping) {
		k.Order = a.duty.keeping.Order + 1
		a.duty.keeping = k
		a.out.Keep = &k
	}
}

func (a *Agent) liveRecord() cluster.Live {
	return cluster.Live{NodeID: a.cfg.NodeID, BootID: a.cfg.BootID, Incarnation: a.incarnate}
}

// observe orders whom this node observes, when that changed.
func (a *Agent) observe(scopes []*observe.Scope, t cluster.FailoverTimings) {
	if a.memory.Left || a.mute() {
		scopes = nil
	}
	if slices.Equal(scopes, a.duty.scopes) && t == a.duty.timings {
		return
	}
	a.duty.scopes, a.duty.timings = scopes, t
	if len(scopes) > 0 || a.duty.ordered {
		a.out.Observe = &observe.Duty{Scopes: scopes, Timings: t}
		a.duty.ordered = true
	}
}

// scopesOf lists what matters to observers in the VPCs of this host, by name.
func scopesOf(r records) (scopes []*observe.Scope) {
	for _, name := range slices.Sorted(maps.Keys(r.vpcs)) {
		if s := r.vpcs[name].scope; s != nil {
			scopes = append(scopes, s)
		}
	}
	return scopes
}
