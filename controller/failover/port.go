package failover

import (
	"fmt"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// portFails reports whether an owner says that it cannot serve an endpoint: its port
// cannot be made, or what was behind it is gone. Of a workload that may not run twice that
// is no word that it has ended.
func (p *pass) portFails(e *Endpoint) bool {
	s := p.ofOwner(e)
	return s != nil && s.State == cluster.PortFailed && e.Failover != nil && !e.Failover.Stateful()
}

// broken reports whether an owner has said so for as long as a loss takes to be seen, and
// a keepalive: a port is repaired, or made anew by a restart, in less.
func (p *pass) broken(e *Endpoint) bool {
	since := p.judge.endpoints[e.id()].brokenSince
	return !since.IsZero() && p.holds(rulePort) && p.due(since.Add(p.Timings.Silence()+p.Timings.Keepalive))
}

// leave has an endpoint leave a node that cannot serve it, for none where that was so
// before it came. When it was so at three it stays: what all of them lack no move mends.
func (p *pass) leave(e *Endpoint) {
	owner := e.owner()
	c := cause{why: cluster.CleanText(owner + " cannot serve it: " + e.Reports[owner].Reason), failed: true}
	failed := p.failedFor(e, c)
	to := p.target(e, failed)
	switch {
	case len(failed) >= maxFailed:
		p.wait(e, fmt.Sprintf("%s; so it was at %s: it stays until that is mended, or \"endpoint move\"", c.why, strings.Join(failed, ", ")))
	case to == "":
		p.wait(e, c.why+"; "+p.chooser.Why(e, except(failed)))
	default:
		p.planned(e, to, "leave "+owner, drainPause, c)
	}
}
