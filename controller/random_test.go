package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

// action is one thing that happens in TestRandom; what the numbers mean is the
// action's.
type action struct {
	Do   string
	X, Y int
}

var actions = []string{
	"join", "join", "remove", "readdress", "down", "up", "die", "create", "create", "delete", "force",
	"select", "lose record", "crash", "lose request", "lose answer", "wait", "wait long",
}

// TestRandom lets operators, hosts and faults do what they like, then lets the
// cluster come to rest and looks whether it is in order.
func TestRandom(t *testing.T) {
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
			w := newChaos(t)
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

type chaos struct {
	*rig
	kv      *faulty
	stop    func()
	leaders int
	joined  map[string]bool
}

func newChaos(t *testing.T) *chaos {
	c := &chaos{rig: newRig(t), joined: map[string]bool{}}
	c.startHosts()
	c.kv = &faulty{KV: c.mem}
	c.crash()
	c.join("h0", "192.0.2.10")
	c.joined["h0"] = true
	c.rig.vpc("v0", spec("all", "10.100.0.0/29"))
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
		c.joined[node] = true
	case a.Do == "remove" && known:
		c.editNode(node, func(n *cluster.Node) { n.State = cluster.NodeLeft })
	case a.Do == "readdress" && known:
		c.report(node, fmt.Sprintf("192.0.2.%d", 10+a.Y%8), 1500)
	case a.Do == "down", a.Do == "die":
		c.hosts.set(node, true)
		if a.Do == "die" {
			c.delete(cluster.KeyLive(node))
		}
	case a.Do == "up":
		c.hosts.set(node, false)
	case a.Do == "create" && !exists:
		c.rig.vpc(vpc, spec("all", []string{"10.100.0.0/29", "fd00::/64"}[a.Y%2]))
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
			c.delete(keys[a.Y%len(keys)])
		}
	case a.Do == "crash":
		c.crash()
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
	pass(5 * time.Minute)
	before := c.mem.Revision()
	pass(5 * time.Minute)
	if n := c.mem.Revision() - before; n != 0 {
		say("%d writes at rest", n)
	}

	v := viewOf(c.t, c.mem)
	w := newWorld(v)
	vnis := map[cluster.VNI]string{}
	for _, vpc := range w.inOrder() {
		if vpc.spec.Value == nil {
			if len(vpc.members)+len(vpc.assigns)+len(vpc.vteps)+len(vpc.vnis) > 0 || vpc.net.Value != nil {
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
