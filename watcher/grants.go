package watcher

import (
	"context"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// Granted is an own record that has to be as it is for a renewal to be a grant.
type Granted struct {
	Key string
	Mod int64
}

const waitsForGrant = "waiting for the store to grant it"

// absorbStrict takes whether the port is to be gated. One that is open stays gated to
// the end of its term: until then another node may be granted it, as the store still
// has the word that it is.
func (a *attachment) absorbStrict(spec *cluster.EndpointSpec) (changed bool) {
	was, in := a.Strict, a.StrictIn
	switch {
	case spec == nil:
	case spec.Failover.Strict():
		a.Strict, a.StrictIn = true, termOf(a.Own)
	case a.StrictIn != termOf(a.Own):
		a.Strict, a.StrictIn = false, term{}
	}
	return was != a.Strict || in != a.StrictIn
}

// whyNotGranted says why a strict endpoint's port stays mute, or "".
func (a *Agent) whyNotGranted(at attachment) string {
	switch {
	case a.gater == nil:
		return "this host cannot shut a port by itself, as an endpoint that is exclusive strict asks for"
	case at.hold != "":
		return at.hold
	case at.proved != termOf(at.Own):
		return waitsForGrant
	}
	return ""
}

// takeGrants notes which terms the store has granted: those of the last order, if it
// was carried out. Only then a port opens: so whatever lets the gate stay open later
// has compared its record, too.
func (a *Agent) takeGrants(kept int64) {
	k := a.duty.keeping
	if k.Grant == 0 || kept != k.Order {
		return
	}
	for vpc, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			if at.Strict && at.mod != 0 && slices.Contains(k.Grants, Granted{cluster.KeyEndpointOwn(vpc, name), at.mod}) {
				at.proved = termOf(at.Own)
				v.Attachments[name] = at
			}
		}
	}
}

// lookAtGate sees which ports pass frames while the gate is open.
func (a *Agent) lookAtGate(ctx context.Context) {
	a.gate.open, a.gate.closed = nil, nil
	var on *hostops.State
	for vpc, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			if !at.Strict {
				continue
			}
			if on == nil {
				s, err := a.cfg.Driver.Observe(ctx, false)
				if err != nil {
					return // nothing is granted, then, and nothing said to be shut
				}
				on, a.gate.closed = &s, map[portID]bool{}
			}
			device := at.device(vpc, name)
			a.gate.closed[portID{vpc, name}] = on.OnlyGated(device)
		}
	}
	if on != nil {
		a.gate.open = on.OpenGated()
	}
}

// down reports whether a gated port lets nothing pass, gate or not.
func (a *Agent) down(id portID, at attachment) bool {
	return a.gate.closed[id] && !slices.Contains(a.gate.open, at.device(id.vpc, id.endpoint))
}

// grants lists the own records that the gate is open by, sorted: those of all strict
// endpoints that this node serves, or would if they were granted. If a gated port is
// open that is of none of them, the gate has to shut: why says so.
func (a *Agent) grants() (list []Granted, why string) {
	if a.hold != "" || a.gater == nil || a.gate.closed == nil {
		return nil, ""
	}
	devices := map[string]bool{}
	for vpc, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			if at.Strict && v.serves(name, a.cfg.Node) && at.mod != 0 && (at.shut == "" || at.shut == waitsForGrant) {
				list = append(list, Granted{cluster.KeyEndpointOwn(vpc, name), at.mod})
				devices[at.device(vpc, name)] = true
			}
		}
	}
	for _, device := range a.gate.open {
		if !devices[device] {
			return nil, "port " + device + " is open, and not this node's to serve"
		}
	}
	slices.SortFunc(list, func(a, b Granted) int { return strings.Compare(a.Key, b.Key) })
	return list, ""
}

// grant adds to an order what the gate is to be open by.
func (a *Agent) grant(k *Keeping) {
	list, why := a.grants()
	if why != a.gate.told && why != "" {
		a.log.Warn("the gate is to shut", zap.String("reason", why))
	}
	if a.gate.told = why; len(list) == 0 {
		return
	}
	t := a.duty.timings
	k.Grants, k.Grant, k.Record.Grant = list, t.OwnGrant(), t.Grant.Milliseconds()
}

// guardsAtOnce is how many own records one transaction compares.
const guardsAtOnce = mostGuards - 2 // and a fence, and the store's own

const mostGuards = 128

// Renewals are the transactions that renew the live record, with counters from one on:
// only while no fence of the node stands, and each own record that is granted is as it
// is. If all commit, all that is listed was so when the first was sent, or became so.
func (k Keeping) Renewals(node string, counter int64) []store.Change {
	var list []store.Change
	add := func(guards []Granted) {
		var c store.Change
		c.Require(cluster.KeyFence(node), 0)
		for _, g := range guards {
			c.Require(g.Key, g.Mod)
		}
		r := k.Record
		r.Counter = counter + int64(len(list))
		store.Set(&c, cluster.KeyLive(node), &r, nil, k.Lease)
		list = append(list, c)
	}
	for some := range slices.Chunk(k.Grants, guardsAtOnce) {
		add(some)
	}
	if list == nil {
		add(nil)
	}
	return list
}

func (k Keeping) equal(o Keeping) bool {
	return k.Every == o.Every && k.Lease == o.Lease && k.Record == o.Record && k.Grant == o.Grant && slices.Equal(k.Grants, o.Grants)
}
