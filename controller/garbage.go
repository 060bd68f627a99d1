package controller

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// How long answers and questions of pings, and of who looks for a MAC, stay, by the leader's clock.
const (
	pingRequestTime = 10 * time.Minute
	pingResultTime  = time.Minute
)

// sighting is when this leader first saw a record as it is.
type sighting struct {
	mod int64
	at  time.Time
}

// garbage deletes what is over: released values after their quarantine, what a
// removed node left behind, reports that a host left, old pings.
func (s *state) garbage(w *world, now time.Time) ([]effect, time.Time) {
	p := plan{group: "garbage"}
	next := s.freeReleased(w, &p, now)
	for _, v := range w.inOrder() {
		w.leftovers(v, &p)
		w.oldPorts(v, &p)
		w.oldClaims(v, &p)
	}
	for _, name := range w.names {
		if w.nodes[name].State == cluster.NodeLeft {
			w.removedNode(name, &p)
		}
	}
	next = earlier(next, s.oldPings(w, &p, now))
	first, _ := p.effects()
	return first, next
}

// freeReleased deletes reverse keys whose quarantine is over. A value that some
// host says it still has stays taken.
func (s *state) freeReleased(w *world, p *plan, now time.Time) time.Time {
	due, next := s.quarantine.Due(w.view, now)
	for _, it := range due {
		if !w.blockedKey(it.Key) && !w.stillUsed(it) {
			u := unit{verb: "free", object: strings.TrimPrefix(it.Key, cluster.PrefixAlloc)}
			u.change.Remove(it.Key, it.Mod)
			p.add(u)
		}
	}
	return next
}

func (w *world) stillUsed(it allocItem) bool {
	if _, ok := endpointValue(it.Key); ok {
		return false // hosts do not say what they have of endpoints
	}
	rest, ok := strings.CutPrefix(it.Key, cluster.PrefixVTEPs)
	if !ok {
		return w.onHostsOf(it)
	}
	name, addr, _ := strings.Cut(rest, "/")
	v := w.vpcs[name]
	for node, s := range v.status {
		if v.uses(node) && s.Value.VTEP.String() == addr {
			return true
		}
	}
	return false
}

// leftovers finishes what has no spec to be looked after by: hosts that were
// told to leave a VPC and did, reports that a host left.
func (w *world) leftovers(v *vpc, p *plan) {
	for _, node := range slices.Sorted(maps.Keys(v.status)) {
		a, assigned := v.assigns[node]
		_, member := v.members[node]
		switch {
		case !v.left(node), v.handled[node], w.blocks(v, node):
		case !assigned && !member, v.spec.Value == nil && !v.blocked && assigned && a.Value.State == cluster.AssignedLeaving:
			p.add(w.finish(v, node))
		}
	}
}

// oldPorts deletes reports about endpoints of hosts that have the VPC no more, and
// those that say that nothing is left of an endpoint that is gone.
func (w *world) oldPorts(v *vpc, p *plan) {
	if v.blocked {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(v.endpoints)) {
		e := v.endpoints[name]
		for _, node := range slices.Sorted(maps.Keys(e.ports)) {
			if port := e.ports[node]; w.isOver(v, e, node, port.Value) {
				u := unit{verb: "forget", object: name + " of " + node}
				u.change.Remove(port.Key, port.Mod)
				p.add(u)
			}
		}
	}
}

func (w *world) isOver(v *vpc, e *endpoint, node string, port *cluster.EndpointStatus) bool {
	n := w.nodes[node]
	_, assigned := v.assigns[node]
	_, member := v.members[node]
	switch {
	case n == nil, w.blockedKey(cluster.KeyEndpointStatus(node, v.name, e.name)):
		return false
	case !assigned && !member && !(v.uses(node) && (w.alive[node] || n.State != cluster.NodeLeft)):
		return true
	}
	return e.spec.Mod == 0 && e.own.Mod == 0 && !e.blocked && port.State == cluster.PortReleased
}

// removedNode deletes what a node that left has in the store, as soon as its
// host is done or gone. Its node record stays: it is the word to clean up. Its
// live record goes with its lease.
func (w *world) removedNode(name string, p *plan) {
	u := unit{verb: "clean up after", object: name}
	for _, v := range w.vpcs {
		if _, ok := v.assigns[name]; ok {
			return // see apart
		}
		if s, ok := v.status[name]; ok {
			if v.uses(name) && w.alive[name] {
				return
			}
			if v.uses(name) {
				u.change.Remove(s.Key, s.Mod)
			}
		}
	}
	if r, ok := w.reports[name]; ok {
		u.change.Remove(r.Key, r.Mod)
	}
	for _, key := range []string{cluster.KeyVerdicts(name), cluster.KeyFenceStatus(name)} {
		if it, ok := store.At[cluster.Record](w.view, key); ok {
			u.change.Remove(key, it.Mod)
		}
	}
	for _, problem := range w.view.Problems() { // its agent does not mend them any more
		if ours := problem.Key == cluster.KeyLive(name) || strings.HasPrefix(problem.Key, cluster.PrefixStatus(name)); ours &&
			errors.Is(problem.Err, cluster.ErrInvalid) && !slices.Contains(u.change.Keys(), problem.Key) {
			u.change.Remove(problem.Key, problem.Mod)
		}
	}
	p.add(u)
}

// oldPings deletes questions, of pings and of MACs looked for, that nobody asks any
// more, and answers to none.
func (s *state) oldPings(w *world, p *plan, now time.Time) (next time.Time) {
	still := map[string]sighting{}
	old := func(key string, mod int64, most time.Duration) bool {
		seen, ok := s.pings[key]
		if !ok || seen.mod != mod {
			seen = sighting{mod, now}
		}
		still[key] = seen
		end := seen.at.Add(most)
		if now.Before(end) {
			next = earlier(next, end)
			return false
		}
		return true
	}
	forget(w, p, old, "ping", func(q *cluster.PingRequest) string { return q.ID }, func(r *cluster.PingResult) string { return r.ID })
	forget(w, p, old, "find", func(q *cluster.FindRequest) string { return q.ID }, func(r *cluster.FindResult) string { return r.ID })
	s.pings = still
	return next
}

// forget is oldPings of one kind of questions, whose word is in the keys.
func forget[Q, R cluster.Record](w *world, p *plan, old func(key string, mod int64, most time.Duration) bool, word string, asks func(Q) string, answers func(R) string) {
	asked := map[string]string{}
	for it := range store.Below[Q](w.view, cluster.PrefixVPCs) {
		name, _ := cutPath(it.Key, cluster.PrefixVPCs)
		asked[name] = asks(it.Value)
		if old(it.Key, it.Mod, pingRequestTime) && !w.blockedKey(it.Key) {
			u := unit{verb: "forget a " + word + " of", object: name}
			u.change.Remove(it.Key, it.Mod)
			p.add(u)
		}
	}
	for it := range store.Below[R](w.view, cluster.PrefixStat) {
		node, rest := cutPath(it.Key, cluster.PrefixStat)
		if asked[strings.TrimPrefix(rest, word+"/")] == answers(it.Value) {
			continue
		}
		if old(it.Key, it.Mod, pingResultTime) {
			u := unit{verb: "forget a " + word + " by", object: node}
			u.change.Remove(it.Key, it.Mod)
			p.add(u)
		}
	}
}

// spoiled deletes records of the controller's that are garbage and that no
// effect writes anew: nobody needs them, or their absence makes the next pass
// rebuild them. What belongs to a VPC of which the spec cannot be told stays,
// and so it does while the spec is lost and a host has the VPC.
func (w *world) spoiled(effects []effect) []effect {
	written := map[string]bool{}
	for _, e := range effects {
		for _, key := range e.change.Keys() {
			written[key] = true
		}
	}
	p := plan{group: "spoiled"}
	for _, problem := range w.view.Problems() {
		k, err := cluster.ParseKey(problem.Key)
		if err != nil || written[problem.Key] || k.Kind == cluster.KindLeader ||
			cluster.WriterOf(k.Kind) != cluster.Controller || !errors.Is(problem.Err, cluster.ErrInvalid) {
			continue
		}
		if v := w.vpcs[k.VPC]; v != nil && (v.blocked || v.spec.Value == nil && v.inUse()) {
			continue
		}
		u := unit{verb: "delete", object: "spoiled " + problem.Key}
		u.change.Remove(problem.Key, problem.Mod)
		p.add(u)
	}
	first, _ := p.effects()
	return first
}

// earlier is the earlier of two times, of which the zero one means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
