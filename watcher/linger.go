package watcher

import (
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// lingerFor is how long who had an endpoint answers on when another node has it: that
// one may hear of it later, by the round trip to a store that is far away, and has to
// open its port. Each client still sees one of them, as the new owner is announced. A
// fence ends it at once.
const lingerFor = 250 * time.Millisecond

// lingers reports whether this host served an attachment, as it was before, which is
// another node's by now. What is strict does not linger, nor what is started and
// stopped: that ends.
func lingers(before, now attachment, v *vpc, endpoint, me string) bool {
	was, is := before.Own, now.Own
	served := was != nil && was.State == cluster.OwnAssigned && was.Node == me && before.shut == "" && !v.ended(endpoint, was)
	return now.Failover && now.Workload.Name == "" && !before.Strict && !now.Strict && served && is.State == cluster.OwnAssigned && is.Node != me
}

// endLingering closes what another node has had for long enough.
func (a *Agent) endLingering() (changed bool) {
	for _, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			if !at.until.IsZero() && !a.now.Before(at.until) {
				at.until = time.Time{}
				v.Attachments[name] = at
				changed = true
			}
		}
	}
	return changed
}
