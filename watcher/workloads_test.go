package watcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/hooks"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// programs are those of a host's workloads.
type programs struct {
	w    *world
	node string

	mu    sync.Mutex
	did   []string // "start 2": what was run, in which epoch
	takes map[hooks.Kind]time.Duration
	fails map[hooks.Kind]error
	env   []string // of the last
	open  []bool   // whether the port was, when one began
}

func (w *world) hooksOf(name string) Hooks {
	if p := w.hooks[name]; p != nil {
		return p
	}
	return nil
}

func (p *programs) Run(ctx context.Context, o hooks.Order) (string, error) {
	d, _ := p.w.device(p.node)
	p.mu.Lock()
	if o.Kind != hooks.Check {
		p.did = append(p.did, string(o.Kind)+" "+of(o.Env, "EPOCH"))
	}
	p.env, p.open = o.Env, append(p.open, d.Up)
	takes := p.takes[o.Kind]
	p.mu.Unlock()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-time.After(min(takes, o.Timeout)):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if takes > o.Timeout {
		return "", errors.New(string(o.Kind) + ": it took too long")
	}
	return "", p.fails[o.Kind]
}

// of is the value of a word of an environment.
func of(env []string, name string) string {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

func (p *programs) fail(kind hooks.Kind, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fails[kind] = err
}

func (p *programs) take(kind hooks.Kind, d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.takes[kind] = d
}

// ran is what was run since the last time, and whether the port was open meanwhile.
func (p *programs) ran() (did []string, open bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.did), slices.Contains(p.open, true)
}

// words are the environment of the last.
func (p *programs) words() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.env, " ")
}

// want compares what was run since the last time.
func (p *programs) want(did ...string) {
	p.w.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Equal(p.did, did) {
		p.w.t.Errorf("%s has run %q; want %q", p.node, p.did, did)
	}
	p.did, p.open = nil, nil
}

// workloadWorld is attachWorld with web1 as a workload of n1 and n2, attached at both,
// of which nobody has it yet.
func workloadWorld(t *testing.T, edit func(*cluster.Failover)) *world {
	w := attachWorld(t)
	w.hooks = map[string]*programs{}
	for _, n := range []string{"n1", "n2"} {
		w.stop[n]()
		w.hooks[n] = &programs{w: w, node: n, takes: map[hooks.Kind]time.Duration{}, fails: map[hooks.Kind]error{}}
		w.boot[n] = "boot0"
		w.start(n)
	}
	w.workload(edit)
	for _, n := range []string{"n1", "n2"} {
		if a := w.answered(w.attach(n, local.AttachRequest{Netns: w.room(n, "web1")})); a.Attached == nil {
			t.Fatalf("refused: %+v", a.Refusal)
		}
		w.hooks[n].want("stop 1") // so that it surely does not run
		w.wantState(n, cluster.WorkloadStopped, 0)
		w.wantPort(n, cluster.PortStandby, 1)
		if w.request(n) != nil {
			t.Error("it asks for what the controller gives")
		}
	}
	return w
}

// workload says what web1's is.
func (w *world) workload(edit func(*cluster.Failover)) {
	w.t.Helper()
	f := cluster.Failover{Mode: cluster.ModeStateful, Place: cluster.Place{"all"}, Workload: "web"}
	if edit != nil {
		edit(&f)
	}
	w.put(cluster.Operator, cluster.KeyEndpointSpec("vpc1", "web1"), &cluster.EndpointSpec{State: cluster.EndpointActive, Auto: true, Created: cluster.At(time.Unix(1, 0)), Failover: f})
	w.settle(time.Second)
}

// handOver has web1's owner hand it over.
func (w *world) handOver(node string, epoch int64, to string) {
	w.t.Helper()
	w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", "web1"), &cluster.EndpointOwn{State: cluster.OwnAssigned, MAC: webMAC, Node: node, Era: 1, Epoch: epoch, To: to})
	w.settle(time.Second)
}

// own1 makes a node web1's owner, and settles.
func (w *world) own1(node string, epoch int64) {
	w.t.Helper()
	w.owner("web1", node, epoch)
	w.settle(time.Second)
}

// wantState compares the report about web1's workload.
func (w *world) wantState(node string, state cluster.WorkloadState, epoch int64) {
	w.t.Helper()
	s := w.port(node)
	if s == nil || s.Workload == nil || s.Workload.State != state || s.Workload.Epoch != epoch {
		w.t.Errorf("%s reports %s; want its workload %s in epoch %d", node, told(s), state, epoch)
	}
}

func told(s *cluster.EndpointStatus) string {
	if s == nil || s.Workload == nil {
		return fmt.Sprintf("%+v", s)
	}
	return fmt.Sprintf("%s (%s), its workload %+v", s.State, s.Reason, *s.Workload)
}

// TestWorkloadFollowsItsEndpoint: grant, start, open; and close, stop.
func TestWorkloadFollowsItsEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		a, b := w.hooks["n1"], w.hooks["n2"]
		a.take(hooks.Start, 5*time.Second)
		w.own1("n1", 2)
		w.wantState("n1", cluster.WorkloadStarting, 2)
		w.wantPort("n1", cluster.PortStandby, 2)
		w.wantDevice("n1", true, false)
		if got := a.words(); got != "EP=web1 VPC=vpc1 ERA=1 EPOCH=2 IP=10.10.11.1,fd00:11::1 MAC="+webMAC.String()+" ROLE=owner REASON=this node is the owner" {
			t.Errorf("environment %q", got)
		}
		w.settle(5 * time.Second)
		w.wantState("n1", cluster.WorkloadRunning, 2)
		w.wantPort("n1", cluster.PortReady, 2)
		w.wantDevice("n1", true, true)
		a.want("start 2")

		w.own1("n1", 3) // the same owner goes on
		w.wantDevice("n1", true, true)
		w.wantState("n1", cluster.WorkloadRunning, 3)
		a.want()

		w.own1("n2", 4)
		if _, open := a.ran(); open {
			t.Error("it was stopped while its port was open")
		}
		a.want("stop 2")
		b.want("start 4")
		w.wantState("n1", cluster.WorkloadStopped, 3)
		w.wantPort("n1", cluster.PortStandby, 4)
		w.wantDevice("n1", true, false)
		w.wantDevice("n2", true, true)
	})
}

// TestWorkloadIsAdopted: by the next agent, which starts nothing again; after a reboot
// it is started, if it still is this node's, and else stopped.
func TestWorkloadIsAdopted(t *testing.T) {
	for name, tt := range map[string]struct {
		reboot, lost bool
		did          []string
		state        cluster.WorkloadState
	}{
		"the next agent":        {false, false, nil, cluster.WorkloadRunning},
		"the next, not its":     {false, true, []string{"stop 2"}, cluster.WorkloadStopped},
		"after a reboot":        {true, false, []string{"start 2"}, cluster.WorkloadRunning},
		"a reboot, and not its": {true, true, []string{"stop 2"}, cluster.WorkloadStopped},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := workloadWorld(t, nil)
				defer w.close()
				w.own1("n1", 2)
				w.hooks["n1"].want("start 2")
				writes := w.hosts["n1"].Writes()
				w.stop["n1"]()
				w.hooks["n1"].want() // its end stops nothing
				if tt.reboot {
					w.boot["n1"] = "boot1"
					w.hosts["n1"].PowerCycle()
					w.room("n1", "web1")
				}
				w.away = true // and nothing happens as long as nobody knows whose it is
				w.start("n1")
				w.settle(time.Minute)
				w.hooks["n1"].want()
				w.wantDevice("n1", true, !tt.reboot)
				w.stop["n1"]()
				w.away = false
				if tt.lost {
					w.owner("web1", "n2", 3)
				}
				w.start("n1")
				w.settle(time.Minute)
				w.hooks["n1"].want(tt.did...)
				w.wantState("n1", tt.state, 2)
				w.wantDevice("n1", true, !tt.lost)
				if n := w.hosts["n1"].Writes() - writes; !tt.reboot && !tt.lost && n != 0 {
					t.Errorf("%d writes to a host that was as it should be", n)
				}
			})
		})
	}
}

// TestStartIsInterrupted: an agent that ended while a start ran has it run again.
func TestStartIsInterrupted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		w.hooks["n1"].take(hooks.Start, 20*time.Second)
		w.own1("n1", 2)
		w.stop["n1"]()
		w.start("n1")
		w.settle(time.Second)
		w.hooks["n1"].want("start 2", "start 2")
		w.settle(20 * time.Second)
		w.wantState("n1", cluster.WorkloadRunning, 2)
	})
}

// TestWorkloadFails: what fails is stopped, says so, and is not started again before
// the controller says so anew.
func TestWorkloadFails(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(p *programs)
		did   []string
		says  string
	}{
		"to start":  {func(p *programs) { p.fail(hooks.Start, errors.New("start: exit status 1: no disk")) }, []string{"start 2", "stop 2"}, "start: exit status 1: no disk"},
		"it hangs":  {func(p *programs) { p.take(hooks.Start, time.Hour) }, []string{"start 2", "stop 2"}, "start: it took too long"},
		"its check": {func(p *programs) { p.fail(hooks.Check, errors.New("check: exit status 1")) }, []string{"start 2", "stop 2"}, "check: exit status 1, 3 times"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := workloadWorld(t, func(f *cluster.Failover) { f.Check = cluster.CheckExec })
				defer w.close()
				p := w.hooks["n1"]
				tt.spoil(p)
				w.own1("n1", 2)
				w.settle(time.Minute)
				p.want(tt.did...)
				w.wantState("n1", cluster.WorkloadFailed, 2)
				w.wantPort("n1", cluster.PortFailed, 2)
				w.wantDevice("n1", true, false)
				if s := w.port("n1"); !strings.Contains(s.Reason, tt.says) || !strings.Contains(s.Workload.Reason, tt.says) {
					t.Errorf("%s; want %q", told(s), tt.says)
				}
				w.stop["n1"]() // nor by the next agent
				w.start("n1")
				w.settle(time.Minute)
				p.want()
				w.wantState("n1", cluster.WorkloadFailed, 2)

				p.fail(hooks.Start, nil)
				p.fail(hooks.Check, nil)
				p.take(hooks.Start, 0)
				w.own1("n1", 3)
				w.settle(time.Minute)
				p.want("start 3")
				w.wantState("n1", cluster.WorkloadRunning, 3)
			})
		})
	}
}

// TestOneMissIsNone: a check that is well again counts anew.
func TestOneMissIsNone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, func(f *cluster.Failover) {
			f.Check, f.CheckEvery, f.CheckMisses = cluster.CheckExec, cluster.Period(2*time.Second), 2
		})
		defer w.close()
		w.own1("n1", 2)
		for range 5 {
			w.hooks["n1"].fail(hooks.Check, errors.New("check: no"))
			w.settle(2 * time.Second)
			w.hooks["n1"].fail(hooks.Check, nil)
			w.settle(2 * time.Second)
		}
		w.hooks["n1"].want("start 2")
		w.wantState("n1", cluster.WorkloadRunning, 2)
	})
}

// TestHungProgramHoldsNothingUp: not the agent, and not for longer than its time.
func TestHungProgramHoldsNothingUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, func(f *cluster.Failover) { f.HookTimeout = cluster.Period(10 * time.Second) })
		defer w.close()
		w.hooks["n1"].take(hooks.Start, time.Hour)
		w.own1("n1", 2)
		w.own1("n2", 3)
		w.wantPort("n1", cluster.PortStandby, 3) // it has read that, and said so
		w.wantState("n1", cluster.WorkloadStarting, 2)
		w.settle(10 * time.Second)
		w.hooks["n1"].want("start 2", "stop 2")
		w.wantState("n1", cluster.WorkloadFailed, 2)
	})
}

// TestHandOver: an owner that is to hand over closes, stops, and then says that this
// epoch is over; for good.
func TestHandOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		p := w.hooks["n1"]
		w.own1("n1", 2)
		p.want("start 2")
		p.fail(hooks.Stop, errors.New("stop: busy"))
		w.handOver("n1", 2, "n2")
		w.wantDevice("n1", true, false)
		if _, open := p.ran(); open {
			t.Error("it was stopped while its port was open")
		}
		w.wantPort("n1", cluster.PortFailed, 2)
		w.wantState("n1", cluster.WorkloadStopping, 2)
		if s := w.port("n1"); !strings.Contains(s.Reason, "stop: busy") {
			t.Error(told(s))
		}
		w.settle(time.Minute) // it is tried again, not too often
		did, _ := p.ran()
		if n := len(did); n < 4 || n > 8 {
			t.Errorf("%d times in a minute: %q", n, did)
		}
		p.fail(hooks.Stop, nil)
		w.settle(time.Minute)
		w.wantPort("n1", cluster.PortReleased, 2)
		w.wantState("n1", cluster.WorkloadStopped, 2)
		did, _ = p.ran()
		p.want(did...)
		w.handOver("n1", 2, "") // too late
		w.stop["n1"]()
		w.start("n1")
		w.settle(time.Minute)
		p.want()
		w.wantPort("n1", cluster.PortReleased, 2)
		w.own1("n1", 3)
		p.want("start 3")
		w.wantPort("n1", cluster.PortReady, 3)
	})
}

// TestFencedStatefulIsOver: what may not run twice ends where its node is fenced.
func TestFencedStatefulIsOver(t *testing.T) {
	for name, stateful := range map[string]bool{"stateful": true, "may run twice": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := workloadWorld(t, func(f *cluster.Failover) {
					if !stateful {
						f.Mode, f.MayRunTwice = cluster.ModeStateless, true
					}
				})
				defer w.close()
				w.own1("n1", 2)
				w.fence(1)
				w.settle(time.Minute)
				w.wantDevice("n1", true, false)
				if stateful {
					w.hooks["n1"].want("start 2", "stop 2")
					w.wantPort("n1", cluster.PortReleased, 2)
				} else {
					w.hooks["n1"].want("start 2")
					w.wantPort("n1", cluster.PortStandby, 2)
				}
			})
		})
	}
}

// TestDetachStopsFirst: nothing is released before the workload has ended.
func TestDetachStopsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		w.own1("n1", 2)
		w.hooks["n1"].want("start 2")
		w.hooks["n1"].take(hooks.Stop, 20*time.Second)
		w.detach("n1", local.DetachRequest{Endpoint: "web1"})
		w.wantState("n1", cluster.WorkloadStopping, 2)
		w.wantPort("n1", cluster.PortFailed, 2)
		w.settle(20 * time.Second)
		w.hooks["n1"].want("stop 2")
		w.wantPort("n1", cluster.PortReleased, 2)
	})
}

// TestLeavingStopsFirst: a VPC is not left while something of it may run.
func TestLeavingStopsFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		w.own1("n1", 2)
		w.hooks["n1"].take(hooks.Stop, 20*time.Second)
		w.put(cluster.Controller, cluster.KeyHostVPC("n1", "vpc1"), &cluster.HostVPC{State: cluster.AssignedLeaving})
		w.settle(10 * time.Second)
		if s := w.status("n1"); s.State == cluster.HostLeft {
			t.Errorf("it says %s, and its workload runs", s.State)
		}
		w.settle(time.Minute)
		if s := w.status("n1"); s.State != cluster.HostLeft {
			t.Errorf("it says %s (%s)", s.State, s.Reason)
		}
		w.hooks["n1"].want("start 2", "stop 2")
	})
}

// TestRestoredStartsNothing: where a store went back in time, another node may have
// had the workload since. What runs goes on.
func TestRestoredStartsNothing(t *testing.T) {
	for name, runs := range map[string]bool{"it runs": true, "it does not": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := workloadWorld(t, nil)
				defer w.close()
				if runs {
					w.own1("n1", 2)
					w.hooks["n1"].want("start 2")
				}
				w.put(cluster.Controller, cluster.KeyEndpointOwn("vpc1", "web1"), &cluster.EndpointOwn{State: cluster.OwnAssigned, MAC: webMAC, Node: "n1", Era: 2, Epoch: 3, Restored: true})
				w.settle(time.Minute)
				w.hooks["n1"].want()
				w.wantDevice("n1", true, runs)
			})
		})
	}
}

// TestSavedFirst: a start waits for the cache file, and so does the word that it ended.
func TestSavedFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		w.stop["n1"]()
		disk := make(chan struct{}, 1000) // has as much room as there are words in it
		w.save = func(path string, b []byte) error {
			<-disk
			return saveCache(path, b)
		}
		w.start("n1")
		w.own1("n1", 2)
		w.settle(time.Minute)
		w.hooks["n1"].want()
		disk <- struct{}{}
		disk <- struct{}{}
		disk <- struct{}{}
		w.settle(time.Second)
		w.hooks["n1"].want("start 2")
		for len(disk) > 0 {
			<-disk
		}
		w.handOver("n1", 2, "n2")
		w.settle(time.Minute)
		w.hooks["n1"].want("stop 2")
		if s := w.port("n1"); s.State == cluster.PortReleased || !s.Workload.MayRun() {
			t.Errorf("%s, and the next agent would not know", told(s))
		}
		for range 10 {
			disk <- struct{}{}
		}
		w.settle(time.Second)
		w.wantPort("n1", cluster.PortReleased, 2)
		w.wantState("n1", cluster.WorkloadStopped, 2)
		for range 100 {
			disk <- struct{}{}
		}
	})
}

// TestUnsavedIsNotStarted: what no next agent would know of is not started.
func TestUnsavedIsNotStarted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := workloadWorld(t, nil)
		defer w.close()
		full := true
		w.stop["n1"]()
		var mu sync.Mutex
		w.save = func(path string, b []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if full {
				return errors.New("disk full")
			}
			return saveCache(path, b)
		}
		w.start("n1")
		w.own1("n1", 2)
		w.settle(time.Minute)
		w.hooks["n1"].want()
		if s := w.port("n1"); !strings.Contains(s.Reason, "disk full") || !s.Workload.MayRun() {
			t.Error(told(s))
		}
		mu.Lock()
		full = false
		mu.Unlock()
		w.settle(time.Minute)
		w.hooks["n1"].want()
		w.wantState("n1", cluster.WorkloadFailed, 2)
	})
}
