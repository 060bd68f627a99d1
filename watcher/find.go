package watcher

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// find answers who looks for a MAC, once an id, from what the host's bridge knows at
// that moment. As with a ping, what was asked before this agent first saw the VPC is
// not for it.
func (a *Agent) find(ctx context.Context, r records) {
	if a.mute() {
		return
	}
	for name, vr := range r.vpcs {
		if vr.members == nil {
			continue
		}
		asked := ""
		if vr.find != nil {
			asked = vr.find.ID
		}
		seen, known := a.sought[name]
		a.sought[name] = asked
		if known && asked != "" && asked != seen {
			a.write(cluster.KeyFindResult(a.cfg.Node, name), a.sighting(ctx, name, vr.find), 0)
		}
	}
}

func (a *Agent) sighting(ctx context.Context, vpc string, q *cluster.FindRequest) *cluster.FindResult {
	out := &cluster.FindResult{ID: q.ID}
	finder, can := a.cfg.Driver.(hostops.Finder)
	if !can {
		out.Reason = "this host cannot look into its bridges"
		return out
	}
	s, err := finder.Find(ctx, vpc, q.MAC)
	switch {
	case err != nil:
		out.Reason = cluster.CleanText(err.Error())
	case s.Peer.IsValid():
		if out.Peer = a.peerAt(vpc, s.Peer); out.Peer == "" {
			out.Reason = fmt.Sprintf("it is behind %s, which no member has", s.Peer)
		}
	default:
		out.Device = s.Device
	}
	return out
}

// peerAt names the member that has an underlay address, "" if none has it any more.
func (a *Agent) peerAt(vpc string, at netip.Addr) string {
	v := a.memory.VPCs[vpc]
	if v == nil {
		return ""
	}
	for name, m := range v.Members {
		if m.UnderlayIPv4 == at || m.UnderlayIPv6 == at {
			return name
		}
	}
	return ""
}
