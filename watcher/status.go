package watcher

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// report writes what this node says of itself, when it changed.
func (a *Agent) report(view *store.View, live mvcc.LeaseID) {
	if n := view.Lists(cluster.PrefixHost(a.cfg.Node)); n != a.lists {
		a.out.Look = a.lists != 0 // compaction does that, too: then nothing is lost
		a.lists = n
	}
	if a.mute() {
		return
	}
	s := &cluster.NodeStatus{
		NodeID: a.cfg.NodeID, Underlay: a.memory.Underlay, OS: a.cfg.OS, Version: a.cfg.Version, Capabilities: a.cfg.Capabilities,
		Problems: a.problems(view), Notes: a.notes(),
	}
	if a.node == nil || !sameNode(s, a.node) {
		own := *s // encoding cleans texts in place, beside the passes
		a.write(cluster.KeyNodeStatus(a.cfg.Node), &own, 0)
		a.node = s
	}
	if live != 0 && live != a.live {
		own := a.liveRecord()
		a.write(cluster.KeyLive(a.cfg.Node), &own, live)
		a.live = live
	}
}

// mute reports whether another machine has our name: then its reports stand.
func (a *Agent) mute() bool { return a.hold == holdTaken }

func sameNode(x, y *cluster.NodeStatus) bool {
	return sameUnderlay(x.Underlay, y.Underlay) && x.OS == y.OS && x.Version == y.Version && slices.Equal(x.Capabilities, y.Capabilities) && slices.Equal(x.Problems, y.Problems) &&
		slices.Equal(x.Notes, y.Notes)
}

// problems lists what concerns the whole host, one line each.
func (a *Agent) problems(view *store.View) []string {
	var ps []string
	if a.hold != "" {
		ps = append(ps, a.hold)
	}
	if f := a.memory.fenced(a.cfg.Node, a.cfg.NodeID); f != nil {
		ps = append(ps, "this node is fenced, no other takes anything from it: "+f.Why)
	}
	ps = append(ps, a.underlay...)
	for _, p := range a.host0.Problems {
		if p.VPC == "" {
			ps = append(ps, p.Reason)
		}
	}
	for _, p := range view.Problems() {
		ps = append(ps, fmt.Sprintf("keeping the last good state: %v", p.Err))
	}
	if a.loadErr != nil {
		ps = append(ps, a.loadErr.Error())
	}
	if a.saveErr != nil {
		ps = append(ps, "a reboot without the control plane would bring back an older state: "+a.saveErr.Error())
	}
	for i, p := range ps {
		ps[i] = cluster.CleanText(p)
	}
	return ps
}

// reportVPCs writes the reports that are due and returns when the next is.
func (a *Agent) reportVPCs() (next time.Time) {
	if a.mute() {
		return time.Time{}
	}
	a.joining = false
	for _, name := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
		v := a.memory.VPCs[name]
		switch {
		case a.host0.Ready[name] && !v.kept:
			a.joining = true
			continue // ready means that a reboot brings it back: soon
		case v.Members == nil && !v.Leaving && v.hold == "":
			continue // its records are on their way
		}
		r := a.reports[name]
		if r == nil {
			r = &report{}
			a.reports[name] = r
		}
		s := a.status(name)
		if r.current(s, a.now) {
			next = earliest(next, r.timed)
			continue
		}
		if until, early := r.early(s, a.now); early && a.links.unknown(name) {
			r.moved, a.joining = true, true
			next = earliest(next, until)
			continue
		}
		s.Links = a.linksOf(name)
		write, again := r.due(s, a.now, func(peer string) bool { return v.p2p(a.cfg.Node, peer) })
		r.moved = !again.IsZero() && r.timed.IsZero() // until r.timed all else has time
		if write {
			s.At = cluster.At(a.now)
			own := *s // as in report
			a.write(cluster.KeyVPCStatus(a.cfg.Node, name), &own, 0)
			r.wrote(s, a.now)
		}
		a.joining = a.joining || r.joining()
		next = earliest(next, again)
	}
	return next
}

// status is the present state of one VPC here, but for its links.
func (a *Agent) status(name string) *cluster.VPCStatus {
	v := a.memory.VPCs[name]
	s := &cluster.VPCStatus{
		NodeID: a.cfg.NodeID, State: cluster.HostMember, Ready: a.host0.Ready[name],
		VNI: v.VNI, MTU: v.MTU, Repairs: a.repairs[name], Ports: a.host0.Ports[name],
	}
	if mine := v.Members[a.cfg.Node]; mine != nil {
		s.VTEP = mine.VTEP
	}
	s.FloodDropped = a.floods[v.VNI]
	s.Gateway = v.Gateway
	if v.Static {
		s.Learning = cluster.LearnStatic
	}
	if v.Publish {
		s.Learning = cluster.LearnPublish
	}
	if v.claims != nil {
		s.MACsRefused = v.claims.said
	}
	switch {
	case v.Leaving && !v.gone:
		s.Ready, s.Reason = false, "taking it down"
	case v.Leaving:
		return &cluster.VPCStatus{NodeID: a.cfg.NodeID, State: cluster.HostLeft}
	case a.hold != "":
		s.State, s.Reason = cluster.HostHolding, a.hold
	case v.hold != "":
		s.State, s.Reason = cluster.HostHolding, v.hold
	case a.reasons[name] != "":
		s.Ready, s.Reason = false, a.reasons[name]
	}
	for _, p := range a.host0.Problems {
		if s.Reason == "" && p.Endpoint == "" && (p.VPC == name || p.VPC == "") {
			s.Reason = p.Reason
		}
	}
	s.Reason = cluster.CleanText(s.Reason)
	return s
}

// linksOf are the links of one VPC, by peer.
func (a *Agent) linksOf(vpc string) []cluster.Link {
	v := a.memory.VPCs[vpc]
	var ls []cluster.Link
	for _, s := range a.links.of(vpc) {
		r, own := s.link.report(), v.inForce[s.id.peer]
		r.Peer = s.id.peer // one that waits has no name of its own
		r.VNI, r.Use = own.VNI, own.Use
		ls = append(ls, r)
	}
	slices.SortFunc(ls, func(x, y cluster.Link) int { return strings.Compare(x.Peer, y.Peer) })
	return ls
}
