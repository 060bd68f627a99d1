package watcher

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

func member(id, vtep, underlay string) *cluster.Member {
	m := &cluster.Member{NodeID: id, Datacenter: "dc1", VTEP: netip.MustParseAddr(vtep), Transport: cluster.Multipoint}
	if a := netip.MustParseAddr(underlay); a.Is4() {
		m.UnderlayIPv4 = a
	} else {
		m.UnderlayIPv6 = a
	}
	return m
}

// whole are the records of host a in a VPC with host b.
func whole() records {
	return records{
		synced: true,
		config: &cluster.Config{ID: "c1", Era: 2, ConfirmedEra: 2, UnderlayPort: 4789, VNIs: cluster.DefaultVNIRange},
		node:   &cluster.Node{ID: "id-a", Datacenter: "dc1", State: cluster.NodeActive, Agent: true},
		vpcs: map[string]vpcRecords{"vpc1": {
			assignment: &cluster.HostVPC{State: cluster.AssignedMember},
			net:        &cluster.VPCNet{Phase: cluster.PhaseActive, VNI: 10000, MTU: 1430, PeerNetwork: netip.MustParsePrefix("10.100.0.0/24")},
			members: map[string]*cluster.Member{
				"a": member("id-a", "10.100.0.1", "2001:db8:1::10"),
				"b": member("id-b", "10.100.0.2", "2001:db8:2::10"),
			},
		}},
	}
}

// edit returns whole with its VPC changed.
func edit(f func(*vpcRecords)) records {
	r := whole()
	v := r.vpcs["vpc1"]
	f(&v)
	r.vpcs["vpc1"] = v
	return r
}

// accepted is the memory that whole leads to.
func accepted(t *testing.T) *memory {
	t.Helper()
	m := &memory{VPCs: map[string]*vpc{}}
	if hold, changed := m.absorb(whole(), "id-a", "a"); hold != "" || changed != changedMore {
		t.Fatalf("absorb = %q, %v; want no hold and a change", hold, changed)
	}
	return m
}

func TestAbsorb(t *testing.T) {
	type result struct {
		Hold    string // of the host
		VPCHold string
		Leaving bool
		Remove  []cluster.VNI
		Peers   []string
		VNI     cluster.VNI
		Left    bool
	}
	kept := result{VNI: 10000, Peers: []string{"a", "b"}}
	with := func(f func(*result)) result { r := kept; f(&r); return r }
	for name, tt := range map[string]struct {
		in   records
		want result
	}{
		"nothing changed": {whole(), kept},
		"not read yet":    {records{}, kept},
		"another cluster": {func() records { r := whole(); r.config.ID = "c2"; return r }(),
			with(func(r *result) {
				r.Hold = "the store belongs to another cluster (config has another id): keeping the network as it is"
			})},
		"lower era": {func() records { r := whole(); r.config.Era = 1; return r }(),
			with(func(r *result) {
				r.Hold = "the store is of an earlier era than this host has seen: keeping the network as it is"
			})},
		"restored": {func() records { r := whole(); r.config.Era, r.config.UnderlayPort, r.vpcs = 3, 4790, nil; return r }(),
			with(func(r *result) { r.Hold = holdRestored })},
		"restored, and removed before": {func() records { r := whole(); r.config.Era, r.node.State = 3, cluster.NodeLeft; return r }(),
			with(func(r *result) { r.Hold = holdRestored })},
		"restored twice to one era": {func() records { r := whole(); r.config.ConfirmedEra, r.vpcs = 1, nil; return r }(),
			with(func(r *result) { r.Hold = holdRestored })},
		"restored and confirmed": {func() records {
			r := edit(func(v *vpcRecords) { delete(v.members, "b") })
			r.config.Era, r.config.ConfirmedEra = 3, 3
			return r
		}(), with(func(r *result) { r.Peers = []string{"a"} })},
		"config gone": {func() records { r := whole(); r.config = nil; return r }(), kept},
		"node record gone": {func() records { r := whole(); r.node = nil; return r }(),
			with(func(r *result) { r.Hold = "the node record of this host is gone: keeping the network as it is" })},
		"name taken": {func() records { r := whole(); r.node.ID = "id-x"; return r }(),
			with(func(r *result) { r.Hold = holdTaken })},
		"name taken and left": {func() records { r := whole(); r.node.ID, r.node.State = "id-x", cluster.NodeLeft; return r }(),
			with(func(r *result) { r.Hold = holdTaken })},
		"node left": {func() records { r := whole(); r.node.State = cluster.NodeLeft; return r }(),
			with(func(r *result) { r.Left, r.Leaving, r.Remove = true, true, []cluster.VNI{10000} })},
		"node left, all else gone": {func() records { r := whole(); r.node.State, r.vpcs = cluster.NodeLeft, nil; return r }(),
			with(func(r *result) { r.Left, r.Leaving, r.Remove = true, true, []cluster.VNI{10000} })},
		"assignment gone": {func() records { r := whole(); r.vpcs = nil; return r }(),
			with(func(r *result) {
				r.VPCHold = "the assignment record of this host is gone: keeping the network as it is"
			})},
		"assignment unreadable": {edit(func(v *vpcRecords) { *v = vpcRecords{} }), kept},
		"told to leave": {edit(func(v *vpcRecords) { v.assignment.State = cluster.AssignedLeaving }),
			with(func(r *result) { r.Leaving, r.Remove, r.Peers = true, []cluster.VNI{10000}, nil })},
		"vpc not read yet": {edit(func(v *vpcRecords) { v.members, v.net = nil, nil }), kept},
		"net gone": {edit(func(v *vpcRecords) { v.net = nil }),
			with(func(r *result) { r.VPCHold = "no VNI and MTU are in force for the VPC" })},
		"members gone": {edit(func(v *vpcRecords) { clear(v.members) }),
			with(func(r *result) {
				r.VPCHold = "the members list does not hold this node: keeping the peers as they are"
			})},
		"own member record gone": {edit(func(v *vpcRecords) { delete(v.members, "a") }),
			with(func(r *result) {
				r.VPCHold = "the members list does not hold this node: keeping the peers as they are"
			})},
		"own member record is another's": {edit(func(v *vpcRecords) { v.members["a"].NodeID = "id-x"; delete(v.members, "b") }),
			with(func(r *result) {
				r.VPCHold = "the members list does not hold this node: keeping the peers as they are"
			})},
		"peer gone from a list that holds us": {edit(func(v *vpcRecords) { delete(v.members, "b") }),
			with(func(r *result) { r.Peers = []string{"a"} })},
		"peer joined": {edit(func(v *vpcRecords) {
			v.members["c"] = member("id-c", "10.100.0.3", "2001:db8:3::10")
		}), with(func(r *result) { r.Peers = []string{"a", "b", "c"} })},
		"peer unreadable":             {edit(func(v *vpcRecords) { delete(v.members, "b"); v.unreadable = []string{"b"} }), kept},
		"unreadable peer never known": {edit(func(v *vpcRecords) { v.unreadable = []string{"z"} }), kept},
		"another VNI in force": {edit(func(v *vpcRecords) { v.net.VNI = 10001 }),
			with(func(r *result) { r.VNI, r.Remove = 10001, []cluster.VNI{10000} })},
	} {
		t.Run(name, func(t *testing.T) {
			m := accepted(t)
			hold, _ := m.absorb(tt.in, "id-a", "a")
			v := m.VPCs["vpc1"]
			got := result{Hold: hold, VPCHold: v.hold, Leaving: v.Leaving, Remove: m.Remove, VNI: v.VNI, Left: m.Left}
			for peer := range v.Members {
				got.Peers = append(got.Peers, peer)
			}
			if d := cmp.Diff(got, tt.want, cmpopts.SortSlices(func(a, b string) bool { return a < b })); d != "" {
				t.Error("memory after absorb (-got +want):\n" + d)
			}
			if _, changed := m.absorb(tt.in, "id-a", "a"); changed != changedNothing {
				t.Error("absorbing the same records again changed memory")
			}
		})
	}
}

func TestAnotherHistoryOfMembersIsNoticed(t *testing.T) {
	m := accepted(t)
	m.absorb(edit(func(v *vpcRecords) { v.members["a"] = member("id-a", "10.100.0.9", "2001:db8:1::10") }), "id-a", "a")
	d, _ := m.desire("a")
	if got, want := d.VPCs[0].VTEP.String(), "10.100.0.9/24"; got != want {
		t.Errorf("VTEP address = %s; want %s", got, want)
	}
}

// A link that vanished stays in force until its VNI is another's: one of them
// could not be.
func TestLinkYieldsItsVNI(t *testing.T) {
	active := func(peer string, vni cluster.VNI) map[string]cluster.HostLink {
		return map[string]cluster.HostLink{peer: {VNI: vni, Use: cluster.LinkActive}}
	}
	second := func(vni cluster.VNI, links map[string]cluster.HostLink) records {
		r := whole()
		v := whole().vpcs["vpc1"]
		v.net.VNI, v.links = vni, links
		r.vpcs["vpc2"] = v
		return r
	}
	told := second(20000, nil)
	v := told.vpcs["vpc1"]
	v.links = active("b", 20000)
	told.vpcs["vpc1"] = v
	held := second(20000, nil)
	delete(held.vpcs, "vpc1")
	for name, tt := range map[string]struct {
		in    records
		there bool
	}{
		"nobody else's":                {second(10001, active("b", 20001)), true},
		"another VPC's":                {second(20000, nil), false},
		"of another VPC's link":        {second(10001, active("b", 20000)), false},
		"another's, but a record says": {told, true},
		"another's, of a held VPC":     {held, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := accepted(t)
			m.VPCs["vpc1"].Links = active("b", 20000)
			_, changed := m.absorb(tt.in, "id-a", "a")
			if _, there := m.VPCs["vpc1"].Links["b"]; there != tt.there || changed != changedMore {
				t.Errorf("link is there: %v, change %v; want %v and a change", there, changed, tt.there)
			}
			if _, changed := m.absorb(tt.in, "id-a", "a"); changed != changedNothing {
				t.Error("absorbing the same records again changed memory")
			}
		})
	}
}

// TestSee takes vpc1 down, whose VNI a pair of vpc2 may have meanwhile.
func TestSee(t *testing.T) {
	bridge := hostops.Device{Kind: hostops.KindBridge, Owner: 10000}
	pairs := hostops.Device{Kind: hostops.KindTunnel, Owner: 10001, VNI: 10000}
	for name, tt := range map[string]struct {
		pair    bool // has the VNI
		on      map[string]hostops.Device
		guarded bool // the VNI, by the filter
		gone    bool
	}{
		"nothing is left":                     {gone: true},
		"its bridge is":                       {on: map[string]hostops.Device{"vpc1": bridge}},
		"the filter's entry is":               {guarded: true},
		"the filter's entry is the pair's":    {pair: true, guarded: true, gone: true},
		"so is a tunnel":                      {pair: true, on: map[string]hostops.Device{"mp-10000": pairs}, guarded: true, gone: true},
		"the pair has the VNI, its bridge is": {pair: true, on: map[string]hostops.Device{"vpc1": bridge}, guarded: true},
	} {
		t.Run(name, func(t *testing.T) {
			vpc2 := &vpc{VNI: 10001}
			if tt.pair {
				vpc2.Links = map[string]cluster.HostLink{"b": {VNI: 10000, Use: cluster.LinkActive}}
			}
			m := &memory{VPCs: map[string]*vpc{"vpc1": {VNI: 10000, Leaving: true}, "vpc2": vpc2}, Remove: []cluster.VNI{10000}}
			on := hostops.State{Devices: tt.on}
			if tt.guarded {
				on.Filter.VNIs = map[cluster.VNI]struct{}{10000: {}}
			}
			changed := m.see(on)
			if changed != tt.gone || (len(m.Remove) == 0) != tt.gone || m.VPCs["vpc1"].gone != tt.gone {
				t.Errorf("changed %v, to remove %v, gone %v; want gone %v", changed, m.Remove, m.VPCs["vpc1"].gone, tt.gone)
			}
		})
	}
}

func TestAssignedAgainBeforeGone(t *testing.T) {
	m := accepted(t)
	m.absorb(edit(func(v *vpcRecords) { v.assignment.State = cluster.AssignedLeaving }), "id-a", "a")
	m.absorb(whole(), "id-a", "a")
	d, _ := m.desire("a")
	if len(d.VPCs) != 1 || d.VPCs[0].VNI != 10000 {
		t.Errorf("desired after leaving and coming back = %+v; want vpc1", d)
	}
	if d.Removes(10000) {
		t.Error("a VNI that is in use again is still to be removed")
	}
}

// TestRelearn reads a cache that does not hold how links went on.
func TestRelearn(t *testing.T) {
	active := cluster.HostLink{VNI: 20, Use: cluster.LinkActive}
	bridge := hostops.Device{Kind: hostops.KindBridge, Owner: 10000}
	for name, tt := range map[string]struct {
		on    map[string]hostops.Device
		there bool // the link still is, its record being absent
	}{
		"after a reboot": {nil, true},
		"as it was":      {map[string]hostops.Device{"vpc1": bridge, "mp-20": {Owner: 10000, Sends: true}}, true},
		"silent":         {map[string]hostops.Device{"vpc1": bridge, "mp-20": {Owner: 10000, Silent: true}}, false},
		"gone":           {map[string]hostops.Device{"vpc1": bridge}, false},
		"another's":      {map[string]hostops.Device{"vpc1": bridge, "mp-20": {Owner: 9, Sends: true}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := accepted(t)
			v := m.VPCs["vpc1"]
			v.confirmed, v.Links = false, map[string]cluster.HostLink{"b": active}
			v.relearn(hostops.State{Devices: tt.on}, "vpc1")
			m.absorb(whole(), "id-a", "a")
			if l, ok := v.Links["b"]; ok != tt.there || ok && l != active {
				t.Errorf("link = %+v, there %v; want there %v", l, ok, tt.there)
			}
			v.confirmed, v.Links = false, map[string]cluster.HostLink{"b": active}
			v.relearn(hostops.State{Devices: tt.on}, "vpc1")
			m.absorb(edit(func(r *vpcRecords) { r.links = map[string]cluster.HostLink{"b": active} }), "id-a", "a")
			if v.Links["b"] != active {
				t.Errorf("link with a record = %+v; want what the record says", v.Links["b"])
			}
		})
	}
}
