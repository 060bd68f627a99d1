package watcher

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Times of multicast. A host of a VPC with a group greets the group; whose
// greetings it hears, those hear what it floods to the group. Until it hears all
// peers whose links are up it floods to a list of the peers, as without a group.
const (
	greetPeriod = 5 * time.Second
	greetFirst  = 500 * time.Millisecond // while the group has not carried yet
	greetHasty  = 10 * time.Second       // after the start: then every greetPeriod
	greetLost   = 3 * greetPeriod        // not heard for so long: the group does not carry
	greetAgain  = 5 * time.Minute        // of all heard, before a group that failed is trusted again
)

// caster decides whether a VPC's frames for all go to its group or to each
// peer: a step function over explicit time.
type caster struct {
	tunnel  hostops.Tunnel // that is to be in the group
	began   time.Time
	heard   map[string]time.Time // by peer
	whole   time.Time            // since when all were heard; zero: they are not
	failed  bool                 // the group once carried and then did not
	toGroup bool
	missing []string // peers that are up and not heard
	next    time.Time
	found   string // the finding, as reported
}

func newCaster(now time.Time, toGroup bool) *caster {
	return &caster{began: now, heard: map[string]time.Time{}, toGroup: toGroup}
}

// step takes who has been heard since the last step, of the peers whose links
// are up, and reports whether the decision changed.
func (c *caster) step(now time.Time, up, heard []string) (changed bool) {
	for _, peer := range heard {
		c.heard[peer] = now
	}
	c.missing = nil
	lost := false
	for _, peer := range up {
		last, ever := c.heard[peer]
		switch {
		case !ever && c.toGroup: // it has just come: it may be on its way into the group
			c.heard[peer] = now
		case !ever:
			c.missing = append(c.missing, peer)
		case now.Sub(last) > greetLost:
			c.missing, lost = append(c.missing, peer), true
		}
	}
	for peer := range c.heard {
		if !slices.Contains(up, peer) {
			delete(c.heard, peer)
		}
	}
	was := c.toGroup
	switch {
	case len(c.missing) > 0:
		c.failed = c.failed || c.toGroup && lost
		c.toGroup, c.whole = false, time.Time{}
	case len(up) == 0: // nobody to hear: as it was
	case c.whole.IsZero():
		c.whole = now
		c.toGroup = c.toGroup || !c.failed
	case now.Sub(c.whole) >= greetAgain:
		c.toGroup = true
	}
	period := greetPeriod
	if !c.toGroup && !c.failed && now.Sub(c.began) < greetHasty {
		period = greetFirst
	}
	c.next = now.Add(period)
	return was != c.toGroup
}

// finding is what is wrong with the group, "" if nothing is. A group that has
// just been joined has its time.
func (c *caster) finding(now time.Time, group netip.Addr) string {
	switch {
	case c.toGroup || now.Sub(c.began) < greetHasty:
		return ""
	case len(c.missing) > 0:
		return fmt.Sprintf("multicast group %s does not carry here: nothing is heard by it from %s; sending to each peer instead", group, andMore(c.missing))
	case c.failed:
		return fmt.Sprintf("multicast group %s did not carry here for a while; sending to each peer until it has for %s", group, greetAgain)
	}
	return ""
}

// cast keeps a caster for each VPC that is to have a tunnel in a group.
func (a *Agent) cast(d hostops.Desired) {
	had := a.casters
	a.casters = map[string]*caster{}
	for _, v := range d.VPCs {
		i := slices.IndexFunc(v.Tunnels, func(t hostops.Tunnel) bool { return t.Group.IsValid() })
		if i < 0 {
			continue
		}
		c := had[v.Name]
		if c == nil {
			c = newCaster(a.now, a.memory.VPCs[v.Name].ToGroup)
			a.greetAt = a.now
		}
		c.tunnel = v.Tunnels[i]
		a.casters[v.Name] = c
	}
}

// greet greets the groups that are due and decides by whom it hears. Most passes
// find that none is, and look at no VPC.
func (a *Agent) greet() {
	if a.greetAt.IsZero() || a.now.Before(a.greetAt) {
		return
	}
	a.greetAt = time.Time{}
	for _, name := range slices.Sorted(maps.Keys(a.casters)) {
		c := a.casters[name]
		if !a.now.Before(c.next) {
			a.greetOne(name, c)
		}
		a.greetAt = earliest(a.greetAt, c.next)
	}
}

func (a *Agent) greetOne(name string, c *caster) {
	v, t := a.memory.VPCs[name], c.tunnel
	from, err := a.cfg.Driver.Greet(hostops.Greeting{Group: v.Group, Device: t.Device, Local: t.Local, VNI: v.VNI})
	if err != nil {
		a.log.Debug("cannot greet", zap.String("vpc", name), zap.Error(err)) // nobody is heard: the finding says so
	}
	var up, heard []string
	for _, p := range t.Peers {
		if l := a.links.known[linkID{name, p.Node}]; l != nil && l.state == cluster.LinkUp {
			up = append(up, p.Node)
		}
		if slices.Contains(from, p.Underlay) {
			heard = append(heard, p.Node)
		}
	}
	if c.step(a.now, up, heard) {
		a.log.Info("flooding", zap.String("vpc", name), zap.Bool("to_group", c.toGroup), zap.Strings("missing", c.missing))
		v.ToGroup, a.out.Again, a.settled = c.toGroup, true, false
		a.remember(changedMore)
	}
	if f := c.finding(a.now, v.Group); f != c.found {
		c.found, a.out.Look = f, true // a step reports it
	}
}

// notes are what is worth knowing of this host, though it works.
func (a *Agent) notes() []string {
	notes := a.links.notes()
	for _, name := range slices.Sorted(maps.Keys(a.casters)) {
		if f := a.casters[name].found; f != "" {
			notes = append(notes, cluster.CleanText("VPC "+name+": "+f))
		}
	}
	return notes
}
