package controller

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// able reports what a node can, beside its underlay address.
func (r *rig) able(name, addr string, capabilities ...string) {
	s := report(name, addr, 1500)
	s.Capabilities = capabilities
	r.put(cluster.KeyNodeStatus(name), s)
}

func (r *rig) transport(vpc string, t cluster.Transport) {
	r.edit(vpc, func(s *cluster.VPCSpec) { s.Transport = t })
}

// pairsOf lists "h1/h2 10001 active held" for each pair of a VPC that has any
// record; what is not whole is said in full.
func (r *rig) pairsOf(vpc string) string {
	r.t.Helper()
	w := newWorld(viewOf(r.t, r.mem))
	var b strings.Builder
	v := w.vpc(vpc)
	for _, key := range sortedPairs(v) {
		l := v.links[key]
		stands, ok := l.stands()
		switch {
		case !ok && !l.holdsAny():
			continue
		case !ok, !l.agrees(), !l.holds(stands.VNI), len(l.held) != 1:
			fmt.Fprintf(&b, "%s/%s BROKEN %v %v %v\n", key[0], key[1], l.ends[0].Value, l.ends[1].Value, l.held)
		default:
			fmt.Fprintf(&b, "%s/%s %d %s\n", key[0], key[1], stands.VNI, stands.Use)
		}
	}
	return b.String()
}

// heldVNIs lists the reverse keys of VNIs that are not in quarantine.
func (r *rig) heldVNIs() string {
	var b strings.Builder
	for line := range strings.Lines(r.dump(cluster.PrefixVNIs)) {
		if !strings.Contains(line, "released") {
			b.WriteString(line)
		}
	}
	return b.String()
}

func (r *rig) transports(vpc string, nodes ...string) string {
	var list []string
	for _, n := range nodes {
		if m := get[*cluster.Member](r, cluster.KeyMember(vpc, n)); m != nil {
			list = append(list, n+" "+string(m.Transport))
		}
	}
	return strings.Join(list, ", ")
}

func (r *rig) nothingLost() {
	r.t.Helper()
	if r.hosts == nil {
		return
	}
	r.hosts.mu.Lock()
	defer r.hosts.mu.Unlock()
	if p := r.hosts.net.problems; len(p) > 0 {
		r.t.Errorf("%d problems of hosts, first: %s", len(p), p[0])
	}
}

// p2pVPC is a cluster at rest: four hosts, one VPC of three of them.
func p2pVPC(t *testing.T, transport cluster.Transport) *rig {
	r := newRig(t)
	r.startHosts()
	for i := range 4 {
		r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
	}
	s := spec("h1,h2,h3", "10.100.0.0/16")
	s.Transport = transport
	r.vpc("blue", s)
	r.start("a", r.mem)
	settle()
	return r
}

const threePairs = "h1/h2 10001 active\nh1/h3 10002 active\nh2/h3 10003 active\n"

func TestLinksOfANewVPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := p2pVPC(t, cluster.P2P)
		if diff := cmp.Diff(threePairs, r.pairsOf("blue")); diff != "" {
			t.Error(diff)
		}
		if got := r.transports("blue", "h1", "h2", "h3"); got != "h1 p2p, h2 p2p, h3 p2p" {
			t.Error(got)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "all" })
		settle()
		if diff := cmp.Diff("h1/h2 10001 active\nh1/h3 10002 active\nh1/h4 10004 active\nh2/h3 10003 active\nh2/h4 10005 active\nh3/h4 10006 active\n", r.pairsOf("blue")); diff != "" {
			t.Error(diff)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h2,h3" })
		settle()
		if diff := cmp.Diff("h2/h3 10003 active\n", r.pairsOf("blue")); diff != "" {
			t.Error(diff)
		}
		pass(2 * time.Minute)
		const want = "alloc/vni/00010000 {\"holder\":\"blue\"}\nalloc/vni/00010003 {\"holder\":\"blue/h2/h3\"}\n"
		if diff := cmp.Diff(want, r.dump(cluster.PrefixVNIs)); diff != "" {
			t.Error(diff)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.State = cluster.VPCDeleting })
		pass(2 * time.Minute)
		if got := r.dump(cluster.PrefixVPCs, cluster.PrefixHosts, cluster.PrefixAlloc); got != "" {
			t.Errorf("left over:\n%s", got)
		}
		r.nothingLost()
	})
}

// TestTransportChanges moves a living VPC over and back, one host at a time.
func TestTransportChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := p2pVPC(t, "")
		const shared, own = "h1 multipoint, h2 multipoint, h3 multipoint", "h1 p2p, h2 p2p, h3 p2p"
		r.look("new", "", shared)
		r.hosts.set("h3", true)
		r.transport("blue", cluster.P2P)
		r.look("h3 does not answer", "h1/h2 10001 active\nh1/h3 10002 preparing\nh2/h3 10003 preparing\n", shared)
		r.hosts.set("h3", false)
		r.look("p2p", threePairs, own)
		r.hosts.set("h2", true)
		r.transport("blue", cluster.Auto)
		r.look("h2 does not answer", "h1/h2 10001 restoring\nh2/h3 10003 restoring\n", shared)
		r.transport("blue", cluster.P2P)
		r.look("p2p is wanted again", "h1/h2 10001 active\nh1/h3 10002 active\nh2/h3 10003 active\n", own)
		r.hosts.set("h2", false)
		r.look("h2 answers", threePairs, own)
		r.transport("blue", cluster.Auto)
		r.look("shared", "", shared)
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); n.Transport != "" {
			t.Errorf("transport in force is %q", n.Transport)
		}
		pass(2 * time.Minute)
		if diff := cmp.Diff("alloc/vni/00010000 {\"holder\":\"blue\"}\n", r.dump(cluster.PrefixVNIs)); diff != "" {
			t.Error(diff)
		}
		r.nothingLost()
	})
}

// TestMixed has one host that can only have tunnels of pairs, then can more,
// then less again.
func TestMixed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		for i := range 3 {
			r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
		}
		r.able("h2", "192.0.2.2", cluster.CanP2P)
		r.vpc("blue", spec("all", "10.100.0.0/16"))
		r.start("a", r.mem)
		const pairs, mixed = "h1/h2 10001 active\nh2/h3 10002 active\n", "h1 multipoint, h2 p2p, h3 multipoint"
		r.look("p2p alone", pairs, mixed)
		r.able("h2", "192.0.2.2")
		r.look("able", "", "h1 multipoint, h2 multipoint, h3 multipoint")
		pass(2 * time.Minute)
		r.able("h2", "192.0.2.2", cluster.CanP2P)
		r.look("p2p alone again", pairs, mixed)
		r.nothingLost()
	})
}

// look waits and compares blue's pairs, and the transports of h1, h2 and h3.
func (r *rig) look(what, pairs, transports string) {
	r.t.Helper()
	settle()
	if diff := cmp.Diff(pairs, r.pairsOf("blue")); diff != "" {
		r.t.Errorf("%s: pairs (-want +got):\n%s", what, diff)
	}
	if got := r.transports("blue", "h1", "h2", "h3"); got != transports {
		r.t.Errorf("%s: %s, want %s", what, got, transports)
	}
}

func TestMulticast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.startHosts()
		for i := range 5 {
			r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
			r.able(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1), cluster.CanMultipoint, cluster.CanP2P, cluster.CanMulticast)
		}
		r.able("h3", "192.0.2.3")                                         // cannot multicast
		r.able("h4", "192.0.2.4", cluster.CanMultipoint)                  // nor p2p
		r.able("h5", "2001:db8::5", cluster.CanP2P, cluster.CanMulticast) // not of the group's family
		s := spec("all", "10.100.0.0/16")
		s.Transport, s.MulticastGroup = cluster.Multicast, netip.MustParseAddr("239.1.1.1")
		r.vpc("blue", s)
		r.start("a", r.mem)
		settle()
		if got := r.transports("blue", "h1", "h2", "h3", "h4", "h5"); got != "h1 multicast, h2 multicast, h3 p2p" {
			t.Error(got)
		}
		n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue"))
		want := map[string]string{
			"h4": "it is not capable of multicast, nor of p2p",
			"h5": "no common family: its underlay has IPv6 only, and no member has that",
		}
		if diff := cmp.Diff(want, n.Refused); diff != "" {
			t.Error(diff)
		}
		if n.Transport != cluster.Multicast || n.MulticastGroup != s.MulticastGroup {
			t.Errorf("in force is %s to %s", n.Transport, n.MulticastGroup)
		}
		if diff := cmp.Diff("h1/h3 10001 active\nh2/h3 10002 active\n", r.pairsOf("blue")); diff != "" {
			t.Error(diff)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.MulticastGroup = netip.MustParseAddr("ff05::1:1") })
		settle()
		if got := r.transports("blue", "h1", "h2", "h3"); got != "h1 p2p, h2 p2p, h3 p2p" {
			t.Errorf("with a group that no member has the family of: %s", got)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.Transport, s.MulticastGroup = cluster.Auto, netip.Addr{} })
		settle()
		if got := r.pairsOf("blue") + r.transports("blue", "h1", "h2", "h3"); got != "h1 multipoint, h2 multipoint, h3 multipoint" {
			t.Error(got)
		}
		r.nothingLost()
	})
}

// TestVanishedLinks deletes records of links in every state, one by one and
// together. What comes back is what was.
func TestVanishedLinks(t *testing.T) {
	sets := map[string]func(key string) bool{
		"at one end": func(key string) bool { return strings.HasPrefix(key, "hosts/h1/links/") },
		"links":      func(key string) bool { return strings.Contains(key, "/links/") },
		"keys":       func(key string) bool { return strings.HasPrefix(key, "alloc/vni/") },
		"links and keys": func(key string) bool {
			return strings.Contains(key, "/links/") || strings.HasPrefix(key, "alloc/vni/")
		},
		"all but specs": func(key string) bool { return !strings.HasSuffix(key, "/spec") },
		"all but members and specs": func(key string) bool {
			return !strings.HasSuffix(key, "/spec") && !strings.Contains(key, "/members/")
		},
	}
	states := map[string]func(r *rig){
		"active": func(r *rig) { r.transport("blue", cluster.P2P) },
		"preparing": func(r *rig) {
			r.hosts.set("h3", true)
			r.transport("blue", cluster.P2P)
		},
		"restoring": func(r *rig) {
			r.transport("blue", cluster.P2P)
			settle()
			r.hosts.set("h3", true)
			r.transport("blue", cluster.Auto)
		},
	}
	for state, enter := range states {
		for name, gone := range sets {
			t.Run(state+"/"+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := p2pVPC(t, "")
					enter(r)
					settle()
					want := r.pairsOf("blue") + r.heldVNIs()
					n := 0
					for line := range strings.Lines(r.controlled()) {
						if key, _, _ := strings.Cut(line, " "); gone(key) {
							r.delete(cluster.Root + key)
							n++
						}
					}
					if n == 0 {
						t.Fatal("nothing was deleted")
					}
					pass(2 * time.Minute)
					got := r.pairsOf("blue") + r.heldVNIs()
					if diff := cmp.Diff(want, got); diff != "" && !(state != "active" && strings.Contains(name, "all")) {
						t.Errorf("after %d keys vanished (-want +got):\n%s", n, diff)
					}
					r.hosts.set("h3", false)
					settle()
					pass(2 * time.Minute)
					final, transports := threePairs, "h1 p2p, h2 p2p, h3 p2p"
					if state == "restoring" {
						final, transports = "", "h1 multipoint, h2 multipoint, h3 multipoint"
					}
					if diff := cmp.Diff(final, r.pairsOf("blue")); diff != "" {
						t.Errorf("in the end (-want +got):\n%s", diff)
					}
					if got := r.transports("blue", "h1", "h2", "h3"); got != transports {
						t.Errorf("in the end %s, want %s", got, transports)
					}
					r.nothingLost()
				})
			})
		}
	}
}

// TestVNIsUsedUpByPairs is the arithmetic of a range that is too small.
func TestVNIsUsedUpByPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.put(cluster.KeyConfig, &cluster.Config{ID: "c1", Era: 1, UnderlayPort: 4789, VNIs: cluster.VNIRange{First: 10000, Last: 10004}})
		r.startHosts()
		r.start("a", r.mem)
		for i := range 4 {
			r.join(fmt.Sprintf("h%d", i+1), fmt.Sprintf("192.0.2.%d", i+1))
		}
		settle()
		s := spec("all", "10.100.0.0/16")
		s.Transport = cluster.P2P
		r.vpc("blue", s)
		settle()
		const want = "6 pairs need a VNI of their own, 2 of them have none: the cluster's range 10000-10004 has 0 left; ask for another transport or fewer members, or delete VPCs"
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); n.Reason != want {
			t.Errorf("reason %q, want %q", n.Reason, want)
		}
		pass(digestAfter + digestEvery)
		before := r.mem.Revision()
		pass(time.Minute)
		if n := r.mem.Revision() - before; n != 0 {
			t.Errorf("%d writes at rest", n)
		}
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h1,h3,h4" })
		pass(2 * time.Minute)
		if diff := cmp.Diff("h1/h3 10002 active\nh1/h4 10003 active\nh3/h4 10001 active\n", r.pairsOf("blue")); diff != "" {
			t.Error(diff)
		}
		if n := get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")); n.Reason != "" {
			t.Errorf("reason %q stays", n.Reason)
		}
	})
}

// TestLeaderChangesMidLinks ends a leader of a p2p VPC. Pairs are whole, also
// between two of its batches.
func TestLeaderChangesMidLinks(t *testing.T) {
	const nodes = 20 // 190 pairs
	s := spec("all", "10.100.0.0/16")
	s.Transport = cluster.P2P
	leaderChanges(t, nodes, 8, s, func(r *rig) {
		if pairs := r.pairsOf("blue"); strings.Contains(pairs, "BROKEN") {
			r.t.Errorf("between two batches:\n%s", pairs)
		}
	}, func(r *rig) {
		if n := strings.Count(r.pairsOf("blue"), " active\n"); n != nodes*(nodes-1)/2 {
			r.t.Errorf("%d pairs, want %d", n, nodes*(nodes-1)/2)
		}
	})
}

// TestBatchesHoldWholeUnits packs units of every size.
func TestBatchesHoldWholeUnits(t *testing.T) {
	for _, size := range []int{1, 2, 3, 4, 100, 127} {
		p := plan{group: "blue"}
		for i := range 300 {
			u := unit{verb: "link"}
			for j := range size {
				store.Create(&u.change, cluster.KeyAllocVNI(cluster.VNI(1+i*128+j)), &cluster.Allocation{Holder: "blue"})
			}
			p.addLink(u)
		}
		first, links := p.effects()
		n := 0
		for _, e := range links {
			if ops := e.change.Ops(); ops%size != 0 || ops >= mvcc.MaxTxnOps || ops+size < mvcc.MaxTxnOps && n+ops != 300*size {
				t.Errorf("units of %d writes: a batch of %d", size, ops)
			}
			n += e.change.Ops()
		}
		if len(first) != 0 || n != 300*size {
			t.Errorf("units of %d writes: %d written, want %d", size, n, 300*size)
		}
	}
}

func TestNextUse(t *testing.T) {
	// Nothing goes on that both ends have to agree to.
	for _, tt := range []struct {
		use  cluster.LinkUse
		p2p  bool
		want cluster.LinkUse
	}{
		{cluster.LinkPreparing, true, cluster.LinkPreparing},
		{cluster.LinkActive, true, cluster.LinkActive},
		{cluster.LinkRestoring, false, cluster.LinkRestoring},
		{cluster.LinkRetiring, false, cluster.LinkRetiring},
	} {
		if got := nextUse(tt.use, tt.p2p, false); got != tt.want {
			t.Errorf("from %s with p2p %v and no answer to %q, want %q", tt.use, tt.p2p, got, tt.want)
		}
	}
	// From every use, a wish that stays and hosts that answer lead to the end.
	for _, p2p := range []bool{true, false} {
		for _, from := range []cluster.LinkUse{cluster.LinkPreparing, cluster.LinkActive, cluster.LinkRestoring, cluster.LinkRetiring} {
			want := cluster.LinkUse("")
			if p2p {
				want = cluster.LinkActive
			}
			use := from
			for range 4 {
				if use != "" {
					use = nextUse(use, p2p, true)
				}
			}
			if use != want {
				t.Errorf("from %s with p2p %v to %q, want %q", from, p2p, use, want)
			}
		}
	}
}
