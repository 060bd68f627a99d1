package failover

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Judge is what a candidate remembers between two looks, while another leads, too: what
// it decides then is not done, and what it saw counts when it is elected. It is for one
// goroutine.
type Judge struct {
	off rule // rules that do not hold: none, but in tests

	began    time.Time // since when evidence is collected
	last     time.Time // of the last pass
	promised time.Time // Again of the last pass

	roster    map[string]seat // of which observers were chosen
	observers map[string][]string
	lives     map[string]*beat
	verdicts  map[string]*beat
	nodes     map[string]*nodeMemory
	fences    map[string]*fenceMemory
	endpoints map[string]*endpointMemory
	whole     map[string]time.Time // datacenters of which all is silent, since when
	safeUntil time.Time
	safeWhy   string
	granted   window
	paused    map[string]time.Time // by what was done: when that may be done next
}

// New is the Judge of a candidate that has seen nothing yet.
func New() *Judge {
	return &Judge{
		observers: map[string][]string{},
		lives:     map[string]*beat{},
		verdicts:  map[string]*beat{},
		nodes:     map[string]*nodeMemory{},
		fences:    map[string]*fenceMemory{},
		endpoints: map[string]*endpointMemory{},
		whole:     map[string]time.Time{},
		paused:    map[string]time.Time{},
	}
}

// pass is one look at the world.
type pass struct {
	*View
	judge *Judge
	again time.Time
	names []string // of the nodes that are judged, sorted

	nodes   map[string]Judgement
	votes   map[string]*votes
	quiet   map[string]bool // see unheard
	chooser Chooser
	fitness map[string]fitness // see fit
	movers  map[string]bool    // nodes that have an endpoint that could be elsewhere; nil: see movable
	loss    *loss
	missing map[string]receivers
	out     Decision
}

func (p *pass) holds(r rule) bool { return p.judge.off&r == 0 }

// due reports whether a time has come, and has the leader look again then if not.
func (p *pass) due(at time.Time) bool {
	if !p.Now.Before(at) {
		return true
	}
	if p.again.IsZero() || at.Before(p.again) {
		p.again = at
	}
	return false
}

// Decide says what the nodes are like and what has to be written.
func (j *Judge) Decide(v *View) *Decision {
	p := &pass{View: v, judge: j, nodes: map[string]Judgement{}, votes: map[string]*votes{}, quiet: map[string]bool{},
		fitness: map[string]fitness{}, missing: map[string]receivers{}}
	p.chooser = Chooser{off: j.off, Nodes: v.Nodes, Unfit: func(n string) string { return p.fit(n).unfit }, Failed: func(n string) bool { return p.fit(n).failed }}
	if j.interrupted(v) {
		j.forget(v.Now)
	}
	j.listen(p)
	j.seat(v.Nodes)
	j.watchFences(p)
	j.watchEndpoints(p)
	p.classify()
	p.weigh()
	p.lift()
	p.grant()
	p.fence()
	p.plan()
	p.promise()
	return &p.out
}

// classify judges all nodes, and counts what they own.
func (p *pass) classify() {
	named := p.suspected()
	for _, name := range slices.Sorted(maps.Keys(p.Nodes)) {
		if n := p.Nodes[name]; n.Agent && n.State != cluster.NodeLeft {
			p.names = append(p.names, name)
			p.nodes[name] = p.judgeNode(name, named[name])
			p.remember(name)
			if is := p.nodes[name]; is.Class == Down && p.confirmed(name) && !p.collecting() {
				is.Lost = true
				p.nodes[name] = is
			}
		}
	}
	maps.DeleteFunc(p.judge.nodes, func(name string, _ *nodeMemory) bool { return p.Nodes[name] == nil })
	p.out.Nodes = p.nodes
	for _, e := range p.Endpoints {
		p.chooser.Put(e)
	}
}

// promise says when the leader looks again, and puts the rest in order.
func (p *pass) promise() {
	j := p.judge
	j.last, j.promised = p.Now, time.Time{}
	if len(p.Endpoints) > 0 {
		p.due(p.Now.Add(p.Timings.Keepalive))
		j.promised = p.again
	}
	p.out.Again = p.again
	slices.SortStableFunc(p.out.Waits, func(a, b Wait) int {
		return cmp.Or(strings.Compare(a.VPC, b.VPC), strings.Compare(a.Endpoint, b.Endpoint))
	})
}

// interrupted reports whether the leader did not look for so long that what it sees
// move now may have moved long ago.
func (j *Judge) interrupted(v *View) bool {
	return j.promised.IsZero() || v.Now.Before(j.last) || v.Now.After(j.promised.Add(v.Timings.Keepalive))
}

// forget begins to collect evidence anew.
func (j *Judge) forget(now time.Time) {
	j.began = now
	for _, b := range j.lives {
		b.moved = time.Time{}
	}
	for _, b := range j.verdicts {
		b.moved = time.Time{}
	}
	for _, m := range j.nodes {
		m.suspectedSince, m.silentSince, m.okSince, m.heard = time.Time{}, time.Time{}, time.Time{}, false
	}
	clear(j.whole)
}

// collecting reports whether there is no evidence yet: one time to detect a loss and
// one keepalive have to go by.
func (p *pass) collecting() bool {
	return p.holds(ruleGrace) && !p.due(p.judge.began.Add(p.Timings.Silence()+p.Timings.Keepalive))
}

// seat is what of a node decides who observes whom.
type seat struct {
	datacenter  string
	agent, left bool
}

// seat forgets who observes whom if nodes changed.
func (j *Judge) seat(nodes map[string]*cluster.Node) {
	roster := make(map[string]seat, len(nodes))
	for name, n := range nodes {
		roster[name] = seat{n.Datacenter, n.Agent, n.State == cluster.NodeLeft}
	}
	if !maps.Equal(roster, j.roster) {
		j.roster = roster
		clear(j.observers)
	}
}

// observersOf remembers cluster.ObserversOf, which is asked for often.
func (j *Judge) observersOf(name string, nodes map[string]*cluster.Node) []string {
	list, ok := j.observers[name]
	if !ok {
		list = cluster.ObserversOf(name, nodes)
		j.observers[name] = list
	}
	return list
}

// window counts what was done lately.
type window []time.Time

// since drops what is older than from and says how much is left.
func (w *window) since(from time.Time) int {
	*w = slices.DeleteFunc(*w, func(t time.Time) bool { return !t.After(from) })
	return len(*w)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }
