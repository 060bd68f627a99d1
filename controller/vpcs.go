package controller

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// bring makes a VPC what its spec asks for.
func (s *state) bring(w *world, v *vpc, p *plan) {
	p.head.verb = "put"
	p.head.object = "net"
	var net *cluster.VPCNet
	if v.active() && v.net.Value.Phase == cluster.PhaseActive {
		net = s.keepNet(w, v, p)
	} else {
		net = s.newNet(w, v, p)
	}
	w.depart(v, p)
	switch {
	case net.Phase == cluster.PhaseActive:
		s.members(w, v, net, p)
	case len(v.members) == 0 && !v.inUse(): // it starts anew, some day
		w.dropLinks(v, p, func(string) bool { return true })
		for _, it := range w.heldBy(v) {
			p.add(release(it))
		}
	}
	v.bringGateway(net, cluster.At(w.now), p)
	s.bringEndpoints(w, v, p)
	if r := w.publish(v, p); r != "" {
		net.Reason = strings.TrimPrefix(net.Reason+"; "+r, "; ")
	}
	tidy(net)
	if v.net.Value == nil || !reflect.DeepEqual(net, v.net.Value) {
		store.Put(&p.head.change, v.net, net)
	}
}

// refusedMost bounds the list of refused nodes in a record.
const refusedMost = 1000

// tidy makes net as the store will hold it.
func tidy(net *cluster.VPCNet) {
	if more := len(net.Refused) - refusedMost; more > 0 {
		for _, name := range slices.Sorted(maps.Keys(net.Refused))[refusedMost:] {
			delete(net.Refused, name)
		}
		net.Reason = strings.TrimPrefix(fmt.Sprintf("%s; %d more nodes are refused", net.Reason, more), "; ")
	}
	for name, why := range net.Refused {
		net.Refused[name] = cluster.CleanText(why)
	}
	net.Reason = cluster.CleanText(net.Reason)
}

// newNet finds a VNI and an MTU for a VPC that has none in force.
func (s *state) newNet(w *world, v *vpc, p *plan) *cluster.VPCNet {
	net := &cluster.VPCNet{Phase: cluster.PhasePending, PeerNetwork: v.spec.Value.PeerNetwork}
	askTransport(net, v.spec.Value)
	net.Learn(v.spec.Value.Learning)
	if v.inTheWay(v.spec.Value.AskedGateway()) == "" { // else keepNet says so
		net.Route(v.spec.Value.AskedGateway())
	}
	claim, err := s.claimVNI(w, v)
	if err != nil {
		net.Reason = err.Error()
		return net
	}
	mtu, err := w.newMTU(v)
	if err != nil {
		claim.Settle(0, store.ErrConflict)
		net.Reason = err.Error()
		return net
	}
	p.head.verb, p.head.object = "start", fmt.Sprintf("with VNI %d and MTU %d", claim.VNI(), mtu)
	p.head.claim(claim)
	net.Phase, net.VNI, net.MTU = cluster.PhaseActive, claim.VNI(), mtu
	return net
}

// claimVNI claims the VNI that the VPC holds already, else the one asked for,
// else the one that hosts report, else the lowest free one.
func (s *state) claimVNI(w *world, v *vpc) (*allocator.Claim, error) {
	if w.config == nil {
		return nil, errors.New("the cluster has no config record")
	}
	want := v.spec.Value.VNI
	if n := v.net.Value; n != nil && n.VNI != 0 {
		want = n.VNI // it was deleting, and is wanted again
	}
	switch {
	case v.net.Value == nil && v.holdsVNI(): // the net record was lost
	case want != 0:
		if !w.config.VNIs.Contains(want) {
			return nil, fmt.Errorf("VNI %d is not of the cluster's range %d-%d", want, w.config.VNIs.First, w.config.VNIs.Last)
		}
		if by := w.hadBy(want, v.name); by != "" && !v.holdsVNI() {
			return nil, fmt.Errorf("VNI %d is taken by %s: hosts have it, whatever the records say", want, by)
		}
		if by := w.inForceFor(want, v.name); by != "" {
			return nil, fmt.Errorf("VNI %d is taken by %s", want, by)
		}
		return takenBy(s.alloc.ClaimVNIValue(v.name, want))
	case len(v.vnis) == 0:
		for _, vni := range slices.Sorted(maps.Keys(w.ofVPC)) {
			if w.ofVPC[vni] != v.name || w.inForceFor(vni, v.name) != "" {
				continue
			}
			if c, err := s.alloc.ClaimVNIValue(v.name, vni); err == nil {
				return c, nil
			}
		}
	}
	c, err := s.alloc.ClaimVNI(w.config.VNIs, v.name, w.usedByOther(cluster.Pair{VPC: v.name}))
	if errors.Is(err, allocator.ErrExhausted) {
		return nil, fmt.Errorf("all VNIs of the cluster's range %d-%d are taken", w.config.VNIs.First, w.config.VNIs.Last)
	}
	return c, err
}

// holdsVNI reports whether a VNI is the VPC's, and not released.
func (v *vpc) holdsVNI() bool {
	return slices.ContainsFunc(v.vnis, func(it allocItem) bool { return !it.Value.Released })
}

// takenBy words the refusal of a VNI.
func takenBy(c *allocator.Claim, err error) (*allocator.Claim, error) {
	if taken, ok := errors.AsType[*allocator.TakenError](err); ok && taken.Holder != "" && !taken.Released {
		of := cluster.Allocation{Holder: taken.Holder}
		return nil, fmt.Errorf("%s is taken by %s", taken.Value, of.Of())
	}
	return c, err
}

// newMTU is the MTU asked for; else the one that hosts have, if the net record
// was lost, those that are to leave too; else what the members that are present
// can carry.
func (w *world) newMTU(v *vpc) (int, error) {
	spec := v.spec.Value
	var selected, small []string
	least, have := 0, v.reportedMTU()
	for _, name := range w.names {
		if !spec.Members.Selects(name, w.nodes[name]) {
			continue
		}
		selected = append(selected, name)
		u := w.underlay(name)
		if len(u.Advertised()) == 0 {
			continue
		}
		if why := cannotCarry(u, max(spec.MTU, cluster.MinMTU)); why != "" {
			small = append(small, name+" "+why)
			continue
		}
		if m := u.MTU(); least == 0 || m < least {
			least = m
		}
	}
	switch {
	case len(selected) == 0 && have != 0:
		return have, nil
	case len(selected) == 0:
		return 0, fmt.Errorf("no node is selected by %q", spec.Members)
	case least == 0 && len(small) > 0 && spec.MTU != 0:
		return 0, fmt.Errorf("no member carries MTU %d: %s", spec.MTU, some(small, "; "))
	case least == 0 && len(small) > 0:
		return 0, fmt.Errorf("no member carries the least MTU, %d: %s", cluster.MinMTU, some(small, "; "))
	case least == 0:
		return 0, fmt.Errorf("no member has reported its underlay yet: waiting for %s", some(selected, ", "))
	case spec.MTU != 0:
		return spec.MTU, nil
	case have != 0:
		return have, nil
	}
	return min(least, cluster.MaxMTU), nil
}

// reportedMTU is the least that a host says it has, 0 if none does.
func (v *vpc) reportedMTU() int {
	least := 0
	for node, s := range v.status {
		if mtu := s.Value.MTU; v.uses(node) && mtu >= cluster.MinMTU && (least == 0 || mtu < least) {
			least = mtu
		}
	}
	return least
}

// keepNet is what is in force, changed as far as the spec may change it.
func (s *state) keepNet(w *world, v *vpc, p *plan) *cluster.VPCNet {
	net := *v.net.Value
	net.Reason, net.Refused = "", nil
	if askTransport(&net, v.spec.Value) {
		p.head.object = "transport " + orText(string(net.Transport), string(cluster.Multipoint))
	}
	var reasons []string
	spec := v.spec.Value
	if net.Learning != spec.Learning {
		net.Learn(spec.Learning)
		p.head.object = "learning " + orText(string(net.Learning), string(cluster.LearnDynamic))
	}
	if asked := spec.AskedGateway(); net.Gateway != asked {
		if why := v.inTheWay(asked); why != "" {
			reasons = append(reasons, why)
		} else {
			net.Route(asked)
			p.head.object = "gateway " + net.Gateway.String()
		}
	}
	if spec.PeerNetwork != net.PeerNetwork {
		reasons = append(reasons, fmt.Sprintf("peer network %s is ignored: it is %s since the VPC was made", spec.PeerNetwork, net.PeerNetwork))
	}
	if spec.VNI != 0 && spec.VNI != net.VNI {
		reasons = append(reasons, fmt.Sprintf("VNI %d is ignored: it is %d since the VPC was made", spec.VNI, net.VNI))
	}
	if spec.MTU != 0 && spec.MTU != net.MTU {
		if why := w.tooLarge(v, spec.MTU); why != "" {
			reasons = append(reasons, fmt.Sprintf("MTU %d is not in force: %s", spec.MTU, why))
		} else {
			p.head.object = fmt.Sprintf("MTU %d", spec.MTU)
			net.MTU = spec.MTU
		}
	}
	if r := s.keepVNI(w, v, p); r != "" {
		reasons = append(reasons, r)
	}
	net.Reason = strings.Join(reasons, "; ")
	return &net
}

// askTransport makes the transport of net what spec asks for, and reports
// whether it changed.
func askTransport(net *cluster.VPCNet, spec *cluster.VPCSpec) bool {
	t, group := spec.InForce(), spec.MulticastGroup
	changed := t != net.Transport && !(t == "" && net.Transport == cluster.Multipoint) || group != net.MulticastGroup
	if changed {
		net.Transport, net.MulticastGroup = t, group
	}
	return changed
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// tooLarge names a member that cannot carry mtu.
func (w *world) tooLarge(v *vpc, mtu int) string {
	for _, name := range w.names {
		if _, ok := v.members[name]; ok {
			if why := cannotCarry(w.underlay(name), mtu); why != "" {
				return name + " " + why
			}
		}
	}
	return ""
}

// keepVNI sees that the VPC holds the VNI in force, and no other.
func (s *state) keepVNI(w *world, v *vpc, p *plan) (reason string) {
	key := cluster.KeyAllocVNI(v.net.Value.VNI)
	held := false
	for _, it := range v.vnis {
		switch {
		case it.Key == key && !it.Value.Released:
			held = true
		case it.Key != key && !it.Value.Released && !w.blockedKey(it.Key):
			p.add(release(it))
		}
	}
	if held {
		return ""
	}
	claim, err := takenBy(s.alloc.ClaimVNIValue(v.name, v.net.Value.VNI))
	if err != nil {
		return err.Error()
	}
	p.head.verb, p.head.object = "rebuild", "the reverse key of the VNI"
	p.head.claim(claim)
	return ""
}

func (w *world) blockedKey(key string) bool {
	_, ok := w.newer[key]
	return ok
}

func release(it allocItem) unit {
	u := unit{verb: "release", object: lastPart(it.Key)}
	allocator.Release(&u.change, it)
	return u
}

func lastPart(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }

// dismantle takes a VPC down: every host first, then what it was.
func (w *world) dismantle(v *vpc, p *plan) {
	p.head.verb, p.head.object = "start", "deletion"
	if n := v.net.Value; n != nil && n.Phase != cluster.PhaseDeleting {
		gone := *n
		gone.Phase, gone.Reason, gone.Refused = cluster.PhaseDeleting, "", nil
		store.Put(&p.head.change, v.net, &gone)
	}
	for _, node := range v.nodes() {
		if !w.blocks(v, node) {
			p.add(w.leave(v, node, v.forced()))
		}
	}
	w.tellForgotten(v, p)
	w.dropLinks(v, p, func(node string) bool { return w.gone(v, node) })
	if !p.empty() {
		return
	}
	for _, a := range v.assigns {
		if a.Value.State != cluster.AssignedLeaving {
			return
		}
	}
	for node := range v.assigns {
		if !v.forced() || w.alive[node] {
			return
		}
	}
	if len(v.members) > 0 {
		return
	}
	w.erase(v, p)
}

// forced reports whether deletion waits for no dead host.
func (v *vpc) forced() bool { return v.spec.Value != nil && v.spec.Value.Force }

// erase deletes the last of a VPC, and gives back what it holds.
func (w *world) erase(v *vpc, p *plan) {
	for _, it := range w.heldBy(v) {
		p.add(release(it))
	}
	for _, name := range slices.Sorted(maps.Keys(v.endpoints)) {
		if e := v.endpoints[name]; !e.blocked {
			p.add(w.eraseEndpoint(e))
		}
	}
	for _, mac := range slices.SortedFunc(maps.Keys(v.macs), cluster.MAC.Compare) {
		if l := v.macs[mac]; !w.blockedKey(l.record.Key) {
			p.add(l.put(mac, nil))
		}
	}
	if w.dropLinks(v, p, func(string) bool { return true }) {
		return
	}
	p.units, p.links = append(p.units, p.links...), nil
	last := unit{verb: "delete", object: "what is left of it"}
	if v.net.Mod != 0 {
		last.change.Remove(v.net.Key, v.net.Mod)
	}
	if v.spec.Mod != 0 {
		last.change.Remove(v.spec.Key, v.spec.Mod)
	} else {
		last.change.Require(v.spec.Key, 0)
	}
	if it, ok := store.At[*cluster.PingRequest](w.view, cluster.KeyVPCPing(v.name)); ok {
		last.change.Remove(it.Key, it.Mod)
	}
	if it, ok := store.At[*cluster.FindRequest](w.view, cluster.KeyVPCFind(v.name)); ok {
		last.change.Remove(it.Key, it.Mod)
	}
	p.add(last)
}

// heldBy lists what a VPC holds and was not released, in order.
func (w *world) heldBy(v *vpc) []allocItem {
	var held []allocItem
	for _, it := range append(sortedByKey(v.vteps), v.vnis...) {
		if !it.Value.Released && !w.blockedKey(it.Key) {
			held = append(held, it)
		}
	}
	return held
}

// orphan looks after a VPC without a spec. While any host has to do with it,
// that is a mistake to be held; else it is garbage.
func (w *world) orphan(v *vpc, p *plan) {
	p.head.verb = "clean"
	for _, node := range v.nodes() {
		if n := w.nodes[node]; n != nil && n.State == cluster.NodeLeft && !w.blocks(v, node) {
			p.add(w.leave(v, node, true))
		}
	}
	w.dropLinks(v, p, func(node string) bool {
		n := w.nodes[node]
		return n != nil && n.State == cluster.NodeLeft && w.gone(v, node)
	})
	if !p.empty() || v.inUse() || v.hasEndpoints() {
		return
	}
	for _, node := range v.nodes() {
		if !w.blocks(v, node) {
			p.add(w.leave(v, node, true))
		}
	}
	if len(p.units) == 0 {
		w.erase(v, p)
	}
}
