package failover

import (
	"maps"
	"reflect"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// work is a workload at a host of the model: what its agent knows of it, on disk, and
// what is true.
type work struct {
	state    cluster.WorkloadState
	epoch    int64 // of the start
	failed   int64
	released int64
	busy     bool // a program of it runs

	runs bool // it does, whatever its agent knows
}

// Lengths of what workloads' programs do.
const (
	startTakes = 2 * time.Second
	stopTakes  = 3 * time.Second
	stopAgain  = 2 * time.Second
)

// workloads makes e1 and e2 what hosts start and stop; e1 must not run twice.
func (m *model) workloads() {
	m.work = map[string]map[string]*work{}
	for name, mode := range map[string]cluster.Mode{"e1": cluster.ModeStateful, "e2": cluster.ModeStateless} {
		e := *m.store.endpoints[name]
		e.Failover = &cluster.Failover{Mode: mode, Place: cluster.Place{"all"}, Workload: "w", MayRunTwice: mode == cluster.ModeStateless}
		m.store.endpoints[name] = &e
		m.work[name] = map[string]*work{}
		for _, n := range m.names {
			m.work[name][n] = &work{state: cluster.WorkloadUnknown}
		}
	}
	for _, n := range m.names {
		m.wake(m.hosts[n])
	}
}

// bootWork is what a host finds of its workloads when it was booted: none runs.
func (m *model) bootWork(h *host) {
	for _, of := range m.work {
		w := of[h.name]
		if w.runs, w.busy = false, false; w.state.MayRun() {
			w.state = cluster.WorkloadUnknown
		}
	}
}

// applyWork brings a workload one step nearer to what it is to be, as package watcher
// does, and reports.
func (m *model) applyWork(h *host, e *Endpoint) {
	w := m.work[e.Name][h.name]
	own := e.Own
	mine := own.Node == h.name && w.released < own.Epoch
	fenced := h.drops[h.name] && e.Failover.Stateful()
	makesWay := mine && (own.To != "" || fenced)
	granted := !e.strict() || h.granted.proved[e.Name] == own.Epoch
	delete(h.serves, e.Name)
	switch {
	case w.busy:
	case mine && granted && !makesWay && w.failed != own.Epoch && w.state == cluster.WorkloadRunning:
		w.epoch = own.Epoch
		if !h.drops[h.name] {
			h.serves[e.Name] = own.Epoch
			m.checkOpen()
		}
	case mine && granted && !makesWay && w.failed != own.Epoch && !h.drops[h.name]:
		w.state, w.epoch = cluster.WorkloadStarting, own.Epoch
		m.startWork(h, e.Name, w)
	case mine && !makesWay && w.failed != own.Epoch:
	case w.state.MayRun():
		w.state = cluster.WorkloadStopping
		if m.hasty {
			w.state = cluster.WorkloadStopped
		}
		m.stopWork(h, e.Name, w)
	}
	if makesWay && !w.state.MayRun() {
		w.released = own.Epoch
	}
	m.reportWork(h, e, w)
}

// startWork is where two must not run.
func (m *model) startWork(h *host, e string, w *work) {
	if m.store.endpoints[e].Failover.Stateful() {
		for _, other := range m.names {
			if o := m.work[e][other]; other != h.name && o.runs {
				m.problem("%s is started at %s in epoch %d, and runs at %s since epoch %d", e, h.name, w.epoch, other, o.epoch)
			}
		}
	}
	m.note("%s: start at %s in epoch %d", e, h.name, w.epoch)
	w.runs, w.busy = true, true
	fails := m.rng.IntN(8) == 0
	m.after(time.Duration(m.rng.Int64N(int64(startTakes))), m.inBoot(h, func() {
		w.busy = false
		if w.state = cluster.WorkloadRunning; fails {
			m.note("%s: fails at %s in epoch %d", e, h.name, w.epoch)
			w.failed, w.state = w.epoch, cluster.WorkloadStopping
		}
	}))
}

func (m *model) stopWork(h *host, e string, w *work) {
	w.busy = true
	takes, fails := time.Duration(m.rng.Int64N(int64(stopTakes))), m.rng.IntN(6) == 0
	if fails {
		takes += stopAgain
	}
	m.after(takes, m.inBoot(h, func() {
		w.busy = false
		if fails {
			return
		}
		m.note("%s: stopped at %s in epoch %d", e, h.name, w.epoch)
		w.runs, w.state = false, cluster.WorkloadStopped
		if w.failed == w.epoch && w.failed != 0 {
			w.state = cluster.WorkloadFailed
		}
	}))
}

// inBoot does something at a host if it was not booted anew since, and has its agent
// look.
func (m *model) inBoot(h *host, do func()) func() {
	boot := h.boot
	return func() {
		if h.up && h.boot == boot {
			do()
			m.wake(h)
		}
	}
}

func (m *model) reportWork(h *host, e *Endpoint, w *work) {
	s := &cluster.EndpointStatus{NodeID: h.name, State: cluster.PortStandby, Era: e.Own.Era, Epoch: e.Own.Epoch, Gated: e.strict(),
		Workload: &cluster.WorkloadStatus{State: w.state, Era: 1, Epoch: w.epoch}}
	_, serves := h.serves[e.Name]
	switch {
	case w.released != 0 && w.released >= e.Own.Epoch:
		s.State = cluster.PortReleased
	case serves:
		s.State = cluster.PortReady
	case e.Own.Node == h.name && w.state == cluster.WorkloadFailed && w.epoch == e.Own.Epoch:
		s.State = cluster.PortFailed
	}
	if old := e.Reports[h.name]; old != nil && reflect.DeepEqual(old, s) {
		return
	}
	m.send(h, func() {
		now := *m.store.endpoints[e.Name]
		now.Reports = maps.Clone(now.Reports)
		now.Reports[h.name] = s
		m.store.endpoints[e.Name] = &now
	})
}

// works lets faults happen to hosts that start and stop workloads, has nodes drained
// and programs fail, and looks whether in the end all runs where it is, and only there.
func (m *model) works() {
	m.workloads()
	m.settle()
	m.run(10 * time.Second)
	for range 3 {
		m.after(time.Duration(m.rng.Int64N(int64(20*time.Second))), func() {
			n := *m.nodes[m.any(true)]
			n.State = cluster.NodeDraining
			m.nodes[n.ID] = &n
			m.note("drain %s", n.ID)
			m.changed()
			m.after(m.length()*2, func() {
				n := n
				n.State = cluster.NodeActive
				m.nodes[n.ID] = &n
				m.changed()
			})
		})
	}
	m.mischief()
	m.run(2 * time.Minute) // fences are lifted, programs have been tried again
	for name, of := range m.work {
		e := m.store.endpoints[name]
		if m.exhausted(e) {
			continue
		}
		if !m.served(e) || !of[e.Own.Node].runs {
			m.problem("%s is %q's in epoch %d, which does not serve it", name, e.Own.Node, e.Own.Epoch)
		}
		for host, w := range of {
			if w.runs && host != e.Own.Node {
				m.problem("%s is at %s, and runs at %s", name, e.Own.Node, host)
			}
		}
	}
}

// exhausted reports whether a workload failed, and is left to people, or waits for
// another node that has been well for long enough, or changed its node too often.
func (m *model) exhausted(e *Endpoint) bool {
	if own := e.Own; own.Node != "" {
		moves := m.moves[e.Name]
		often := len(moves) >= maxChanges && m.now-moves[len(moves)-maxChanges] < changeWindow+10*time.Second
		return often && m.work[e.Name][own.Node].failed == own.Epoch
	}
	return e.Own.Moved != nil && len(e.Own.Moved.Failed) > 0
}

// cutOwner cuts the owner of all from store and data, long enough to be fenced, and
// lets it come back, booted anew or not.
func (m *model) cutOwner() {
	m.workloads()
	owner := m.store.endpoints["e0"].Own.Node
	m.place("e1", owner)
	m.place("e2", owner)
	m.settle()
	m.run(15 * time.Second)
	h := m.hosts[owner]
	h.cut, m.data[owner] = true, true
	m.note("cut %s", owner)
	m.track()
	m.run(2*m.t.Silence() + 2*m.t.Keepalive + m.length())
	if m.rng.IntN(2) == 0 {
		m.note("boot %s", owner)
		m.crash(owner)
		m.start(owner)
	}
	m.run(m.length())
	h.cut = false
	delete(m.data, owner)
	m.track()
	m.wake(h)
	m.changed()
	m.run(2 * time.Minute)
	if len(m.store.fences) > 0 {
		m.problem("the fence of %s stays", owner)
	}
}

// nowhere has an owner release what nobody can have: where it was to go is drained, too,
// when the owner has been asked. Then one of the two is well again, and has it.
func (m *model) nowhere() {
	m.workloads()
	m.settle()
	m.run(15 * time.Second)
	name := []string{"e0", "e1"}[m.rng.IntN(2)] // strict, and stateful
	from := m.store.endpoints[name].Own.Node
	to := m.any(true)
	for to == from {
		to = m.any(true)
	}
	for _, n := range m.names {
		if n != from && n != to && m.nodes[n].Agent {
			m.drain(n, true)
		}
	}
	m.drain(from, true)
	m.changed()
	m.until(name, func(own *cluster.EndpointOwn) bool { return own.To == to })
	m.drain(to, true)
	m.changed()
	m.until(name, func(own *cluster.EndpointOwn) bool { return own.Node == "" })
	m.run(m.length())
	well := []string{from, to}[m.rng.IntN(2)]
	m.drain(well, false)
	m.note("%s is well again", well)
	m.changed()
	m.until(name, func(own *cluster.EndpointOwn) bool { return own.Node == well })
	m.run(m.t.Grant + 10*time.Second)
	e := m.store.endpoints[name]
	if !m.exhausted(e) && !m.served(e) {
		m.problem("%s is %q's in epoch %d, which does not serve it", name, e.Own.Node, e.Own.Epoch)
	}
}

// until lets time pass until an endpoint is as is asked for, or its workload failed.
func (m *model) until(name string, is func(own *cluster.EndpointOwn) bool) {
	for end := m.now + time.Minute; !is(m.store.endpoints[name].Own) && !m.exhausted(m.store.endpoints[name]); m.run(10 * time.Millisecond) {
		if m.now > end {
			own := m.store.endpoints[name].Own
			m.problem("%s is %q's in epoch %d, to be handed to %q, a minute after it should be elsewhere", name, own.Node, own.Epoch, own.To)
			return
		}
	}
}
