package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/meshvpc/meshvpc/cluster"
)

// Chooser ranks the nodes that endpoints could go to: for the leader that moves them,
// and for whoever wants to know where they would go. It counts what nodes have, and so
// has to be told of each endpoint that is somewhere (Put), and of each that goes (Move).
type Chooser struct {
	Nodes map[string]*cluster.Node
	// Unfit says why nothing is given to a node now, "" if it is well.
	Unfit func(node string) string
	// Failed reports whether a node that is well again failed lately.
	Failed func(node string) bool

	off   rule // see Judge
	owned map[string]int
	apart map[groupAt][]string // endpoints of groups, by node
	near  map[groupAt]int      // and their number, by datacenter
}

// groupAt is a group of endpoints that are apart, at a node or in a datacenter.
type groupAt struct{ vpc, group, at string }

// choice is a node that an endpoint could go to, with what its rank depends on.
type choice struct {
	node     string
	broken   bool // the workload failed there, the last time
	near     int  // endpoints of its group in the datacenter
	place    int  // of the endpoint's list that names it, from 0, the most preferred
	failed   bool // lately
	outdated bool // its report is of another epoch
	owned    int  // endpoints that it has
}

// compare puts the better choice first: one where the workload has not failed, then the
// node that an operator chose, then one whose datacenter has fewer of its group, then by
// place, then one that has not failed lately, then one whose report is of this epoch,
// then the one with the fewest endpoints, then by name.
func (c *choice) compare(o *choice) int {
	return cmp.Or(compareBool(c.broken, o.broken), cmp.Compare(c.near, o.near), cmp.Compare(c.place, o.place), compareBool(c.failed, o.failed), compareBool(c.outdated, o.outdated),
		cmp.Compare(c.owned, o.owned), strings.Compare(c.node, o.node))
}

// compareBool puts what is not so first.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Put counts an endpoint at the node that has it, if one has.
func (c *Chooser) Put(e *Endpoint) {
	if at := e.owner(); at != "" {
		c.count(e, at, 1)
	}
}

// Move counts an endpoint at the node that it goes to, if there is one, and no more at
// its own.
func (c *Chooser) Move(e *Endpoint, to string) {
	if at := e.owner(); at != "" {
		c.count(e, at, -1)
	}
	if to != "" {
		c.count(e, to, 1)
	}
}

func (c *Chooser) count(e *Endpoint, node string, n int) {
	if c.owned == nil {
		c.owned, c.apart, c.near = map[string]int{}, map[groupAt][]string{}, map[groupAt]int{}
	}
	c.owned[node] += n
	if e.Failover == nil || e.Failover.Apart == "" {
		return
	}
	at := groupAt{e.VPC, e.Failover.Apart, node}
	if n > 0 {
		c.apart[at] = append(c.apart[at], e.Name)
	} else {
		c.apart[at] = slices.DeleteFunc(c.apart[at], func(name string) bool { return name == e.Name })
	}
	if of := c.Nodes[node]; of != nil {
		c.near[groupAt{e.VPC, e.Failover.Apart, of.Datacenter}] += n
	}
}

// Crowded says why a node that is well cannot have an endpoint beside what it has, "" if
// it can.
func (c *Chooser) Crowded(e *Endpoint, node string) string {
	if most := c.Nodes[node].Capacity; most > 0 && c.owned[node] >= most && c.off&ruleCapacity == 0 {
		return fmt.Sprintf("it has %d endpoints that move, and its capacity is %d", c.owned[node], most)
	}
	if group := e.Failover.Apart; group != "" && c.off&ruleApart == 0 {
		for _, other := range c.apart[groupAt{e.VPC, group, node}] {
			if other != e.Name {
				return fmt.Sprintf("it has %s, which %s is apart from (%s)", other, e.Name, group)
			}
		}
	}
	return ""
}

// neighbours are how many others of an endpoint's group are in a datacenter.
func (c *Chooser) neighbours(e *Endpoint, dc string) int {
	if e.Failover.Apart == "" {
		return 0
	}
	n := c.near[groupAt{e.VPC, e.Failover.Apart, dc}]
	if own := c.Nodes[e.owner()]; own != nil && own.Datacenter == dc {
		n--
	}
	return n
}

// Best is the node that an endpoint goes to if it has to leave its own, "" for none; a
// may that is not nil leaves nodes out.
func (c *Chooser) Best(e *Endpoint, may func(node string) bool) string {
	var best choice
	for name, report := range e.Reports {
		place, ok := c.candidate(e, name)
		if !ok || may != nil && !may(name) || c.Unfit(name) != "" || c.Crowded(e, name) != "" {
			continue
		}
		near, place := c.standing(e, name, place)
		broken := report.Workload != nil && report.Workload.State == cluster.WorkloadFailed
		one := choice{node: name, broken: broken, near: near, place: place, failed: c.Failed(name), outdated: !e.isCurrent(report), owned: c.owned[name]}
		if best.node == "" || one.compare(&best) < 0 {
			best = one
		}
	}
	return best.node
}

// prefers reports whether an endpoint's list, or its group, prefers a node to the one that
// it is at.
func (c *Chooser) prefers(e *Endpoint, to string) bool {
	at, n := c.Nodes[e.owner()], c.Nodes[to]
	has, ok := e.Failover.Place.Rank(e.owner(), at)
	wants, _ := e.Failover.Place.Rank(to, n)
	near, wants := c.standing(e, to, wants)
	nearNow, has := c.standing(e, e.owner(), has)
	return !ok || cmp.Or(cmp.Compare(near, nearNow), cmp.Compare(wants, has)) < 0
}

// standing is what a node is preferred by, the less the better: how many of an endpoint's
// group are near, and its place in the list. An operator's choice is before all.
func (c *Chooser) standing(e *Endpoint, name string, place int) (near, rank int) {
	if name == e.Failover.Preferred {
		return -1, -1
	}
	return c.neighbours(e, c.Nodes[name].Datacenter), place
}

// candidate reports whether a node, other than the owner, has all that an endpoint
// needs, and how preferred it is. One that may have a strict endpoint shuts it by
// itself, and has read what became of it last: a former owner that does not reach the
// store has not. Where it has a workload, that surely does not run.
func (c *Chooser) candidate(e *Endpoint, name string) (place int, ok bool) {
	n, s := c.Nodes[name], e.Reports[name]
	if n == nil || name == e.owner() || !e.Members[name] || s.NodeID != n.ID || e.strict() && !(s.Gated && e.isCurrent(s)) ||
		s.State != cluster.PortStandby && s.State != cluster.PortReady {
		return 0, false
	}
	if e.Failover.Workload != "" && (s.Workload == nil || s.Workload.MayRun()) {
		return 0, false // it has yet to end there
	}
	return e.Failover.Place.Rank(name, n)
}

// Why says why Best has none.
func (c *Chooser) Why(e *Endpoint, may func(node string) bool) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(e.Reports)) {
		if _, ok := c.candidate(e, name); ok && len(parts) < most && (may == nil || may(name)) {
			parts = append(parts, name+": "+cmp.Or(c.Unfit(name), c.Crowded(e, name)))
		}
	}
	if parts == nil && e.Failover.Mode == cluster.ModeVIP {
		return "no other member of the VPC at its places is ready to serve it"
	}
	if parts == nil {
		return fmt.Sprintf("no other node in its places %s has it attached", e.Failover.Place)
	}
	return "no node can take it (" + strings.Join(parts, "; ") + ")"
}

// Suited are the members of a VPC where an endpoint could be if it were attached there,
// the most preferred first.
func (c *Chooser) Suited(e *Endpoint) (nodes []string) {
	var list []choice
	for name := range e.Members {
		n := c.Nodes[name]
		if n == nil {
			continue
		}
		if place, ok := e.Failover.Place.Rank(name, n); ok {
			list = append(list, choice{node: name, place: place})
		}
	}
	slices.SortFunc(list, func(a, b choice) int { return a.compare(&b) })
	for i := range list {
		nodes = append(nodes, list[i].node)
	}
	return nodes
}
