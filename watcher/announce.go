package watcher

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/hostops"
)

// announceAfter is when a workload that came from another node is announced once
// more: while the node that had it has not muted its port yet, what it sends makes
// bridges believe that it is still there.
func announceAfter() []time.Duration {
	return []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond, time.Second}
}

// announcement is one that is due at a time.
type announcement struct {
	port portID
	term term // in which this host has the endpoint
	at   time.Time
}

// came plans to announce a workload that came from another node.
func (a *Agent) came(id portID) {
	for _, d := range announceAfter() {
		a.announcements = append(a.announcements, announcement{id, termOf(a.memory.VPCs[id.vpc].Attachments[id.endpoint].Own), a.now.Add(d)})
	}
}

// announce makes the announcements that are due: for bridges only, as the addresses
// have the same MAC as before.
func (a *Agent) announce(ctx context.Context) {
	a.announcements = slices.DeleteFunc(a.announcements, func(n announcement) bool {
		v := a.memory.VPCs[n.port.vpc]
		if v == nil {
			return true
		}
		at, ok := v.Attachments[n.port.endpoint]
		if !ok || termOf(at.Own) != n.term || !v.serves(n.port.endpoint, a.cfg.Node) || at.shut != "" || !v.mayServe(n.port.endpoint) {
			return true
		}
		if a.now.Before(n.at) {
			return false
		}
		if a.host0.Attached[n.port.vpc][n.port.endpoint] {
			op := hostops.Announce{Target: hostops.Target{VPC: n.port.vpc, Object: at.device(n.port.vpc, n.port.endpoint)}, Bridge: n.port.vpc, MAC: at.Own.MAC}
			if err := a.cfg.Driver.Apply(ctx, op); err != nil {
				a.log.Warn("cannot announce", zap.String("vpc", n.port.vpc), zap.String("endpoint", n.port.endpoint), zap.Error(err))
			}
		}
		return true
	})
}
