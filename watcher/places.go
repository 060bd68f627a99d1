package watcher

import (
	"net/netip"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// place is where an endpoint of a static VPC is, as its own record last said.
type place struct {
	MAC  cluster.MAC  `json:"mac"`
	IPs  []netip.Addr `json:"ips,omitempty"`
	Node string       `json:"node"`
	term
	// Created is the endpoint's: one with another is another endpoint.
	Created cluster.Time `json:"created,omitzero"`
}

func (p place) equal(q place) bool {
	return p.MAC == q.MAC && slices.Equal(p.IPs, q.IPs) && p.Node == q.Node && p.term == q.term && p.Created.Equal(q.Created.Time)
}

// placeRecords are what places are read from.
type placeRecords struct {
	owns  map[string]*cluster.EndpointOwn  // by endpoint
	specs map[string]*cluster.EndpointSpec // by endpoint
	kept  map[string]bool                  // endpoints that are there, whether or not their records can be read
}

// absorbPlaces follows where endpoints are, if the VPC is static. As with peers, one
// is dropped by absence only from a list that was read whole, and not while anything
// of it is there. Whose own record says less than was known of it stays where it was.
func (v *vpc) absorbPlaces(static bool, r *placeRecords) (changed change) {
	if v.Static != static {
		v.Static, changed = static, changedMore
	}
	if !static {
		v.Places = nil
		return changed
	}
	if r == nil { // the same as last time
		return changed
	}
	for name := range v.Places {
		if !r.kept[name] {
			delete(v.Places, name)
			changed = max(changed, changedPeers)
		}
	}
	for name, own := range r.owns {
		old, had := v.Places[name]
		now := place{MAC: own.MAC, IPs: own.IPs, Node: own.Node, term: termOf(own), Created: old.Created}
		another := false
		if spec := r.specs[name]; spec != nil {
			now.Created, another = spec.Created, !spec.Created.Equal(old.Created.Time)
		}
		switch {
		case had && !another && now.before(old.term):
		case own.State != cluster.OwnAssigned && had:
			delete(v.Places, name)
			changed = max(changed, changedPeers)
		case own.State == cluster.OwnAssigned && !old.equal(now):
			if v.Places == nil {
				v.Places = map[string]place{}
			}
			v.Places[name] = now
			changed = max(changed, changedPeers)
		}
	}
	return changed
}

// places are where this host is to send to, and to hear from.
func (v *vpc) places(mine *cluster.Member, me string) []hostops.Place {
	if !v.Static {
		return nil
	}
	list := make([]hostops.Place, 0, len(v.Places))
	for name, p := range v.Places {
		at := netip.Addr{}
		if p.Node != me && v.Attachments[name].until.IsZero() { // what lingers here is taken from here alone
			peer := v.Members[p.Node]
			if peer == nil {
				continue
			}
			_, remote, ok := mine.LinkTo(peer)
			if !ok {
				continue
			}
			at = remote
		}
		list = append(list, hostops.Place{MAC: p.MAC, Addresses: p.IPs, At: at})
	}
	list = append(list, v.publishedPlaces(mine, me)...)
	slices.SortFunc(list, func(a, b hostops.Place) int { return slices.Compare(a.MAC[:], b.MAC[:]) })
	return list
}
