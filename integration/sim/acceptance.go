package sim

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// acceptance holds endpoints that move to what must be true at any time.
//
//   - A receiver takes an endpoint's frames from one host at most, itself among them,
//     and never again, while it has power, from an owner of an epoch before the one
//     that it took and that its agent had saved.
//   - Each owner has a greater epoch than the one before.
//   - Frames of an endpoint that is exclusive strict pass at one host at most.
//   - At most five times in 180 s an endpoint moves without anybody's word.
type acceptance struct {
	s      *services
	writes int
	moves  int                             // in all
	mac    map[string]cluster.MAC          // of endpoints
	owners map[string][]string             // that each endpoint had, in order of their epochs
	last   map[string]*cluster.EndpointOwn // as the store last had it
	moved  map[string][]time.Duration      // without anybody's word
	taken  map[[2]string]int               // by receiver and endpoint: the place in owners that it takes from
}

func newAcceptance(s *services) *acceptance {
	a := &acceptance{s: s, mac: map[string]cluster.MAC{}, owners: map[string][]string{}, last: map[string]*cluster.EndpointOwn{},
		moved: map[string][]time.Duration{}, taken: map[[2]string]int{}}
	for _, name := range s.names {
		it, err := store.Get[*cluster.EndpointOwn](s.w.ctx, s.w.operator.store, cluster.KeyEndpointOwn(servicesVPC, name))
		if err != nil || it.Value.Node == "" {
			s.w.fail("endpoint %s has no node: %v", name, err)
			continue
		}
		a.mac[name], a.last[name], a.owners[name] = it.Value.MAC, it.Value, []string{it.Value.Node}
	}
	return a
}

// written takes what is new in the store.
func (a *acceptance) written(events []mvcc.Event) {
	for _, e := range events {
		name, own := ofOwn(e)
		was := a.last[name]
		if own == nil || was == nil {
			continue
		}
		a.last[name] = own
		if own.Node == was.Node && own.Epoch == was.Epoch {
			continue
		}
		if own.Era < was.Era || own.Era == was.Era && own.Epoch <= was.Epoch {
			a.s.w.fail("%s goes from %s in epoch %d to %s in %d", name, was.Node, was.Epoch, own.Node, own.Epoch)
		}
		a.owners[name] = append(a.owners[name], own.Node)
		asked := own.Moved != nil && own.Moved.Changes == 0
		if own.Moved != nil && !asked && (was.Moved == nil || !own.Moved.At.Equal(was.Moved.At.Time)) {
			a.count(name)
		}
	}
}

// count holds moves to their bound.
func (a *acceptance) count(name string) {
	now := a.s.w.now
	a.moves++
	a.moved[name] = append(slices.DeleteFunc(a.moved[name], func(t time.Duration) bool { return now-t >= 180*time.Second }), now)
	if n := len(a.moved[name]); n > 5 {
		a.s.w.fail("%s moved %d times in 180 s", name, n)
	}
}

// check looks at all receivers when some kernel changed.
func (a *acceptance) check() {
	if n := a.s.w.kernelWrites() + a.s.gates; n == a.writes {
		return // hosts shut by themselves, and only that
	} else {
		a.writes = n
	}
	for name := range ordered(a.s.strict) {
		if at := a.open(name); len(at) > 1 {
			a.s.w.fail("%s is open at %v", name, at)
		}
	}
	for _, r := range a.s.w.nodes {
		if r.off {
			continue
		}
		state := r.host.State()
		for _, name := range a.s.names {
			a.receiver(r, name, a.takes(r, state, name))
		}
	}
}

// open lists the hosts by which an endpoint's frames pass, whether an agent runs there
// or not.
func (a *acceptance) open(name string) (at []string) {
	for _, n := range a.s.w.nodes {
		if !n.off && n.host.Passes(hostops.EndpointPortOf(servicesVPC, name)) {
			at = append(at, n.name)
		}
	}
	return at
}

// takes lists the nodes from which a host takes an endpoint's frames.
func (a *acceptance) takes(r *node, state hostops.State, name string) (from []string) {
	if r.serves(state, name) {
		from = append(from, r.name)
	}
	for p := range state.Filter.Places[servicesVNI].Keys() {
		if p.MAC == a.mac[name] && !state.Filter.Fenced.Has(p.From) {
			from = append(from, a.s.w.had[p.From])
		}
	}
	slices.Sort(from)
	return from
}

// receiver holds what one host takes to what it took before.
func (a *acceptance) receiver(r *node, name string, from []string) {
	if len(from) > 1 {
		a.s.w.fail("%s takes %s from %v", r.name, name, from)
	}
	if len(from) != 1 {
		return
	}
	key := [2]string{r.name, name}
	at := a.taken[key]
	next := slices.Index(a.owners[name][at:], from[0])
	if next < 0 {
		a.s.w.fail("%s takes %s from %s, after it took it from %s; its owners were %v", r.name, name, from[0], a.owners[name][at], a.owners[name])
		return
	}
	a.taken[key] = at + next
}

// forget is called when a host has lost its power, and its kernel is empty, or its agent
// has crashed, when what that had read in the moment before is not saved.
func (a *acceptance) forget(r *node) {
	for _, name := range a.s.names {
		delete(a.taken, [2]string{r.name, name})
	}
}

// serves reports whether an endpoint's port is open here.
func (n *node) serves(state hostops.State, name string) bool {
	d := state.Devices[hostops.EndpointPortOf(servicesVPC, name)]
	return d.Up && d.Master == servicesVPC
}

// atRest holds a world at rest to this: each endpoint is served by its owner alone,
// nobody is fenced or suspected, and all hosts take it from there.
func (a *acceptance) atRest() {
	w := a.s.w
	for _, name := range a.s.names {
		own := a.last[name]
		if at := a.open(name); len(at) != 1 || at[0] != own.Node {
			w.fail("at rest %s is %s's, handed to %q, and open at %v", name, own.Node, own.To, at)
		}
		for _, n := range w.nodes {
			state := n.host.State()
			if is := n.serves(state, name); is != (own.Node == n.name) {
				w.fail("at rest %s is %s's; %s serves it: %v", name, own.Node, n.name, is)
			}
			if from := a.takes(n, state, name); len(from) != 1 || from[0] != own.Node {
				w.fail("at rest %s is %s's; %s takes it from %v", name, own.Node, n.name, from)
			}
		}
	}
	fences, _, err := w.operator.store.Read(w.ctx, cluster.PrefixFences)
	if err != nil || len(fences) > 0 {
		w.fail("at rest there are %d fences: %v", len(fences), err)
	}
	if it, err := store.Get[*cluster.Judgement](w.ctx, w.operator.store, cluster.KeyJudgement); err == nil && (len(it.Value.Nodes) > 0 || it.Value.SafeMode != "") {
		w.fail("at rest nodes are judged: %+v", it.Value)
	}
}
