package controller

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/controller/failover"
)

// endpoint is all records of one endpoint.
type endpoint struct {
	name    string
	spec    store.Item[*cluster.EndpointSpec] // Value nil: none
	own     store.Item[*cluster.EndpointOwn]
	hold    holdItem            // Mod 0: none
	held    []allocItem         // addresses and MACs
	ports   map[string]portItem // what nodes report, by node
	granted *request            // see requests; nil: none
	grant   *failover.Grant     // that moves it; nil: none
	waits   string              // why it is not moved
	to      string              // where its owner is to hand it over to; "": it is not
	blocked bool                // a record cannot be read that must not be written over
}

// endpoint returns the endpoint of that name, which may have nothing but leftovers.
func (v *vpc) endpoint(name string) *endpoint {
	e := v.endpoints[name]
	if e == nil {
		e = &endpoint{name: name}
		e.spec.Key, e.own.Key = cluster.KeyEndpointSpec(v.name, name), cluster.KeyEndpointOwn(v.name, name)
		v.endpoints[name] = e
	}
	return e
}

// bringEndpoints gives endpoints what their specs ask for, and takes it back. As
// with a VPC, a spec that vanished is a mistake: its endpoint keeps what it has.
// What is in force is claimed before anything new is given out.
func (s *state) bringEndpoints(w *world, v *vpc, p *plan) {
	names := slices.Sorted(maps.Keys(v.endpoints))
	names = slices.DeleteFunc(names, func(name string) bool { return v.endpoints[name].blocked || s.rebuildEndpoint(v, v.endpoints[name], p) })
	for _, name := range names {
		e := v.endpoints[name]
		switch spec := e.spec.Value; {
		case e.granted != nil:
			s.bringEndpoint(w, v, e, p)
		case spec == nil && e.own.Value != nil:
		case spec == nil:
			for _, it := range w.heldByEndpoint(e, nil) {
				p.add(release(it))
			}
			if e.hold.Mod != 0 {
				p.add(w.eraseEndpoint(e))
			}
		case spec.State == cluster.EndpointDeleting:
			if !w.attached(v, e) {
				p.add(w.eraseEndpoint(e))
			}
		default:
			s.bringEndpoint(w, v, e, p)
		}
	}
}

// rebuildEndpoint writes reverse keys of what is in force again that vanished, and
// reports whether it does: the rest comes in the next pass.
func (s *state) rebuildEndpoint(v *vpc, e *endpoint, p *plan) bool {
	u := unit{verb: "rebuild", object: e.name}
	own := e.own.Value
	if own == nil || e.spec.Value != nil && e.spec.Value.State == cluster.EndpointDeleting {
		return false
	}
	for _, a := range own.IPs {
		if e.holds(cluster.KeyAllocIP(v.name, a)) {
			continue
		}
		if c, err := s.alloc.ClaimIPValue(v.name, e.name, a); err == nil {
			u.claim(c)
		}
	}
	if own.MAC.Unicast() && !e.holds(cluster.KeyAllocMAC(v.name, own.MAC)) {
		if c, err := s.alloc.ClaimMACValue(v.name, e.name, own.MAC); err == nil {
			u.claim(c)
		}
	}
	p.add(u)
	return !u.empty()
}

// hasEndpoints reports whether anybody asks for an endpoint of the VPC.
func (v *vpc) hasEndpoints() bool {
	for _, e := range v.endpoints {
		if e.spec.Mod != 0 && !e.isGateway() || e.blocked {
			return true
		}
	}
	return false
}

// eraseEndpoint deletes an endpoint and gives back what it holds.
func (w *world) eraseEndpoint(e *endpoint) unit {
	u := unit{verb: "delete", object: e.name}
	for _, it := range w.heldByEndpoint(e, nil) {
		allocator.Release(&u.change, it)
	}
	if e.own.Mod != 0 {
		u.change.Remove(e.own.Key, e.own.Mod)
	}
	if e.hold.Mod != 0 {
		u.change.Remove(e.hold.Key, e.hold.Mod)
	}
	if e.spec.Mod != 0 {
		u.change.Remove(e.spec.Key, e.spec.Mod)
	}
	return u
}

// heldByEndpoint lists what an endpoint holds and was not released, but keep.
func (w *world) heldByEndpoint(e *endpoint, keep []string) (held []allocItem) {
	for _, it := range e.held {
		if !it.Value.Released && !w.blockedKey(it.Key) && !slices.Contains(keep, it.Key) {
			held = append(held, it)
		}
	}
	return held
}

// bringEndpoint gives one endpoint its addresses and its place.
func (s *state) bringEndpoint(w *world, v *vpc, e *endpoint, p *plan) {
	u := unit{verb: "give endpoint " + e.name, object: ""}
	e.take(&u)
	if e.spec.Value.State == cluster.EndpointDeleting {
		u.verb = "start deletion of endpoint " + e.name
		p.add(u)
		return
	}
	own := cluster.EndpointOwn{State: cluster.OwnPending}
	if e.own.Value != nil {
		own = *e.own.Value
	}
	own.Reason = ""
	if why := v.surplus(e); why != "" {
		own.State, own.Reason = cluster.OwnPending, why
	} else if !e.settled(v) {
		ips, mac, err := s.claimEndpoint(v, e, &u)
		switch {
		case err != nil && own.MAC == (cluster.MAC{}):
			own = cluster.EndpointOwn{State: cluster.OwnPending, Reason: err.Error(), Era: own.Era, Epoch: own.Epoch}
		case err != nil:
			own.Reason = err.Error()
		default:
			own.IPs, own.MAC = ips, mac
		}
	}
	if own.MAC.Unicast() {
		w.place(v, e, &own, &u)
	}
	own.SetNeeds(&e.spec.Value.Failover)
	if e.own.Value == nil || !sameOwn(&own, e.own.Value) {
		store.Put(&u.change, e.own, &own)
		u.object = describeOwn(&own)
	}
	p.add(u)
	var keep []string
	for _, a := range own.IPs {
		keep = append(keep, cluster.KeyAllocIP(v.name, a))
	}
	for _, it := range w.heldByEndpoint(e, append(keep, cluster.KeyAllocMAC(v.name, own.MAC))) {
		p.add(release(it))
	}
}

// settled reports whether an endpoint has what its spec asks for, and nobody else
// can get it: then there is nothing to claim.
func (e *endpoint) settled(v *vpc) bool {
	own, spec := e.own.Value, e.spec.Value
	if own == nil || own.State == cluster.OwnPending || spec.MAC != (cluster.MAC{}) && own.MAC != spec.MAC {
		return false
	}
	if !e.holds(cluster.KeyAllocMAC(v.name, own.MAC)) {
		return false
	}
	for _, a := range own.IPs {
		if !e.holds(cluster.KeyAllocIP(v.name, a)) {
			return false
		}
	}
	for _, n := range v.spec.Value.Network.List() {
		i := slices.IndexFunc(own.IPs, n.Contains)
		j := slices.IndexFunc(spec.IPs, n.Contains)
		switch {
		case j >= 0 && !slices.Contains(own.IPs, spec.IPs[j]), j < 0 && i < 0 && spec.Auto, j < 0 && i >= 0 && !spec.Auto:
			return false
		}
	}
	return true
}

func (e *endpoint) holds(key string) bool {
	return slices.ContainsFunc(e.held, func(it allocItem) bool { return it.Key == key && !it.Value.Released })
}

// claimEndpoint claims all that an endpoint is to have, or nothing: the error says
// what it cannot.
func (s *state) claimEndpoint(v *vpc, e *endpoint, u *unit) (ips []netip.Addr, mac cluster.MAC, err error) {
	var claims []*allocator.Claim
	defer func() {
		for _, c := range claims {
			if err != nil {
				c.Settle(0, store.ErrConflict)
			} else {
				u.claim(c)
			}
		}
	}()
	spec, network := e.spec.Value, v.spec.Value.Network
	for _, a := range spec.IPs {
		if _, ok := network.Of(a); !ok {
			return nil, mac, fmt.Errorf("%s is not of the VPC's network (%s)", a, orText(network.String(), "it has none"))
		}
	}
	for _, n := range network.List() {
		pool := allocator.NetworkOf(v.spec.Value, n)
		c, err := s.claimIP(v, e, pool)
		if err != nil {
			return nil, mac, err
		}
		if c != nil {
			claims, ips = append(claims, c), append(ips, c.Addr())
		}
	}
	c, err := s.claimMAC(v, e)
	if err != nil {
		return nil, mac, err
	}
	claims = append(claims, c)
	return ips, c.MAC(), nil
}

// claimIP claims the address of one family: the fixed one, else what the endpoint
// has, else the lowest free; nil if it is to have none.
func (s *state) claimIP(v *vpc, e *endpoint, pool allocator.Network) (*allocator.Claim, error) {
	spec := e.spec.Value
	if i := slices.IndexFunc(spec.IPs, pool.Prefix.Contains); i >= 0 {
		if a := spec.IPs[i]; !pool.Allocates(a) && !(e.isGateway() && a == pool.Gateway) {
			return nil, fmt.Errorf("%s is reserved in %s", spec.IPs[i], pool.Prefix)
		}
		return s.alloc.ClaimIPValue(v.name, e.name, spec.IPs[i])
	}
	if !spec.Auto {
		return nil, nil
	}
	if own := e.own.Value; own != nil {
		if i := slices.IndexFunc(own.IPs, pool.Prefix.Contains); i >= 0 {
			if c, err := s.alloc.ClaimIPValue(v.name, e.name, own.IPs[i]); err == nil {
				return c, nil
			}
		}
	}
	c, err := s.alloc.ClaimIP(v.name, pool, e.name)
	if errors.Is(err, allocator.ErrExhausted) {
		return nil, errors.New(v.full(e, pool))
	}
	return c, err
}

// claimMAC claims the fixed MAC, else the one that the endpoint has, else one that
// goes with its name.
func (s *state) claimMAC(v *vpc, e *endpoint) (*allocator.Claim, error) {
	if m := e.spec.Value.MAC; m != (cluster.MAC{}) {
		return s.alloc.ClaimMACValue(v.name, e.name, m)
	}
	if own := e.own.Value; own != nil && own.MAC.Unicast() {
		if c, err := s.alloc.ClaimMACValue(v.name, e.name, own.MAC); err == nil {
			return c, nil
		}
	}
	return s.alloc.ClaimMAC(v.name, e.name), nil
}

func sameOwn(a, b *cluster.EndpointOwn) bool {
	return a.State == b.State && a.Reason == b.Reason && slices.Equal(a.IPs, b.IPs) && a.MAC == b.MAC &&
		a.Node == b.Node && a.To == b.To && a.Era == b.Era && a.Epoch == b.Epoch && a.Restored == b.Restored && a.Needs == b.Needs
}

func describeOwn(own *cluster.EndpointOwn) string {
	if own.State == cluster.OwnPending {
		return "nothing: " + own.Reason
	}
	text := own.MAC.String()
	for _, a := range own.IPs {
		text += " " + a.String()
	}
	if own.Node != "" {
		text += " at " + own.Node
	}
	if own.To != "" {
		text += ", to be handed to " + own.To
	}
	return text
}
