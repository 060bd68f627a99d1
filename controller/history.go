package controller

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// How much of the history stays, by the leader's clock.
const (
	historyMost  = 10000 // events
	historyTime  = 30 * 24 * time.Hour
	historyEvery = time.Minute // between two looks at it
	trimMost     = 1000        // events that one pass deletes
)

// trim deletes what is too old of the history, and what is too much: always the
// oldest event of whom most events are, so that nobody can push out another's
// traces by many of its own.
func (s *state) trim(w *world, now time.Time) []effect {
	if now.Before(s.trimmed.Add(historyEvery)) && !now.Before(s.trimmed) {
		return nil
	}
	doomed := doomedEvents(slices.Collect(store.Below[*cluster.Event](w.view, cluster.PrefixEvents)), now, historyMost)
	if len(doomed) <= trimMost {
		s.trimmed = now
	}
	p := plan{group: "history"}
	for _, it := range doomed[:min(len(doomed), trimMost)] {
		u := unit{verb: "forget", object: strings.TrimPrefix(it.Key, cluster.PrefixEvents)}
		u.change.Remove(it.Key, it.Mod)
		p.add(u)
	}
	first, _ := p.effects()
	return first
}

type eventItem = store.Item[*cluster.Event]

// doomedEvents picks from a history, which is sorted by key, what must go so that
// at most so many events stay, the oldest first.
func doomedEvents(all []eventItem, now time.Time, most int) (doomed []eventItem) {
	old := cluster.KeyEventsSince(now.Add(-historyTime))
	n := 0
	for n < len(all) && all[n].Key < old {
		n++
	}
	doomed, all = slices.Clone(all[:n]), all[n:]
	of := map[string][]eventItem{}
	for _, it := range all {
		of[it.Value.By] = append(of[it.Value.By], it)
	}
	subjects := slices.Sorted(maps.Keys(of))
	for range len(all) - most {
		by := slices.MaxFunc(subjects, func(a, b string) int { return len(of[a]) - len(of[b]) })
		doomed, of[by] = append(doomed, of[by][0]), of[by][1:]
	}
	slices.SortFunc(doomed, func(a, b eventItem) int { return strings.Compare(a.Key, b.Key) })
	return doomed
}

// Pace of what the controller tells of itself: one event, at most so often, holds
// all that came in between, and the first of a row waits a little for the others.
// Alarms wait less: a fence and the moves after it are one event.
const (
	digestEvery = 10 * time.Second
	digestAfter = 2 * time.Second
	alarmsEvery = time.Second
	alarmsAfter = 500 * time.Millisecond
	digestMost  = cluster.MaxEventChanges
	digestNodes = 16 // names of one change; of more, the number
)

// digest gathers what a leader has done that a person would want to read. What it
// holds when the leader ends is lost: the records tell what is.
type digest struct {
	by      string // the leader's subject; "": nobody's, and nothing is told
	changes []cluster.Change
	more    int // changes that there was no room for
	due     time.Time
	last    time.Time // when the last event was written
}

// add takes a change: into one of the same kind, if there is one, or instead of
// what it undoes.
func (d *digest) add(now time.Time, c cluster.Change) {
	if d.by == "" {
		return
	}
	if c.Verb == cluster.VerbAdmitted { // for a moment, before its report was there
		d.forget(cluster.VerbRefused, c.Key, c.Nodes)
	}
	every, after := digestEvery, digestAfter
	if alarming(c.Verb) {
		every, after = alarmsEvery, alarmsAfter
	}
	if due := slices.MaxFunc([]time.Time{now.Add(after), d.last.Add(every)}, time.Time.Compare); len(d.changes) == 0 || due.Before(d.due) {
		d.due = due
	}
	for i := range d.changes {
		was := &d.changes[i]
		if was.Verb != c.Verb || was.Key != c.Key || c.Verb == cluster.VerbRefused && was.Detail != c.Detail {
			continue
		}
		was.Detail = c.Detail
		for _, n := range c.Nodes {
			if slices.Contains(was.Nodes, n) {
				continue
			}
			if len(was.Nodes) < digestNodes {
				was.Nodes = append(was.Nodes, n)
			} else {
				was.More++
			}
		}
		return
	}
	if len(d.changes) == digestMost {
		d.more++
		return
	}
	c.Nodes = slices.Clone(c.Nodes)
	d.changes = append(d.changes, c)
}

// forget takes nodes out of what was to be told.
func (d *digest) forget(verb cluster.Verb, key string, nodes []string) {
	d.changes = slices.DeleteFunc(d.changes, func(c cluster.Change) bool {
		return c.Verb == verb && c.Key == key && c.More == 0 && !slices.ContainsFunc(c.Nodes, func(n string) bool { return !slices.Contains(nodes, n) })
	})
}

// event is what is to be told now, if anything; again is when there will be, the
// zero time for never.
func (d *digest) event(now time.Time) (change store.Change, again time.Time, ok bool) {
	if d.due.After(now.Add(digestEvery)) { // the clock was set back
		d.due = now.Add(digestAfter)
	}
	if len(d.changes) == 0 || now.Before(d.due) {
		if len(d.changes) > 0 {
			again = d.due
		}
		return change, again, false
	}
	e := &cluster.Event{Time: cluster.At(now), By: d.by, Changes: d.changes, More: d.more}
	change.Why = "history: tell what was done"
	store.Create(&change, cluster.KeyEvent(now, d.suffix()), e)
	return change, again, true
}

// suffix tells events of one millisecond apart, and is the same in each run of a
// simulation.
func (d *digest) suffix() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(d.by)) // a hash takes anything
	for i := range d.changes {
		_, _ = h.Write([]byte(d.changes[i].String()))
	}
	return h.Sum64()
}

// told forgets what was written, and paces the next.
func (d *digest) told(now time.Time) { d.changes, d.more, d.last = nil, 0, now }

// notes are the changes of a transaction that a person would want to read, from
// what v held before it. It is pure.
func notes(v *store.View, c *store.Change) (list []cluster.Change) {
	for key, value := range c.Writes() {
		k, err := cluster.ParseKey(key)
		if err != nil {
			continue
		}
		switch {
		case value == nil && k.Kind != cluster.KindEvent && cluster.WriterOf(k.Kind) == cluster.Controller && unreadable(v, key):
			list = append(list, cluster.Change{Verb: cluster.VerbReclaimed, Key: cluster.Short(key), Detail: "nobody could read it"})
		case k.Kind == cluster.KindJudgement && value != nil:
			list = append(list, notesOfJudgement(v, key, value)...)
		case k.Kind == cluster.KindFence:
			list = append(list, noteOfFence(key, value)...)
		case k.Kind == cluster.KindOwn && value != nil:
			list = append(list, noteOfOwn(v, key, value)...)
		case k.Kind == cluster.KindPublished && value != nil:
			list = append(list, noteOfPublished(v, key, value)...)
		case k.Kind == cluster.KindMember:
			list = append(list, noteOfMember(v, k, key, value)...)
		case k.Kind == cluster.KindVPCNet && value != nil:
			list = append(list, notesOfNet(v, key, value)...)
		}
	}
	return list
}

// decoded is the record of that type that is being written at key.
func decoded[T cluster.Record](key string, value []byte) (T, bool) {
	r, err := cluster.Decode(key, value)
	is, ok := r.(T)
	return is, ok && err == nil
}

// unreadable reports whether there is something at key that never could be read.
func unreadable(v *store.View, key string) bool {
	_, ok := store.At[cluster.Record](v, key)
	return v.Has(key) && !ok
}

func noteOfMember(v *store.View, k cluster.Key, key string, value []byte) []cluster.Change {
	c := cluster.Change{Key: cluster.Short(cluster.KeyVPCNet(k.VPC)), Nodes: []string{k.Node}}
	was, had := store.At[*cluster.Member](v, key)
	switch {
	case value == nil:
		c.Verb = cluster.VerbTookOut
	case !had:
		c.Verb = cluster.VerbAdmitted
	default:
		is, err := cluster.Decode(key, value)
		m, ok := is.(*cluster.Member)
		if err != nil || !ok || m.UnderlayIPv4 == was.Value.UnderlayIPv4 && m.UnderlayIPv6 == was.Value.UnderlayIPv6 {
			return nil
		}
		c.Verb = cluster.VerbRepointed
	}
	return []cluster.Change{c}
}

// alarming reports whether a change is one that a person should know of at once.
func alarming(v cluster.Verb) bool {
	switch v {
	case cluster.VerbDuplicate, cluster.VerbFenced, cluster.VerbUnfenced, cluster.VerbMoved, cluster.VerbJudged, cluster.VerbFroze, cluster.VerbThawed:
		return true
	}
	return false
}

// notesOfJudgement tells of nodes that are of another class than before, and of safe
// mode.
func notesOfJudgement(v *store.View, key string, value []byte) (list []cluster.Change) {
	is, ok := decoded[*cluster.Judgement](key, value)
	if !ok {
		return nil
	}
	was := &cluster.Judgement{}
	if it, ok := store.At[*cluster.Judgement](v, key); ok {
		was = it.Value
	}
	for _, n := range is.Nodes {
		if !slices.ContainsFunc(was.Nodes, func(o cluster.Judged) bool { return o.Node == n.Node && o.Class == n.Class }) {
			list = append(list, cluster.Change{Verb: cluster.VerbJudged, Key: cluster.Short(cluster.KeyNode(n.Node)), Detail: string(n.Class) + ": " + n.Why})
		}
	}
	switch {
	case is.SafeMode != "" && was.SafeMode == "":
		list = append(list, cluster.Change{Verb: cluster.VerbFroze, Key: cluster.Short(key), Detail: is.SafeMode})
	case is.SafeMode == "" && was.SafeMode != "":
		list = append(list, cluster.Change{Verb: cluster.VerbThawed, Key: cluster.Short(key)})
	}
	return list
}

func noteOfFence(key string, value []byte) []cluster.Change {
	if value == nil {
		return []cluster.Change{{Verb: cluster.VerbUnfenced, Key: cluster.Short(key)}}
	}
	f, ok := decoded[*cluster.Fence](key, value)
	if !ok {
		return nil
	}
	return []cluster.Change{{Verb: cluster.VerbFenced, Key: cluster.Short(key), Detail: f.Why}}
}

// noteOfOwn tells of an endpoint that was moved without anybody's word.
func noteOfOwn(v *store.View, key string, value []byte) []cluster.Change {
	is, ok := decoded[*cluster.EndpointOwn](key, value)
	if !ok || is.Moved == nil {
		return nil
	}
	if was, ok := store.At[*cluster.EndpointOwn](v, key); ok && was.Value.Moved != nil && was.Value.Moved.At.Equal(is.Moved.At.Time) {
		return nil
	}
	var to []string
	if is.Node != "" {
		to = []string{is.Node}
	}
	return []cluster.Change{{Verb: cluster.VerbMoved, Key: cluster.Short(key), Nodes: to,
		Detail: fmt.Sprintf("from %s to %s, epoch %d: %s", is.Moved.From, cmp.Or(is.Node, "no node"), is.Epoch, is.Moved.Why)}}
}

// noteOfPublished tells of a MAC that two machines have.
func noteOfPublished(v *store.View, key string, value []byte) []cluster.Change {
	is, ok := decoded[*cluster.PublishedMAC](key, value)
	if !ok || is.Duplicate == nil {
		return nil
	}
	if was, ok := store.At[*cluster.PublishedMAC](v, key); ok && was.Value.Duplicate != nil {
		return nil
	}
	return []cluster.Change{{Verb: cluster.VerbDuplicate, Key: cluster.Short(key), Nodes: []string{is.Node, is.Duplicate.Node},
		Detail: fmt.Sprintf("port %s of %s and port %s of %s: it stays at %s", is.Port, is.Node, is.Duplicate.Port, is.Duplicate.Node, is.Node)}}
}

func notesOfNet(v *store.View, key string, value []byte) (list []cluster.Change) {
	is, ok := decoded[*cluster.VPCNet](key, value)
	if !ok {
		return nil
	}
	was := &cluster.VPCNet{}
	if it, ok := store.At[*cluster.VPCNet](v, key); ok {
		was = it.Value
	}
	c := cluster.Change{Key: cluster.Short(key)}
	switch {
	case is.Phase == cluster.PhaseActive && was.Phase != cluster.PhaseActive:
		c.Verb, c.Detail = cluster.VerbReady, fmt.Sprintf("VNI %d, MTU %d", is.VNI, is.MTU)
		list = append(list, c)
	case is.Phase == cluster.PhaseActive && is.Reason != "" && was.Reason != is.Reason:
		c.Verb, c.Detail = cluster.VerbPartly, is.Reason
		list = append(list, c)
	case is.Phase == cluster.PhasePending && is.Reason != "" && (was.Phase != is.Phase || was.Reason != is.Reason):
		c.Verb, c.Detail = cluster.VerbHeldUp, is.Reason
		list = append(list, c)
	}
	for _, node := range slices.Sorted(maps.Keys(is.Refused)) {
		if why := is.Refused[node]; was.Refused[node] != why {
			list = append(list, cluster.Change{Verb: cluster.VerbRefused, Key: c.Key, Nodes: []string{node}, Detail: why})
		}
	}
	return list
}
