package watcher

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// endpointRecords are what the store has of one endpoint, each nil if it is not
// there or has never been readable.
type endpointRecords struct {
	spec *cluster.EndpointSpec
	own  *cluster.EndpointOwn
	mod  int64 // of own
	// Neither has a record, readable or not.
	none bool
}

// moves reports whether the endpoint may change its node without anybody's word.
func (r endpointRecords) moves() bool { return r.spec != nil && r.spec.Failover.Moves() }

// readEndpoint reads one endpoint of a VPC whose prefix has been read.
func readEndpoint(view *store.View, vpc, endpoint string) (r endpointRecords) {
	specKey, ownKey := cluster.KeyEndpointSpec(vpc, endpoint), cluster.KeyEndpointOwn(vpc, endpoint)
	if it, ok := store.At[*cluster.EndpointSpec](view, specKey); ok {
		r.spec = it.Value
	}
	if it, ok := store.At[*cluster.EndpointOwn](view, ownKey); ok {
		r.own, r.mod = it.Value, it.Mod
	}
	r.none = !view.Has(specKey) && !view.Has(ownKey)
	return r
}

// absorbEndpoints takes the records of the endpoints that concern this host into
// memory, as far as the rules of doc.go let it, and reports whether any changed.
func (a *Agent) absorbEndpoints(view *store.View) (changed bool) {
	for name, v := range a.memory.VPCs {
		if v.Leaving || v.read == nil || !v.confirmed || v.hold != "" || a.hold != "" || a.memory.Left {
			continue
		}
		if v.portsRead == v.read && len(v.expected) == 0 {
			continue
		}
		read := func(endpoint string) endpointRecords { return readEndpoint(view, name, endpoint) }
		moved, came := v.absorbAttachments(read, a.cfg.Node, a.now)
		changed = moved || changed
		for _, endpoint := range came {
			a.came(portID{name, endpoint})
		}
		changed = v.absorbReleased(read, a.cfg.Node) || changed
		changed = v.absorbExpected(read, a.cfg.Node, a.now) || changed
		v.portsRead = v.read
	}
	return changed
}

// absorbAttachments follows the records of what is attached. came lists what came
// from another node.
func (v *vpc) absorbAttachments(read func(string) endpointRecords, me string, now time.Time) (changed bool, came []string) {
	for name, a := range v.Attachments {
		r := read(name)
		if r.spec != nil && r.spec.State == cluster.EndpointDeleting {
			if a.Own == nil { // the one before: it waits for another
				continue
			}
			v.end(name, me, now) // an operator's word
			changed = true
			continue
		}
		before := a
		if a.absorb(r, me) {
			changed = true
		}
		o := a.Own
		a.gone = o != nil && o.Node != "" && v.Members[o.Node] == nil
		if lingers(before, a, v, name, me) {
			a.until = now.Add(lingerFor)
		}
		if changed || a.read != before.read || a.mod != before.mod || a.hold != before.hold || a.bound != before.bound || a.gone != before.gone {
			v.Attachments[name] = a
		}
		if o := before.Own; o != nil && o.Node != "" && o.Node != me && v.serves(name, me) {
			came = append(came, name)
		}
	}
	return changed, came
}

// absorb takes an endpoint's records, whose spec is not being deleted, and
// reports whether another own record is in force.
func (a *attachment) absorb(r endpointRecords, me string) (changed bool) {
	if r.spec != nil {
		if a.Own != nil && !a.Created.Equal(r.spec.Created.Time) { // another endpoint of that name
			a.Own, changed = nil, true
		}
		a.Created, a.bound, a.Ours = r.spec.Created, r.spec.Node, r.spec.Requester == me
		changed = changed || a.Failover != (r.spec.Failover.Moves())
		a.Failover = r.spec.Failover.Moves()
		changed = changed || a.Workload != workloadOf(&r.spec.Failover)
		a.Workload = workloadOf(&r.spec.Failover)
	}
	a.hold, a.mod = "", 0
	switch o := r.own; {
	case o == nil && a.Own != nil:
		a.hold = "its own record is gone: keeping it as it is"
	case o == nil:
	case a.Own != nil && termOf(o).before(termOf(a.Own)):
		a.hold = fmt.Sprintf("its own record is of era %d, epoch %d, and this host has seen %d, %d: keeping it as it is", o.Era, o.Epoch, a.Own.Era, a.Own.Epoch)
	case !o.MAC.Unicast() && a.Own != nil:
		a.hold = "its own record names no MAC: keeping it as it is"
	case !o.MAC.Unicast(): // not ready yet
	case a.Own == nil || !sameOwn(a.Own, o):
		a.Own, changed = o, true
	}
	a.read = a.read || a.Own != nil && a.hold == ""
	if a.hold == "" && a.Own != nil {
		a.mod = r.mod
	}
	return a.absorbStrict(r.spec) || changed
}

func sameOwn(a, b *cluster.EndpointOwn) bool {
	return a.State == b.State && a.MAC == b.MAC && a.Node == b.Node && termOf(a) == termOf(b) && a.To == b.To && a.Restored == b.Restored && a.Reason == b.Reason && slices.Equal(a.IPs, b.IPs)
}

// absorbReleased forgets the terms that this host has ended when another has
// begun.
func (v *vpc) absorbReleased(read func(string) endpointRecords, me string) (changed bool) {
	for name, ended := range v.Released {
		r := read(name)
		another := r.spec != nil && !r.spec.Created.Equal(ended.Created.Time)
		over := r.own != nil && (r.own.Node != me || ended.before(termOf(r.own)))
		if another || over || r.none {
			delete(v.Released, name)
			changed = true
		}
	}
	return changed
}

// absorbExpected ends the terms of endpoints that were asked for and that nobody
// here wants any more.
func (v *vpc) absorbExpected(read func(string) endpointRecords, me string, now time.Time) (changed bool) {
	for name, until := range v.expected {
		_, wanted := v.Attachments[name]
		if wanted || !now.Before(until) {
			delete(v.expected, name)
			continue
		}
		changed = v.disown(name, read(name), me) || changed
	}
	return changed
}

// disown ends the term of an endpoint that is this host's, though nothing is
// attached.
func (v *vpc) disown(endpoint string, r endpointRecords, me string) (changed bool) {
	if r.own == nil || r.own.Node != me {
		return false
	}
	if ended, ok := v.Released[endpoint]; ok && !ended.before(termOf(r.own)) {
		return false
	}
	var created cluster.Time
	if r.spec != nil {
		created = r.spec.Created
	}
	return v.release(endpoint, me, r.own, created)
}

// sweep ends the terms of all endpoints that are this host's by nothing but a
// request, and that nothing is attached to: whoever asked for them is gone.
func (a *Agent) sweep(view *store.View) (changed bool) {
	for name, v := range a.memory.VPCs {
		if v.Leaving || v.read == nil || !v.confirmed || v.hold != "" {
			continue
		}
		for it := range store.Below[*cluster.EndpointOwn](view, cluster.PrefixEndpoints(name)) {
			if it.Value.Node != a.cfg.Node {
				continue
			}
			k, err := cluster.ParseKey(it.Key)
			if err != nil {
				continue
			}
			_, attached := v.Attachments[k.Name]
			r := readEndpoint(view, name, k.Name)
			if !attached && r.spec != nil && r.spec.Node != a.cfg.Node {
				changed = v.disown(k.Name, r, a.cfg.Node) || changed
			}
		}
	}
	return changed
}

// addressesOf are an endpoint's addresses with the length of the VPC's network.
func (v *vpc) addressesOf(o *cluster.EndpointOwn) (list []netip.Prefix) {
	for _, a := range o.IPs {
		n, ok := v.Network.Of(a)
		if !ok {
			n = netip.PrefixFrom(a, a.BitLen())
		}
		list = append(list, netip.PrefixFrom(a, n.Bits()))
	}
	return list
}
