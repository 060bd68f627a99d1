package watcher

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// macID names a MAC of a VPC.
type macID struct {
	vpc string
	mac cluster.MAC
}

// publishedRecords are those of one VPC.
type publishedRecords struct {
	is         map[cluster.MAC]published
	unreadable []cluster.MAC
}

// readPublished reads what is published of a VPC.
func readPublished(v *store.View, name string) *publishedRecords {
	r := &publishedRecords{is: map[cluster.MAC]published{}}
	prefix := cluster.PrefixPublished(name)
	for it := range store.Below[*cluster.PublishedMAC](v, prefix) {
		if mac, err := cluster.ParseMAC(strings.TrimPrefix(it.Key, prefix)); err == nil {
			r.is[mac] = published{it.Value.Node, it.Value.Sequence, it.Value.Duplicate != nil}
		}
	}
	for _, p := range v.Problems() {
		text, below := strings.CutPrefix(p.Key, prefix)
		if mac, err := cluster.ParseMAC(text); below && err == nil {
			r.unreadable = append(r.unreadable, mac)
		}
	}
	return r
}

// absorbPublished follows what is published, if the VPC publishes. One is forgotten
// when its record is gone from a list that was read whole.
func (v *vpc) absorbPublished(publish bool, r *publishedRecords) (changed change) {
	if v.Publish != publish {
		v.Publish, changed = publish, changedMore
	}
	if !publish {
		v.Published, v.claims = nil, nil
		return changed
	}
	if r == nil { // the same as last time
		return changed
	}
	is := r.is
	for _, mac := range r.unreadable {
		if old, had := v.Published[mac]; had {
			is = maps.Clone(is)
			is[mac] = old
		}
	}
	if !maps.Equal(v.Published, is) {
		v.Published, changed = is, max(changed, changedPeers)
	}
	return changed
}

// publishedPlaces are where this host is to send to, and to hear from, beside places
// of endpoints.
func (v *vpc) publishedPlaces(mine *cluster.Member, me string) (list []hostops.Place) {
	if !v.Publish || len(v.Published) == 0 {
		return nil
	}
	taken := v.takenMACs()
	for mac, p := range v.Published {
		place := hostops.Place{MAC: mac}
		switch peer := v.Members[p.Node]; {
		case taken(mac):
			continue
		case p.Node == me || v.claims != nil && v.claims.of[mac] != nil:
		case peer == nil:
			continue
		default:
			_, remote, ok := mine.LinkTo(peer)
			if !ok {
				continue
			}
			place.At, place.Yields = remote, !p.Frozen
			if v.claims != nil {
				place.Unheard = v.claims.lost[mac]
			}
		}
		list = append(list, place)
	}
	return list
}

// takenMACs tells which MACs are endpoints', VTEPs' or gateways'.
func (v *vpc) takenMACs() func(cluster.MAC) bool {
	all := make(map[cluster.MAC]bool, len(v.Places)+len(v.Members))
	for _, p := range v.Places {
		all[p.MAC] = true
	}
	for _, m := range v.Members {
		all[hostops.VTEPMAC(m.VTEP)] = true
		if v.Gateway.Exists() {
			all[cluster.GatewayMAC(v.VNI, v.Gateway.Mode, m.VTEP)] = true
		}
	}
	return func(mac cluster.MAC) bool { return all[mac] || !mac.Unicast() }
}

// listen follows what bridges of VPCs that publish have heard, and reports whether
// that changed what the host should carry.
func (a *Agent) listen(ctx context.Context) (changed bool) {
	a.listenAt = time.Time{}
	host, can := a.cfg.Driver.(hostops.Listener)
	if !can {
		return false
	}
	var names []string
	for name, v := range a.memory.VPCs {
		if v.Publish && !v.Leaving {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, a.listening) {
		if err := host.Listen(ctx, names); err != nil {
			a.log.Warn("cannot listen to bridges, will retry", zap.Error(err))
			return false
		}
		a.listening, changed = names, true
	}
	for _, name := range names {
		v := a.memory.VPCs[name]
		if !v.confirmed { // what is published may be old
			continue
		}
		if v.claims == nil {
			v.claims = newClaims(a.now)
		}
		other, again := v.claims.follow(a.now, hearing{a.cfg.Node, host.Heard(name), a.host0.Ports[name], v.Published, v.takenMACs()})
		a.listenAt = earliest(a.listenAt, again)
		if c := v.claims; c.refused > 0 && c.said == 0 {
			c.said = c.refused
			a.log.Warn("not all MACs are published: there are too many", zap.String("vpc", name), zap.Int("refused", c.refused))
		}
		changed = changed || other
	}
	return changed
}

// countRefused has reports tell how many MACs are not published, as of now.
func (a *Agent) countRefused() {
	for _, v := range a.memory.VPCs {
		if v.claims != nil {
			v.claims.said = v.claims.refused
		}
	}
}

// reportMACs writes the claims that changed.
func (a *Agent) reportMACs() {
	if a.mute() {
		return
	}
	seen := map[macID]bool{}
	for _, name := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
		v := a.memory.VPCs[name]
		if v.claims == nil || v.Leaving {
			continue
		}
		for _, mac := range slices.SortedFunc(maps.Keys(v.claims.of), cluster.MAC.Compare) {
			id, c := macID{name, mac}, v.claims.of[mac]
			seen[id] = true
			s := cluster.MACStatus{NodeID: a.cfg.NodeID, Port: cluster.CleanText(c.port), Sequence: c.sequence}
			if a.claimed[id] != s {
				a.claimed[id] = s
				a.write(cluster.KeyMACStatus(a.cfg.Node, name, mac), &s, 0)
			}
		}
	}
	for id := range a.claimed {
		if !seen[id] {
			delete(a.claimed, id)
			a.write(cluster.KeyMACStatus(a.cfg.Node, id.vpc, id.mac), nil, 0)
		}
	}
}

// compareClaims sees that the store holds what is claimed, as compareOwn does.
func (a *Agent) compareClaims(have map[string][]byte) {
	for key := range have {
		k, err := cluster.ParseKey(key)
		if err != nil || k.Kind != cluster.KindMACStatus {
			continue
		}
		mac, err := cluster.ParseMAC(k.Name)
		if _, is := a.claimed[macID{k.VPC, mac}]; err != nil || !is {
			a.write(key, nil, 0)
		}
	}
	for id, s := range a.claimed {
		if !holds(have[cluster.KeyMACStatus(a.cfg.Node, id.vpc, id.mac)], &s) {
			delete(a.claimed, id)
		}
	}
}
