package watcher

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// Keeping is the word to renew this node's live record with a greater counter: while
// it owns an endpoint that can move, so that others need not find that out by its
// lease.
type Keeping struct {
	Every  time.Duration // 0: not at all
	Lease  mvcc.LeaseID
	Record cluster.Live // but for its counter
}

// movable is one endpoint that can move without anybody's word.
type movable struct {
	place cluster.Place
	owner string // "": none
}

// readMovable lists those of a VPC, nil if there are none.
func readMovable(v *store.View, vpc string) (all []movable) {
	prefix := cluster.PrefixEndpoints(vpc)
	for it := range store.Below[*cluster.EndpointSpec](v, prefix) {
		if !it.Value.Failover.Moves() || it.Value.State != cluster.EndpointActive {
			continue
		}
		m := movable{place: it.Value.Failover.Place}
		name, _, _ := strings.Cut(strings.TrimPrefix(it.Key, prefix), "/")
		if own, ok := store.At[*cluster.EndpointOwn](v, cluster.KeyEndpointOwn(vpc, name)); ok {
			m.owner = own.Value.Node
		}
		all = append(all, m)
	}
	return all
}

// duty is what a node has to do for endpoints that can move.
type duty struct {
	owner   bool // of one of them
	timings cluster.FailoverTimings
	keeping Keeping // as last ordered
}

// duties orders what endpoints that can move ask of this node, when that changed.
// Records that do not count change nothing.
func (a *Agent) duties(r records, live mvcc.LeaseID) {
	if a.hold == "" && r.synced && r.config != nil {
		a.duty.timings = r.config.Failover.Timings()
		a.duty.owner = !a.memory.Left && slices.ContainsFunc(slices.Collect(maps.Values(r.vpcs)), func(v vpcRecords) bool {
			return slices.ContainsFunc(v.movable, func(m movable) bool { return m.owner == a.cfg.Node })
		})
	}
	var k Keeping
	if a.duty.owner && live != 0 && !a.mute() {
		k = Keeping{Every: a.duty.timings.Keepalive, Lease: live, Record: a.liveRecord()}
	}
	if k != a.duty.keeping {
		a.duty.keeping = k
		a.out.Keep = &k
	}
}

func (a *Agent) liveRecord() cluster.Live {
	return cluster.Live{NodeID: a.cfg.NodeID, BootID: a.cfg.BootID, Incarnation: a.incarnate}
}
