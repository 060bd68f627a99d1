package controller

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

// failover has the nodes judged, if anything can move or is fenced. What is to move is
// left at the endpoints, for whoever looks after them; the plan has the fences.
func (s *state) failover(w *world, now time.Time) (p plan, again time.Time) {
	p.group, s.seat = "failover", ""
	d := s.memory.decide(w, now, s.behind)
	s.behind = false
	if d == nil {
		return p, again
	}
	if d.Calm() {
		s.seat = w.betterSeat()
	}
	for i := range d.Grants {
		g := &d.Grants[i]
		w.vpc(g.VPC).endpoint(g.Endpoint).grant = g
	}
	for _, h := range d.Handovers {
		w.vpc(h.VPC).endpoint(h.Endpoint).to = h.To
	}
	again = earlier(d.Again, s.tellWaits(w, d, now))
	for i := range d.Fences {
		f := &d.Fences[i]
		if w.newer[cluster.KeyFence(f.Node)] {
			continue
		}
		u := unit{verb: "fence", object: f.Node}
		store.Create(&u.change, cluster.KeyFence(f.Node), &f.Fence)
		p.add(u)
	}
	for _, l := range d.Lifts {
		u := unit{verb: "lift the fence of", object: l.Node}
		u.change.Remove(cluster.KeyFence(l.Node), l.Revision)
		p.add(u)
	}
	w.tellJudgement(d, now, &p)
	return p, again
}

// judges reports whether there is anything to judge nodes for: most passes are of
// clusters in which nothing moves by itself.
func (w *world) judges() bool {
	if _, judged := store.At[*cluster.Judgement](w.view, cluster.KeyJudgement); judged || len(w.fenced) > 0 {
		return true
	}
	for _, v := range w.vpcs {
		for _, e := range v.endpoints {
			if v.moves(e) {
				return true
			}
		}
	}
	return false
}

// moves reports whether an endpoint may change its node without anybody's word.
func (v *vpc) moves(e *endpoint) bool {
	spec := e.spec.Value
	return !v.blocked && v.spec.Value != nil && !v.deleting() && !e.blocked &&
		spec != nil && spec.State == cluster.EndpointActive && spec.Failover.Moves()
}

// waitsTold is how long an endpoint waits to be moved until its record says so: most
// waits are over in an instant.
const waitsTold = 2 * time.Second

// tellWaits leaves at endpoints why they have waited for long, and says when the next
// has.
func (s *state) tellWaits(w *world, d *failover.Decision, now time.Time) (next time.Time) {
	still := map[string]time.Time{}
	for _, wait := range d.Waits {
		id := wait.VPC + "/" + wait.Endpoint
		since, ok := s.waits[id]
		if !ok {
			since = now
		}
		still[id] = since
		if end := since.Add(waitsTold); now.Before(end) {
			next = earlier(next, end)
		} else {
			w.vpc(wait.VPC).endpoint(wait.Endpoint).waits = wait.Why
		}
	}
	s.waits = still
	return next
}

// failoverView is what the nodes are judged by.
func (w *world) failoverView(now time.Time) *failover.View {
	v := &failover.View{
		Now: now, Nodes: w.nodes, Live: map[string]*cluster.Live{}, Underlay: map[string][]netip.Addr{}, Verdicts: map[string]*cluster.Verdicts{},
		Fences: map[string]failover.Fence{}, Applied: map[string]*cluster.FenceStatus{},
	}
	if w.config != nil {
		v.Timings = w.config.Failover.Timings()
	} else {
		v.Timings = cluster.ProfileDefault.Timings()
	}
	for it := range store.Below[*cluster.Live](w.view, cluster.PrefixLive) {
		v.Live[strings.TrimPrefix(it.Key, cluster.PrefixLive)] = it.Value
	}
	for it := range store.Below[*cluster.Fence](w.view, cluster.PrefixFences) {
		v.Fences[strings.TrimPrefix(it.Key, cluster.PrefixFences)] = failover.Fence{Fence: it.Value, Revision: it.Mod}
	}
	for name := range w.nodes {
		if it, ok := store.At[*cluster.Verdicts](w.view, cluster.KeyVerdicts(name)); ok {
			v.Verdicts[name] = it.Value
		}
		if it, ok := store.At[*cluster.FenceStatus](w.view, cluster.KeyFenceStatus(name)); ok {
			v.Applied[name] = it.Value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(w.vpcs)) {
		w.failoverEndpoints(w.vpcs[name], v)
	}
	return v
}

// failoverEndpoints adds what of a VPC can move, and where its members are.
func (w *world) failoverEndpoints(v *vpc, to *failover.View) {
	members := map[string]bool{}
	for _, node := range v.nodes() {
		if w.serves(v, node) {
			members[node] = true
		}
		m, ok := v.members[node]
		if !ok {
			continue
		}
		for _, a := range []netip.Addr{m.Value.UnderlayIPv4, m.Value.UnderlayIPv6} {
			if a.IsValid() && !slices.Contains(to.Underlay[node], a) {
				to.Underlay[node] = append(to.Underlay[node], a)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(v.endpoints)) {
		e := v.endpoints[name]
		if !v.moves(e) {
			continue
		}
		one := v.movable(e)
		one.Reports, one.Members = map[string]*cluster.EndpointStatus{}, members
		for node, p := range e.ports {
			one.Reports[node] = p.Value
		}
		to.Endpoints = append(to.Endpoints, one)
	}
}

// tellJudgement writes what is decided by when the classes of nodes change, or safe
// mode comes or goes. The evidence is of that moment: it would change with each pass.
func (w *world) tellJudgement(d *failover.Decision, now time.Time, p *plan) {
	is := &cluster.Judgement{}
	if d.Mode == failover.ModeSafe {
		is.SafeMode = d.Why
	}
	for _, name := range slices.Sorted(maps.Keys(d.Nodes)) {
		if n := d.Nodes[name]; n.Class != failover.OK {
			is.Nodes = append(is.Nodes, cluster.Judged{Node: name, Class: n.Class, Why: n.Evidence, Since: cluster.At(now)})
		}
	}
	was, _ := store.At[*cluster.Judgement](w.view, cluster.KeyJudgement)
	if w.newer[cluster.KeyJudgement] || was.Value == nil && is.SafeMode == "" && is.Nodes == nil {
		return
	}
	if was.Value != nil {
		keepSince(is, was.Value)
		if (is.SafeMode == "") == (was.Value.SafeMode == "") && slices.EqualFunc(is.Nodes, was.Value.Nodes, func(a, b cluster.Judged) bool { return a.Node == b.Node && a.Class == b.Class }) {
			return
		}
	}
	was.Key = cluster.KeyJudgement
	u := unit{verb: "judge", object: "nodes"}
	store.Put(&u.change, was, is)
	p.add(u)
}

// keepSince leaves what is as it was with its time and evidence.
func keepSince(is, was *cluster.Judgement) {
	for i := range is.Nodes {
		n := &is.Nodes[i]
		for _, old := range was.Nodes {
			if old.Node == n.Node && old.Class == n.Class {
				*n = old
			}
		}
	}
}

// requireGrant guards a change of the owner by all that it was decided from: that
// nobody holds the endpoint or asked for something else, and that its new node, if it
// has one, is well.
func (w *world) requireGrant(v *vpc, e *endpoint, to string, u *unit) {
	g := e.grant
	u.change.Require(cluster.KeyEndpointHold(v.name, e.name), 0)
	u.change.Require(e.spec.Key, e.spec.Mod)
	if g.Fence != 0 {
		u.change.Require(cluster.KeyFence(g.From), g.Fence)
	}
	var keys []string
	if to != "" {
		u.change.Require(cluster.KeyFence(to), 0)
		keys = append(keys, cluster.KeyNode(to), cluster.KeyLive(to))
	}
	if g.Live {
		keys = append(keys, cluster.KeyLive(g.From))
	}
	for _, key := range keys {
		it, _ := store.At[cluster.Record](w.view, key)
		u.change.Require(key, it.Mod)
	}
}

// handOver has the owner of a strict endpoint shut it, and end its workload. What was
// asked for since, or is fenced, shall not be written over.
func (w *world) handOver(v *vpc, e *endpoint, own *cluster.EndpointOwn, u *unit) {
	if e.to == "" || own.To != "" || e.to == own.Node {
		return
	}
	u.change.Require(cluster.KeyEndpointHold(v.name, e.name), e.hold.Mod)
	u.change.Require(e.spec.Key, e.spec.Mod)
	u.change.Require(cluster.KeyFence(e.to), 0)
	own.To = e.to
}

// waitsFor is why nobody has an endpoint, or the wrong one: in the words in which it
// was first said, as some change with each pass.
func (e *endpoint) waitsFor() string {
	if e.waits == "" {
		return ""
	}
	if own := e.own.Value; own != nil {
		return cmp.Or(own.Reason, e.waits)
	}
	return e.waits
}
