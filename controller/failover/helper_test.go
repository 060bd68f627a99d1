package failover

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// world is a store's content, as a test writes it, and the leader's clock.
type world struct {
	t testing.TB
	j *Judge
	v View
	// hears has observers stop to hear a node: suspects by observer.
	suspects map[string][]cluster.Suspect
	unsure   map[string]bool
	frozen   map[string]bool // nodes that write nothing any more
	last     *Decision
}

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// newWorld has nodes named "dc/name", witnesses "dc/name!", with the timings of the
// default profile. One endpoint e0 of VPC v is at the first.
func newWorld(t testing.TB, nodes ...string) *world {
	w := &world{t: t, j: New(), suspects: map[string][]cluster.Suspect{}, unsure: map[string]bool{}, frozen: map[string]bool{}}
	w.v = View{Now: begin, Timings: cluster.ProfileDefault.Timings(),
		Nodes: map[string]*cluster.Node{}, Live: map[string]*cluster.Live{}, Underlay: map[string][]netip.Addr{},
		Verdicts: map[string]*cluster.Verdicts{}, Fences: map[string]Fence{}, Applied: map[string]*cluster.FenceStatus{}}
	first := ""
	for i, n := range nodes {
		dc, name, _ := cut(n)
		witness := name[len(name)-1] == '!'
		if witness {
			name = name[:len(name)-1]
		} else if first == "" {
			first = name
		}
		w.v.Nodes[name] = &cluster.Node{ID: "id-" + name, Datacenter: dc, State: cluster.NodeActive, Agent: !witness}
		w.v.Verdicts[name] = &cluster.Verdicts{NodeID: "id-" + name}
		if !witness {
			w.v.Live[name] = &cluster.Live{NodeID: "id-" + name, BootID: "b0", Incarnation: "i0"}
			w.v.Underlay[name] = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})}
		}
	}
	w.endpoint("e0", first)
	return w
}

func cut(s string) (dc, name string, ok bool) {
	for i := range s {
		if s[i] == '/' {
			return s[:i], s[i+1:], true
		}
	}
	return "", s, false
}

// endpoint adds one that is at a node, and attached at all others.
func (w *world) endpoint(name, at string) *Endpoint {
	e := &Endpoint{VPC: "v", Name: name, Failover: &cluster.Failover{Mode: cluster.ModeStateless, Place: cluster.Place{"all"}},
		Own: &cluster.EndpointOwn{State: cluster.OwnUnplaced, Era: 1}, Reports: map[string]*cluster.EndpointStatus{}, Members: map[string]bool{}}
	for n, node := range w.v.Nodes {
		if node.Agent {
			e.Members[n] = true
		}
	}
	w.v.Endpoints = append(w.v.Endpoints, e)
	w.put(e, at, nil)
	return e
}

// put makes a node the owner in a new epoch, as everybody reports at once.
func (w *world) put(e *Endpoint, node string, moved *cluster.Moved) {
	own := *e.Own
	own.Node, own.To, own.State, own.Epoch = node, "", cluster.OwnAssigned, own.Epoch+1
	if moved != nil {
		own.Moved = moved
	}
	if node == "" {
		own.State = cluster.OwnUnplaced
	}
	e.Own = &own
	for n := range e.Members {
		if !w.frozen[n] {
			w.report(e, n, cluster.PortStandby)
		}
	}
	if node != "" && !w.frozen[node] {
		w.report(e, node, cluster.PortReady)
	}
}

func (w *world) report(e *Endpoint, node string, s cluster.PortState) {
	e.Reports[node] = &cluster.EndpointStatus{NodeID: "id-" + node, State: s, Era: e.Own.Era, Epoch: e.Own.Epoch}
}

func (w *world) at(name string) *Endpoint {
	for _, e := range w.v.Endpoints {
		if e.Name == name {
			return e
		}
	}
	w.t.Fatalf("no endpoint %s", name)
	return nil
}

// die has a node stop for good: it writes nothing, and nobody hears it.
func (w *world) die(names ...string) {
	for _, name := range names {
		w.frozen[name] = true
		w.miss(name, false, false)
	}
}

// miss has all observers of a node report it.
func (w *world) miss(name string, agent, kernel bool) {
	for _, o := range cluster.ObserversOf(name, w.v.Nodes) {
		w.misses(o, name, agent, kernel)
	}
}

// misses has one observer report a node.
func (w *world) misses(observer, name string, agent, kernel bool) {
	w.suspects[observer] = append(w.suspects[observer], cluster.Suspect{Node: name, Agent: agent, Kernel: kernel})
}

// back has a node heard again by all.
func (w *world) back(name string) {
	delete(w.frozen, name)
	for o, list := range w.suspects {
		var rest []cluster.Suspect
		for _, s := range list {
			if s.Node != name {
				rest = append(rest, s)
			}
		}
		w.suspects[o] = rest
	}
}

// tick lets a probe period pass: counters move, and the leader decides.
func (w *world) tick() *Decision {
	w.v.Now = w.v.Now.Add(w.v.Timings.Probe)
	periods := int64(w.v.Now.Sub(begin) / w.v.Timings.Probe)
	each := int64(w.v.Timings.Keepalive / w.v.Timings.Probe)
	for name, n := range w.v.Nodes {
		if w.frozen[name] {
			continue
		}
		v := *w.v.Verdicts[name]
		if len(w.suspects[name]) > 0 || len(v.Suspects) > 0 || w.unsure[name] != v.Unsure {
			v.Counter, v.Suspects, v.Unsure = v.Counter+1, w.suspects[name], w.unsure[name]
			w.v.Verdicts[name] = &v
		}
		if n.Agent && periods%each == 0 && w.v.Live[name] != nil {
			l := *w.v.Live[name]
			l.Counter++
			w.v.Live[name] = &l
		}
	}
	return w.decide()
}

func (w *world) decide() *Decision {
	w.last = w.j.Decide(&w.v)
	return w.last
}

// run ticks for a time, and does nothing of what is decided. It says the decision that
// was first to write something, and after how long.
func (w *world) run(d time.Duration) (first *Decision, after time.Duration) {
	start := w.v.Now
	for w.v.Now.Sub(start) < d {
		out := w.tick()
		if first == nil && len(out.Fences)+len(out.Grants)+len(out.Lifts) > 0 {
			first, after = out, w.v.Now.Sub(start)
		}
	}
	return first, after
}

// settle lets a new leader collect its evidence.
func (w *world) settle() {
	if d, _ := w.run(6 * time.Second); d != nil {
		w.t.Fatalf("something was decided in peace: %+v", d)
	}
}

// write puts what was decided into the store; members confirm fences if they can.
func (w *world) write(d *Decision) {
	for _, f := range d.Fences {
		revision := w.v.Now.UnixMilli()
		w.v.Fences[f.Node] = Fence{&f.Fence, revision}
		for name, n := range w.v.Nodes {
			if n.Agent && !w.frozen[name] {
				w.v.Applied[name] = &cluster.FenceStatus{NodeID: n.ID, Revision: revision}
			}
		}
	}
	for _, l := range d.Lifts {
		delete(w.v.Fences, l.Node)
	}
	for _, g := range d.Grants {
		w.put(w.at(g.Endpoint), g.To, g.Moved)
	}
}

// live ticks for a time and writes what is decided. It lists that, with the time.
func (w *world) live(d time.Duration) (done []string) {
	start := w.v.Now
	for w.v.Now.Sub(start) < d {
		out := w.tick()
		at := seconds(w.v.Now.Sub(start))
		for _, f := range out.Fences {
			done = append(done, fmt.Sprintf("%s fence %s", at, f.Node))
		}
		for _, l := range out.Lifts {
			done = append(done, fmt.Sprintf("%s lift %s", at, l.Node))
		}
		for _, g := range out.Grants {
			done = append(done, fmt.Sprintf("%s %s: %s to %s", at, g.Endpoint, g.From, g.To))
		}
		w.write(out)
	}
	return done
}

// class is how a node is judged now.
func (w *world) class(name string) Class { return w.last.Nodes[name].Class }
