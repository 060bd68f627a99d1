package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// action is one thing that happens in TestRandom; what the numbers mean is the
// action's.
type action struct {
	Do   string
	X, Y int
}

// linkActions are those that concern pairs, on a VPC that is there.
var linkActions = []string{
	"transport", "transport", "transport", "able", "able", "down", "down", "up", "up", "lose record", "crash", "rival",
	"lose request", "lose answer", "wait", "wait long", "select", "remove", "join", "readdress", "die",
}

var actions = []string{
	"join", "join", "remove", "readdress", "down", "up", "die", "create", "create", "delete", "force",
	"select", "transport", "transport", "able", "lose record", "crash", "rival", "lose request", "lose answer", "wait", "wait long",
}

// TestRandom lets operators, hosts and faults do what they like, then lets the
// cluster come to rest and looks whether it is in order.
func TestRandom(t *testing.T) { random(t, actions, "h0") }

// TestRandomLinks is TestRandom on a VPC of four hosts, about its pairs.
func TestRandomLinks(t *testing.T) { random(t, linkActions, "h0", "h1", "h2", "h3") }

func random(t *testing.T, actions []string, nodes ...string) {
	rapid.Check(t, func(rt *rapid.T) {
		todo := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) action {
			return action{
				Do: rapid.SampledFrom(actions).Draw(rt, "do"),
				X:  rapid.IntRange(0, 5).Draw(rt, "x"),
				Y:  rapid.IntRange(0, 40).Draw(rt, "y"),
			}
		}), 1, 30).Draw(rt, "actions")
		var problems []string
		synctest.Test(t, func(t *testing.T) {
			w := newChaos(t, nodes)
			for _, a := range todo {
				w.do(a)
			}
			problems = w.rest()
		})
		if len(problems) > 0 {
			rt.Fatalf("%s", strings.Join(problems, "\n"))
		}
	})
}

// TestLostMemberOnTheWay is a case of TestRandomLinks: a member's record is lost
// while its pairs change over. Its peers must not become P2P meanwhile.
func TestLostMemberOnTheWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newChaos(t, []string{"h0", "h1", "h2", "h3"})
		for _, a := range []action{
			{"wait", 0, 40}, {"able", 0, 33}, {"die", 1, 1}, {"transport", 0, 3}, {"wait long", 3, 2}, {"lose request", 0, 7},
			{"join", 1, 9}, {"down", 0, 11}, {"crash", 1, 1}, {"transport", 5, 40}, {"transport", 0, 28}, {"transport", 0, 18},
			{"transport", 5, 4}, {"transport", 1, 29}, {"able", 2, 34}, {"readdress", 0, 9}, {"lose record", 2, 23}, {"lose record", 0, 9},
			{"able", 1, 10}, {"transport", 2, 7}, {"down", 2, 2}, {"down", 3, 31}, {"wait long", 1, 14}, {"able", 5, 0}, {"crash", 2, 1},
			{"join", 0, 6}, {"rival", 2, 15}, {"select", 0, 0},
		} {
			w.do(a)
		}
		for _, p := range w.rest() {
			t.Error(p)
		}
	})
}

type chaos struct {
	*rig
	kv      *faulty
	stop    func()
	leaders int
	joined  map[string]bool
	can     map[string][]string // capabilities, by node

	mu     sync.Mutex
	owns   map[string]cluster.EndpointOwn // as last seen
	lost   map[string]bool                // pairs of which a record was lost and is not back yet
	broken []string
	// assigned are, by VPC and node, the hosts that were members.
	assigned map[[2]string]bool
}

func newChaos(t *testing.T, nodes []string) *chaos {
	c := &chaos{rig: newRig(t), joined: map[string]bool{}, can: map[string][]string{}, lost: map[string]bool{}}
	c.startHosts()
	c.kv = &faulty{KV: c.mem, after: c.look}
	c.crash()
	for i, name := range nodes {
		c.join(name, fmt.Sprintf("192.0.2.%d", 10+i))
		c.joined[name] = true
	}
	c.rig.vpc("v0", withNetwork(spec("all", "10.100.0.0/29")))
	return c
}

func (c *chaos) crash() {
	if c.stop != nil {
		c.stop()
	}
	c.leaders++
	c.stop = c.start(fmt.Sprintf("leader-%d", c.leaders), c.kv)
}

func (c *chaos) do(a action) {
	node, vpc := fmt.Sprintf("h%d", a.X), fmt.Sprintf("v%d", a.X%3)
	known := c.joined[node]
	exists := get[*cluster.VPCSpec](c.rig, cluster.KeyVPCSpec(vpc)) != nil
	switch {
	case a.Do == "join":
		c.join(node, fmt.Sprintf("192.0.2.%d", 10+a.X))
		delete(c.can, node)
		c.joined[node] = true
	case a.Do == "remove" && known:
		c.editNode(node, func(n *cluster.Node) { n.State = cluster.NodeLeft })
	case a.Do == "readdress" && known:
		c.able(node, fmt.Sprintf("192.0.2.%d", 10+a.Y%8), c.can[node]...)
	case a.Do == "able" && known:
		c.can[node] = [][]string{nil, {cluster.CanP2P}, {cluster.CanMultipoint, cluster.CanP2P, cluster.CanMulticast}}[a.Y%3]
		r := get[*cluster.NodeStatus](c.rig, cluster.KeyNodeStatus(node))
		if r != nil {
			c.able(node, r.Underlay.String(), c.can[node]...)
		}
	case a.Do == "transport" && exists:
		c.edit(vpc, func(s *cluster.VPCSpec) {
			s.Transport, s.MulticastGroup = []cluster.Transport{cluster.P2P, cluster.Auto, cluster.Multicast}[a.Y%3], netip.Addr{}
			if s.Transport == cluster.Multicast {
				s.MulticastGroup = netip.MustParseAddr("239.1.1.1")
			}
		})
	case a.Do == "down", a.Do == "die":
		c.hosts.set(node, true)
		if a.Do == "die" {
			c.delete(cluster.KeyLive(node))
		}
	case a.Do == "up":
		c.hosts.set(node, false)
	case a.Do == "create" && !exists:
		c.rig.vpc(vpc, withNetwork(spec("all", []string{"10.100.0.0/29", "fd00::/64"}[a.Y%2])))
	case (a.Do == "delete" || a.Do == "force") && exists:
		c.edit(vpc, func(s *cluster.VPCSpec) { s.State, s.Force = cluster.VPCDeleting, a.Do == "force" })
	case a.Do == "select" && exists:
		c.edit(vpc, func(s *cluster.VPCSpec) { s.Members = []cluster.Selector{"all", "h0,h1", "h2", "h1,h3,h4"}[a.Y%4] })
	case a.Do == "lose record":
		var keys []string
		for line := range strings.Lines(c.controlled()) {
			key, _, _ := strings.Cut(line, " ")
			keys = append(keys, cluster.Root+key)
		}
		if len(keys) > 0 {
			c.lose(keys[a.Y*7%len(keys)])
		}
	case strings.HasPrefix(a.Do, "endpoint"):
		c.doEndpoint(a)
	case a.Do == "crash":
		c.crash()
	case a.Do == "rival": // takes over while the leader is frozen, who then goes on
		old := c.kv
		settle()
		old.freeze()
		c.kv, c.stop = &faulty{KV: c.mem, after: c.look}, nil
		c.crash()
		pass(15 * time.Second)
		old.thaw()
	case a.Do == "lose request", a.Do == "lose answer":
		c.kv.mu.Lock()
		at := c.kv.txns + 1 + a.Y%3
		c.kv.onTxn = func(n int) lost {
			switch {
			case n != at:
				return loseNothing
			case a.Do == "lose answer":
				return loseAnswer
			}
			return loseRequest
		}
		c.kv.mu.Unlock()
	case a.Do == "wait":
		settle()
	case a.Do == "wait long":
		pass(time.Duration(a.Y) * 2 * time.Second)
	}
	if a.Y%2 == 0 {
		settle()
	}
}

// rest ends the faults, waits, and lists what is not in order.
func (c *chaos) rest() (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	c.kv.mu.Lock()
	c.kv.onTxn = nil
	c.kv.mu.Unlock()
	for node := range c.joined {
		c.hosts.set(node, false)
		settle()
		c.put(cluster.KeyLive(node), &cluster.Live{NodeID: "id-" + node, BootID: "b", Incarnation: "i"})
	}
	pass(2 * time.Minute)
	c.letGo()
	pass(5 * time.Minute)
	before := c.mem.Revision()
	pass(5 * time.Minute)
	if n := c.mem.Revision() - before; n != 0 {
		say("%d writes at rest", n)
	}

	c.hosts.mu.Lock()
	problems = append(problems, c.hosts.net.problems...)
	c.hosts.mu.Unlock()
	c.mu.Lock()
	problems = append(problems, c.broken...)
	c.mu.Unlock()

	v := viewOf(c.t, c.mem)
	w := newWorld(v)
	for _, r := range w.asked {
		say("nobody answered %s", r.key)
	}
	vnis := map[cluster.VNI]string{}
	for _, vpc := range w.inOrder() {
		if vpc.spec.Value == nil {
			held := vpc.inUse() && len(vpc.members) == 0 && vpc.net.Value == nil // the word for a host that was away was lost
			if !held && len(vpc.members)+len(vpc.assigns)+len(vpc.vteps)+len(vpc.vnis)+len(vpc.links) > 0 || vpc.net.Value != nil {
				say("left over of %s, which has no spec", vpc.name)
			}
			continue
		}
		net := vpc.net.Value
		switch {
		case vpc.spec.Value.State != cluster.VPCActive:
			say("%s is still being deleted", vpc.name)
			continue
		case net == nil:
			say("%s has no net record", vpc.name)
			continue
		case net.Phase == cluster.PhasePending:
			continue
		}
		if other := vnis[net.VNI]; other != "" {
			say("%s and %s have VNI %d", vpc.name, other, net.VNI)
		}
		vnis[net.VNI] = vpc.name
		if len(vpc.vnis) != 1 || vpc.vnis[0].Key != cluster.KeyAllocVNI(net.VNI) || vpc.vnis[0].Value.Released {
			say("%s has VNI %d and holds %d", vpc.name, net.VNI, len(vpc.vnis))
		}
		held := len(vpc.members)
		for _, name := range w.names {
			n := w.nodes[name]
			m, member := vpc.members[name]
			a, assigned := vpc.assigns[name]
			_, refused := net.Refused[name]
			switch {
			case vpc.spec.Value.Members.Selects(name, n) != (member || refused):
				say("%s in %s: selected %v, member %v, refused %v", name, vpc.name, vpc.spec.Value.Members.Selects(name, n), member, refused)
			case refused && assigned && !member: // its lost record cannot be rebuilt: see its reason
				held++
			case member != assigned || assigned && a.Value.State != cluster.AssignedMember:
				say("%s in %s: member %v, assigned %v", name, vpc.name, member, assigned)
			}
			if !member {
				continue
			}
			it, ok := vpc.vteps[cluster.KeyAllocVTEP(vpc.name, m.Value.VTEP)]
			if !ok || it.Value.Holder != name || it.Value.Released {
				say("%s in %s has %s, whose reverse key is %v", name, vpc.name, m.Value.VTEP, it.Value)
			}
			if s, ok := vpc.status[name]; !ok || s.Value.VTEP != m.Value.VTEP || s.Value.VNI != net.VNI {
				say("%s in %s has not what the records say", name, vpc.name)
			}
		}
		if len(vpc.vteps) != held {
			say("%s has %d members and %d reverse keys", vpc.name, len(vpc.members), len(vpc.vteps))
		}
		problems = append(problems, c.linksAtRest(w, vpc)...)
		problems = append(problems, endpointsAtRest(w, vpc)...)
		addrs := map[string]string{}
		for name, m := range vpc.members {
			if other := addrs[m.Value.Underlay().String()]; other != "" {
				say("in %s, %s and %s are at %s", vpc.name, name, other, m.Value.Underlay())
			}
			addrs[m.Value.Underlay().String()] = name
		}
	}
	slices.Sort(problems)
	return problems
}

// lose deletes a record, and excuses its pair until it is whole again.
func (c *chaos) lose(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, err := cluster.ParseKey(key)
	switch {
	case err == nil && k.Kind == cluster.KindOwn:
		delete(c.owns, key)
	case err == nil && k.Kind == cluster.KindHostLink:
		c.lost[cluster.PairOf(k.VPC, k.Node, k.Name).String()] = true
	case err == nil && k.Kind == cluster.KindAllocVNI:
		if a := get[*cluster.Allocation](c.rig, key); a != nil {
			c.lost[a.Holder] = true
		}
	}
	c.delete(key)
}

// look runs after each transaction: both ends of a link are told the same, with
// a VNI that the pair holds and nobody else has in force.
func (c *chaos) look() {
	c.mu.Lock()
	defer c.mu.Unlock()
	say := func(format string, args ...any) { c.broken = append(c.broken, fmt.Sprintf(format, args...)) }
	all, err := c.mem.Range(context.Background(), mvcc.Prefix(cluster.Root))
	if err != nil {
		say("read: %v", err)
	}
	assigned := map[[2]string]bool{}
	inForce := map[cluster.VNI]string{}
	use := func(vni cluster.VNI, by string) {
		if other, ok := inForce[vni]; ok && other != by {
			say("VNI %d is in force for %s and for %s", vni, other, by)
		}
		inForce[vni] = by
	}
	held := map[string][]cluster.VNI{} // by holder
	links := map[string][]cluster.HostLink{}
	records := map[string]cluster.Record{}
	for _, kv := range all.Keys {
		k, err := cluster.ParseKey(kv.Key)
		if err != nil {
			say("%v", err)
			continue
		}
		r, err := cluster.Decode(kv.Key, kv.Value)
		if err != nil {
			say("%v", err)
			continue
		}
		records[kv.Key] = r
		switch r := r.(type) {
		case *cluster.HostVPC:
			assigned[[2]string{k.VPC, k.Node}] = r.State == cluster.AssignedMember
		case *cluster.HostLink:
			pair := cluster.PairOf(k.VPC, k.Node, k.Name).String()
			links[pair] = append(links[pair], *r)
			use(r.VNI, pair)
		case *cluster.VPCNet:
			if r.Phase == cluster.PhaseActive {
				use(r.VNI, k.VPC)
			}
		case *cluster.Allocation:
			if vni, err := cluster.ParseVNI(k.Name); err == nil && !r.Released && k.Kind == cluster.KindAllocVNI {
				held[r.Holder] = append(held[r.Holder], vni)
			}
		}
	}
	c.broken = append(c.broken, ownsNow(records)...)
	c.broken = append(c.broken, c.fallen(records)...)
	for of := range c.assigned {
		if !assigned[of] {
			c.hosts.tellToLeave(of[0], of[1])
		}
	}
	c.assigned = assigned
	for pair := range c.lost {
		if len(links[pair]) == 0 && len(held[pair]) == 0 {
			delete(c.lost, pair)
		}
	}
	for pair, ends := range links {
		switch {
		case len(ends) == 2 && ends[0] == ends[1] && slices.Contains(held[pair], ends[0].VNI):
			delete(c.lost, pair)
		case !c.lost[pair]:
			say("link %s is not whole: %+v, it holds %v", pair, ends, held[pair])
		}
	}
	for holder := range held {
		if _, err := cluster.ParsePair(holder); err == nil && len(links[holder]) == 0 && !c.lost[holder] {
			say("%s holds %v and has no link", holder, held[holder])
		}
	}
}

// linksAtRest lists what is not in order with the links of a VPC.
func (c *chaos) linksAtRest(w *world, v *vpc) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	links := 0
	for a, x := range v.members {
		only := len(c.can[a]) == 1
		want := cluster.Multipoint
		switch {
		case v.spec.Value.Transport == cluster.P2P, only, v.spec.Value.Transport == cluster.Multicast && len(c.can[a]) == 0:
			want = cluster.P2P
		case v.spec.Value.Transport == cluster.Multicast:
			want = cluster.Multicast
		}
		if x.Value.Transport != want && w.reports[a].Value != nil {
			say("%s in %s is %s, want %s", a, v.name, x.Value.Transport, want)
		}
		for b, y := range v.members {
			if a >= b {
				continue
			}
			own := x.Value.Transport == cluster.P2P || y.Value.Transport == cluster.P2P
			l := v.links[[2]string{a, b}]
			is := inForce{shared: true}
			if own {
				links++
				stands, ok := l.stands()
				if !ok || !l.agrees() || stands.Use != cluster.LinkActive || !l.holds(stands.VNI) || len(l.held) != 1 {
					say("%s – %s in %s: link is %+v", a, b, v.name, l)
					continue
				}
				is = inForce{vni: stands.VNI, use: stands.Use}
			}
			for _, e := range []end{{v.name, a, b}, {v.name, b, a}} {
				got := c.hosts.net.ends[e]
				got.shared = is.shared
				if got != is && own || !own && (got.use != "" || got.none) {
					say("%v has %+v, want %+v", e, got, is)
				}
			}
		}
	}
	awaited := func(node string) bool { // its lost record cannot be rebuilt
		_, assigned := v.assigns[node]
		_, member := v.members[node]
		return assigned && !member
	}
	for key, l := range v.links {
		if awaited(key[0]) || awaited(key[1]) {
			continue
		}
		if _, ok := l.stands(); ok || l.holdsAny() {
			links--
		} else if len(l.held) > 0 {
			say("%v in %s still waits in quarantine", key, v.name)
		}
	}
	if links != 0 {
		say("%s has %d pairs too few or too many", v.name, links)
	}
	return problems
}

// edit is the operator's, whose VPC may be gone at this moment.
func (c *chaos) edit(name string, f func(*cluster.VPCSpec)) {
	it, err := store.Get[*cluster.VPCSpec](context.Background(), c.op, cluster.KeyVPCSpec(name))
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		c.t.Fatal(err)
	default:
		f(it.Value)
		c.rig.vpc(name, it.Value)
	}
}
