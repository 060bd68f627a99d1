package watcher

import (
	"cmp"
	"fmt"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/hooks"
)

// workloadSpec is what an endpoint's spec says of its workload. The zero value: it
// has none that this host starts.
type workloadSpec struct {
	Name      string         `json:"name"`
	Stateful  bool           `json:"stateful,omitempty"`
	OpenEarly bool           `json:"open_early,omitempty"`
	Timeout   cluster.Period `json:"timeout,omitempty"`
	Check     cluster.Check  `json:"check,omitempty"`
	Every     cluster.Period `json:"every,omitempty"`
	Misses    int            `json:"misses,omitempty"`
}

func workloadOf(f *cluster.Failover) workloadSpec {
	if f.Workload == "" {
		return workloadSpec{}
	}
	return workloadSpec{f.Workload, f.Stateful(), f.OpenEarly, f.HookTimeout, f.Check, f.CheckEvery, f.CheckMisses}
}

// workload is how far an endpoint's workload is here, kept in the cache file: so a
// next agent goes on with it, and does not start again what runs. It outlives the
// attachment until it is known to have ended.
type workload struct {
	Spec  workloadSpec          `json:"spec"`
	State cluster.WorkloadState `json:"state"`
	term                        // in which it was started last
	// Failed is the last term in which it failed here, Reason why.
	Failed term     `json:"failed,omitzero"`
	Reason string   `json:"reason,omitempty"`
	BootID string   `json:"boot_id"` // in which this was so
	Env    []string `json:"env,omitempty"`

	kept   bool  // the cache file has had it as it is
	doing  int64 // the order that is being carried out; 0: none
	kind   hooks.Kind
	again  time.Time // when the next is due
	tries  int       // to stop it, in vain
	misses int       // of its check, in a row
}

// stopRetry is how long a stop that failed is waited for until it is tried again: twice
// as long after each, at most stopRetryMost.
const (
	stopRetry     = time.Second
	stopRetryMost = 30 * time.Second
)

// HookOrder is to run a program of a workload, beside the passes.
type HookOrder struct {
	ID int64
	hooks.Order
}

// HookResult is what came of an order.
type HookResult struct {
	ID  int64
	Err error
}

// wish is what is to become of a workload here.
type wish int

const (
	asItIs wish = iota
	toRun
	toStop
)

// wishOf is what is to become of an endpoint's workload, and why.
//
// It runs where its endpoint is, while nothing else is said by a record that is in
// force: no mistake in the records, no store that is away and no end of the agent
// stops it. One that failed in a term is not started in it again, nor is a stateful
// one in which this node was fenced: others may have been told so.
func (a *Agent) wishOf(v *vpc, name string, w *workload) (_ wish, why string) {
	at, attached := v.Attachments[name]
	switch {
	case a.memory.Left || v.Leaving:
		return toStop, "this host leaves the VPC"
	case !attached:
		return toStop, "nothing is attached any more"
	case at.Workload.Name != w.Spec.Name:
		return toStop, "the endpoint has another workload"
	case at.Own == nil || at.hold != "" || a.hold != "" || v.hold != "":
		return asItIs, ""
	case !v.serves(name, a.cfg.Node):
		if at.Own.Node == a.cfg.Node && at.Own.To != "" {
			return toStop, "the endpoint moves to " + at.Own.To
		}
		if !at.read {
			return asItIs, "" // it was so when the agent before this one ended
		}
		if at.Own.Node == a.cfg.Node {
			return toStop, "this node has released it"
		}
		return toStop, "the endpoint is at " + cmp.Or(at.Own.Node, "no node")
	case w.Failed == termOf(at.Own):
		return toStop, "it failed"
	case at.Workload.Stateful && a.memory.fenced(a.cfg.Node, a.cfg.NodeID) != nil:
		return toStop, "this node is fenced"
	case at.shut != "":
		return asItIs, ""
	case at.Own.Restored && w.State != cluster.WorkloadRunning:
		return asItIs, ""
	}
	return toRun, "this node is the owner"
}

// mayServe reports whether frames may pass as far as an endpoint's workload is
// concerned: it runs, in the very term.
func (v *vpc) mayServe(name string) bool {
	at := v.Attachments[name]
	if at.Workload.Name == "" || at.Own == nil {
		return true
	}
	w := v.Workloads[name]
	switch {
	case w == nil || w.Failed == termOf(at.Own) || w.Spec.Name != at.Workload.Name:
		return false
	case w.State == cluster.WorkloadRunning:
		return w.term == termOf(at.Own)
	}
	return at.Workload.OpenEarly && w.State == cluster.WorkloadStarting
}

// status is what is reported of it. The end of a stateful one is when the cache file
// has it: else the next agent might start it again, where others take it for ended.
func (w *workload) status() *cluster.WorkloadStatus {
	if w == nil {
		return nil
	}
	state := w.State
	if !state.MayRun() && !w.kept && w.Spec.Stateful {
		state = cluster.WorkloadStopping
	}
	return &cluster.WorkloadStatus{State: state, Reason: cluster.CleanText(w.Reason), Era: w.Era, Epoch: w.Epoch}
}

// waits says what a workload is waited for, for the report of its port.
func (w *workload) waits() string {
	switch {
	case w == nil:
		return "its workload has not been looked at yet"
	case w.Reason != "" && w.State.MayRun():
		return cluster.CleanText(fmt.Sprintf("its workload is %s: %s", w.State, w.Reason))
	}
	return "its workload is " + string(w.State)
}

// mayRun reports whether a workload of the VPC may run here.
func (v *vpc) mayRun() bool {
	for _, w := range v.Workloads {
		if w.State.MayRun() {
			return true
		}
	}
	return false
}

// validateWorkloads holds what was read from the cache to what could have been
// remembered.
func (v *vpc) validateWorkloads() error {
	for name, w := range v.Workloads {
		if err := cluster.CheckNodeName(name); err != nil {
			return err
		}
		if w == nil {
			return fmt.Errorf("%w workload of %s: null", cluster.ErrInvalid, name)
		}
		if err := cluster.CheckWorkloadName(w.Spec.Name); err != nil {
			return err
		}
		s := cluster.EndpointStatus{NodeID: "cache", State: cluster.PortStandby, Workload: w.status()}
		if err := s.Validate(); err != nil {
			return fmt.Errorf("workload of %s: %w", name, err)
		}
	}
	return nil
}
