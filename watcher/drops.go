package watcher

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// countEvery is how often dropped frames are counted at most: with full passes, which
// are a minute apart, give or take.
const countEvery = time.Minute - time.Second

// count asks the host what it has dropped, if it can tell. The counts are reported as
// they are now until the next time: so a port that is dropped from all the time costs
// a record a minute.
func (a *Agent) count(ctx context.Context) {
	host, can := a.cfg.Driver.(hostops.Dropper)
	if !can || !a.countedAt.IsZero() && a.now.Before(a.countedAt.Add(countEvery)) {
		return
	}
	a.countedAt = a.now
	drops, err := host.PortDrops(ctx)
	floods, failed := host.FloodDrops(ctx)
	if err := errors.Join(err, failed); err != nil {
		a.log.Warn("cannot count what is dropped, will retry", zap.Error(err))
		return
	}
	a.countFloods(floods)
	if a.drops != nil { // else they began under an earlier agent, which said so
		a.warnDrops(drops)
	}
	if a.drops = drops; drops == nil {
		a.drops = map[string]map[string]uint64{}
	}
}

// countFloods tells, once a storm, in which VPCs more is flooded than may be.
func (a *Agent) countFloods(floods map[cluster.VNI]uint64) {
	storms := map[cluster.VNI]bool{}
	for name, v := range a.memory.VPCs {
		n := floods[v.VNI]
		if storms[v.VNI] = n > a.floods[v.VNI]; storms[v.VNI] && !a.storms[v.VNI] && a.storms != nil {
			a.log.Warn("a VPC floods more than its limit, the rest is not sent to other hosts", zap.String("vpc", name),
				zap.Stringer("limit", v.Flood), zap.Uint64("frames", n))
		}
	}
	a.floods, a.storms = floods, storms
}

// warnDrops tells which ports are dropped from that were not when that was last
// counted.
func (a *Agent) warnDrops(drops map[string]map[string]uint64) {
	for _, id := range a.portIDs() {
		at := a.memory.VPCs[id.vpc].Attachments[id.endpoint]
		device := at.device(id.vpc, id.endpoint)
		if now := drops[device]; !at.Trusted && len(now) > 0 && len(a.drops[device]) == 0 {
			a.log.Warn("a workload sends what it may not, that is dropped", zap.String("vpc", id.vpc), zap.String("endpoint", id.endpoint),
				zap.String("device", device), zap.Any("frames", now))
		}
	}
}

// dropped is what was last counted of a port.
func (a *Agent) dropped(id portID, at attachment) map[string]uint64 {
	if at.Trusted {
		return nil
	}
	return a.drops[at.device(id.vpc, id.endpoint)]
}
