package watcher

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/hooks"
)

// moveWorkloads takes what came of orders, and brings each workload a step nearer to
// what it is to be. It reports whether memory changed by that.
func (a *Agent) moveWorkloads(in Input) (changed bool) {
	for _, r := range in.Hooked {
		changed = a.hooked(r) || changed
	}
	for _, vpc := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
		v := a.memory.VPCs[vpc]
		for name, at := range v.Attachments {
			if w := v.Workloads[name]; w == nil && at.Workload.Name != "" {
				v.meet(name, at.Workload, a.cfg.BootID)
				changed = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(v.Workloads)) {
			changed = a.moveWorkload(portID{vpc, name}, in) || changed
		}
	}
	return changed
}

// meet takes a workload into memory of which nobody knows whether it runs.
func (v *vpc) meet(name string, spec workloadSpec, boot string) {
	if v.Workloads == nil {
		v.Workloads = map[string]*workload{}
	}
	v.Workloads[name] = &workload{Spec: spec, State: cluster.WorkloadUnknown, BootID: boot}
}

// moveWorkload is moveWorkloads for one.
func (a *Agent) moveWorkload(id portID, in Input) (changed bool) {
	v := a.memory.VPCs[id.vpc]
	w := v.Workloads[id.endpoint]
	at, attached := v.Attachments[id.endpoint]
	if w.BootID != a.cfg.BootID { // what ran has ended, and something else may have started it
		if w.BootID, changed = a.cfg.BootID, true; w.State.MayRun() {
			w.State = cluster.WorkloadUnknown
		}
	}
	if attached && at.Workload.Name == w.Spec.Name && at.Workload != w.Spec {
		w.Spec, changed = at.Workload, true
	}
	if w.doing != 0 {
		return changed
	}
	switch want, why := a.wishOf(v, id.endpoint, w); want {
	case toRun:
		changed = a.run(id, w, at, why, in) || changed
	case toStop:
		changed = a.end(id, w, why) || changed
	}
	return changed
}

// run starts a workload, or sees whether it is well. That it is being started is in
// the cache file before: else the next agent might not stop it.
func (a *Agent) run(id portID, w *workload, at attachment, why string, in Input) (changed bool) {
	now := termOf(at.Own)
	switch {
	case w.State == cluster.WorkloadRunning:
		if w.term != now {
			w.term, changed = now, true
		}
		if w.Spec.Check != "" && !a.now.Before(w.again) {
			w.again = a.now.Add(w.Spec.Every.Or(cluster.CheckEvery))
			a.order(id, w, hooks.Check, "owner", "is it well")
		}
		return changed
	case w.State != cluster.WorkloadStarting || w.term != now:
		w.State, w.term, w.Reason, w.kept = cluster.WorkloadStarting, now, "", false
		w.Env = environmentOf(id, at.Own)
		return true
	case !w.kept && in.Saved && in.SaveErr != nil:
		w.State, w.Failed, w.Reason = cluster.WorkloadFailed, now, "it is not started, as the cache file cannot be written: "+in.SaveErr.Error()
		return true
	case !w.kept:
		return false
	}
	a.order(id, w, hooks.Start, "owner", why)
	return false
}

// end stops a workload that may run, and forgets one that has ended and is nobody's.
func (a *Agent) end(id portID, w *workload, why string) (changed bool) {
	v := a.memory.VPCs[id.vpc]
	if w.State.MayRun() {
		if w.State != cluster.WorkloadStopping {
			w.State, changed, w.tries, w.again = cluster.WorkloadStopping, true, 0, time.Time{}
		}
		if !a.now.Before(w.again) {
			a.order(id, w, hooks.Stop, "standby", why)
		}
		return changed
	}
	if w.Spec.Stateful && !w.kept { // the cache file is to have its end before anybody is told
		return false
	}
	at, attached := v.Attachments[id.endpoint]
	if !attached || at.Workload.Name != w.Spec.Name {
		delete(v.Workloads, id.endpoint)
		return true
	}
	if !v.owns(id.endpoint, a.cfg.Node) {
		return false
	}
	if makesWay := at.Own.To != "" || at.Workload.Stateful && a.memory.fenced(a.cfg.Node, a.cfg.NodeID) != nil; makesWay {
		return v.release(id.endpoint, a.cfg.Node, at.Own, at.Created)
	}
	return false
}

// order has a program of a workload run.
func (a *Agent) order(id portID, w *workload, kind hooks.Kind, role, why string) {
	a.orders++
	w.doing, w.kind = a.orders, kind
	o := hooks.Order{Workload: w.Spec.Name, Kind: kind, Timeout: w.Spec.Timeout.Or(cluster.HookTimeout)}
	o.Env = append(append(o.Env, w.Env...), "ROLE="+role, "REASON="+cluster.CleanText(why))
	if len(w.Env) == 0 {
		o.Env = append(environmentOf(id, a.memory.VPCs[id.vpc].Attachments[id.endpoint].Own), o.Env...)
	}
	if kind == hooks.Stop && len(w.Env) == 0 { // it never ran here: could it?
		o.With = []hooks.Kind{hooks.Start}
		if w.Spec.Check == cluster.CheckExec {
			o.With = append(o.With, hooks.Check)
		}
	}
	if kind != hooks.Check {
		a.log.Info("workload is to "+string(kind), zap.String("vpc", id.vpc), zap.String("endpoint", id.endpoint), zap.String("workload", w.Spec.Name), zap.String("reason", why))
	}
	a.out.Hooks = append(a.out.Hooks, HookOrder{w.doing, o})
}

// environmentOf is what a workload's programs are told of its endpoint.
func environmentOf(id portID, own *cluster.EndpointOwn) []string {
	env := []string{"EP=" + id.endpoint, "VPC=" + id.vpc}
	if own == nil {
		return append(env, "ERA=0", "EPOCH=0", "IP=", "MAC=")
	}
	var ips []string
	for _, ip := range own.IPs {
		ips = append(ips, ip.String())
	}
	return append(env, "ERA="+strconv.FormatInt(own.Era, 10), "EPOCH="+strconv.FormatInt(own.Epoch, 10), "IP="+strings.Join(ips, ","), "MAC="+own.MAC.String())
}

// hooked takes what came of an order.
func (a *Agent) hooked(r HookResult) (changed bool) {
	for vpc, v := range a.memory.VPCs {
		for name, w := range v.Workloads {
			if w.doing == 0 || w.doing != r.ID {
				continue
			}
			w.doing = 0
			log := a.log.With(zap.String("vpc", vpc), zap.String("endpoint", name), zap.String("workload", w.Spec.Name))
			switch w.kind {
			case hooks.Start:
				a.hasStarted(portID{vpc, name}, w, r.Err, log)
			case hooks.Stop:
				a.hasStopped(w, r.Err, log)
			default:
				return a.checked(w, r.Err, log)
			}
			return true
		}
	}
	return false
}

func (a *Agent) hasStarted(id portID, w *workload, err error, log *zap.Logger) {
	if err != nil {
		log.Warn("workload failed to start", zap.Error(err))
		w.Failed, w.Reason = w.term, err.Error()
		return // wishOf has it stopped
	}
	log.Info("workload runs", zap.Int64("epoch", w.Epoch))
	w.State, w.Reason, w.misses = cluster.WorkloadRunning, "", 0
	w.again = a.now.Add(w.Spec.Every.Or(cluster.CheckEvery))
	if v := a.memory.VPCs[id.vpc]; v.serves(id.endpoint, a.cfg.Node) {
		a.came(id)
	}
}

// hasStopped takes what came of a stop. What has failed in its term says so until it is
// started in another.
func (a *Agent) hasStopped(w *workload, err error, log *zap.Logger) {
	if err != nil {
		log.Warn("workload cannot be stopped, will retry", zap.Error(err))
		w.again = a.now.Add(min(stopRetry<<min(w.tries, 10), stopRetryMost))
		w.tries++
		w.Reason = err.Error()
		return
	}
	log.Info("workload has stopped", zap.Int64("epoch", w.Epoch))
	w.State, w.kept = cluster.WorkloadStopped, false
	if w.Failed == w.term && w.Failed != (term{}) {
		w.State = cluster.WorkloadFailed
	} else {
		w.Reason = ""
	}
}

// checked takes what came of a check, and reports whether the workload has failed.
func (a *Agent) checked(w *workload, err error, log *zap.Logger) (failed bool) {
	if err == nil {
		w.misses = 0
		return false
	}
	w.misses++
	most := w.Spec.Misses
	if most == 0 {
		most = cluster.CheckMisses
	}
	log.Warn("workload is not well", zap.Int("misses", w.misses), zap.Int("most", most), zap.Error(err))
	if w.misses < most {
		return false
	}
	w.Failed, w.Reason = w.term, fmt.Sprintf("%v, %d times", err, w.misses)
	return true
}

// workloadsNext is when workloads need a pass though nothing happens.
func (a *Agent) workloadsNext() (next time.Time) {
	for _, v := range a.memory.VPCs {
		for _, w := range v.Workloads {
			if w.doing == 0 && (w.State == cluster.WorkloadStopping || w.State == cluster.WorkloadRunning && w.Spec.Check != "") {
				next = earliest(next, w.again)
			}
		}
	}
	return next
}
