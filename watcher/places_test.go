package watcher

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// TestPlaces: what a host believes of where endpoints are, record by record.
func TestPlaces(t *testing.T) {
	mac := cluster.MAC{2, 0, 0, 0, 0, 1}
	ip := netip.MustParseAddr("10.0.0.1")
	member := func(last byte) *cluster.Member {
		return &cluster.Member{UnderlayIPv4: netip.AddrFrom4([4]byte{192, 0, 2, last})}
	}
	own := func(node string, era, epoch int64) *cluster.EndpointOwn {
		o := &cluster.EndpointOwn{State: cluster.OwnAssigned, IPs: []netip.Addr{ip}, MAC: mac, Node: node, Era: era, Epoch: epoch}
		if node == "" {
			o.State = cluster.OwnUnplaced
		}
		return o
	}
	at := func(node byte) []hostops.Place {
		p := hostops.Place{MAC: mac, Addresses: []netip.Addr{ip}}
		if node != 0 {
			p.At = netip.AddrFrom4([4]byte{192, 0, 2, node})
		}
		return []hostops.Place{p}
	}
	records := func(o *cluster.EndpointOwn, spec bool) *placeRecords {
		r := &placeRecords{owns: map[string]*cluster.EndpointOwn{}, specs: map[string]*cluster.EndpointSpec{}, kept: map[string]bool{}}
		if spec {
			r.specs["web1"] = &cluster.EndpointSpec{}
		}
		if o != nil {
			r.owns["web1"] = o
		}
		if o != nil || spec {
			r.kept["web1"] = true
		}
		return r
	}
	type step struct {
		name   string
		static bool
		r      *placeRecords
		want   []hostops.Place
		change change
	}
	another := func(r *placeRecords) *placeRecords {
		r.specs["web1"].Created = cluster.At(time.Unix(1800000000, 0))
		return r
	}
	v := &vpc{Members: map[string]*cluster.Member{"me": member(1), "a": member(2), "b": member(3)}}
	for _, s := range []step{
		{"dynamic", false, nil, nil, changedNothing},
		{"static", true, records(nil, false), nil, changedMore},
		{"at a peer", true, records(own("a", 1, 1), true), at(2), changedPeers},
		{"the same", true, records(own("a", 1, 1), true), at(2), changedNothing},
		{"not read anew", true, nil, at(2), changedNothing},
		{"at another", true, records(own("b", 1, 2), true), at(3), changedPeers},
		{"an older record", true, records(own("a", 1, 1), true), at(3), changedNothing},
		{"of an older era", true, records(own("a", 0, 9), true), at(3), changedNothing},
		{"here", true, records(own("me", 1, 3), true), at(0), changedPeers},
		{"its own record vanished", true, records(nil, true), at(0), changedNothing},
		{"at a node that is no member", true, records(own("c", 1, 4), true), []hostops.Place{}, changedPeers},
		{"back", true, records(own("a", 2, 1), true), at(2), changedPeers},
		{"nowhere", true, records(own("", 2, 2), true), []hostops.Place{}, changedPeers},
		{"somewhere", true, records(own("a", 2, 3), true), at(2), changedPeers},
		{"deleted", true, records(nil, false), []hostops.Place{}, changedPeers},
		{"made again", true, records(own("b", 2, 1), true), at(3), changedPeers},
		{"an older record", true, records(own("a", 1, 1), true), at(3), changedNothing},
		{"of another endpoint of that name", true, another(records(own("a", 1, 1), true)), at(2), changedPeers},
		{"its spec vanished", true, records(own("a", 1, 1), false), at(2), changedNothing},
		{"dynamic again", false, nil, nil, changedMore},
	} {
		if got := v.absorbPlaces(s.static, s.r); got != s.change {
			t.Errorf("%s: change %v, want %v", s.name, got, s.change)
		}
		if diff := cmp.Diff(s.want, v.places(v.Members["me"], "me"), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", s.name, diff)
		}
	}
}
