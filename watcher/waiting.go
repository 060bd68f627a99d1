package watcher

import (
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// How long a question waits for others before it is refused.
const (
	attachPatience = 15 * time.Second // for the controller
	detachPatience = 5 * time.Second  // for the host
	handPatience   = 2 * time.Second  // for the endpoint to be another's to have
	askAgain       = 2 * time.Second  // and then sees whether its request is still there
)

// answer answers the questions that can be, and reports whether that took
// attachments back.
func (a *Agent) answer(view *store.View) (changed bool) {
	var withdrawn []portID
	a.waiters = slices.DeleteFunc(a.waiters, func(w *waiter) bool {
		answer := Answer{ID: w.id}
		var done bool
		if w.attach {
			done, answer.Attached, answer.Refusal = a.answerAttach(view, w)
		} else {
			done, answer.Refusal = a.answerDetach(view, w)
		}
		switch {
		case !done:
			return false
		case answer.Refusal != nil && w.attach:
			withdrawn = append(withdrawn, w.port)
			a.log.Info("refused", zap.String("vpc", w.port.vpc), zap.String("endpoint", w.port.endpoint), zap.String("reason", answer.Refusal.Text))
		case w.attach:
			delete(a.unanswered, w.port)
		}
		a.out.Answers = append(a.out.Answers, answer)
		return true
	})
	for _, id := range withdrawn {
		changed = a.withdraw(id) || changed
	}
	return changed
}

// answerAttach is the answer to an attach, if there is one yet.
func (a *Agent) answerAttach(view *store.View, w *waiter) (done bool, _ *local.Attached, _ *local.Refusal) {
	vpc, endpoint := w.port.vpc, w.port.endpoint
	no := func(code local.Code, hint, reason string) (bool, *local.Attached, *local.Refusal) {
		return true, nil, refuse(code, hint, "attach endpoint %q: %s", endpoint, reason)
	}
	v := a.memory.VPCs[vpc]
	if v == nil || v.Leaving {
		return no(local.CodeUnavailable, "meshvpc vpc show "+vpc, "the VPC is being taken down on this host")
	}
	at, ok := v.Attachments[endpoint]
	if !ok {
		return no(local.CodeTarget, "", "its workload has ended, or it was detached or deleted meanwhile")
	}
	r := readEndpoint(view, vpc, endpoint)
	known := r.spec != nil && r.spec.State == cluster.EndpointActive
	if known && !at.Standby {
		if refusal := a.elsewhere(view, v, endpoint, r); refusal != nil {
			return true, nil, refusal
		}
	}
	state, reason := a.portState(w.port, at)
	inPlace := state == cluster.PortReady || at.Workload.Name != "" && a.host0.Attached[vpc][endpoint] ||
		state == cluster.PortStandby && (at.Standby || r.moves() && r.own != nil && r.own.Node != "" && r.own.Node != a.cfg.Node)
	switch {
	case at.lost != "":
		return no(local.CodeTarget, "", at.lost)
	case known && r.own != nil && r.own.State == cluster.OwnPending && r.own.Reason != "":
		return no(local.CodeExhausted, "meshvpc endpoint show "+endpoint, r.own.Reason)
	case a.portProblem(w.port) != "":
		return no(local.CodeTarget, "", a.portProblem(w.port))
	case a.saveErr != nil && !at.kept:
		return no(local.CodeUnavailable, "meshvpc status", "it would not outlive a restart of the agent: "+a.saveErr.Error())
	case at.kept && w.kept && inPlace:
		told := a.attached(w.port, at)
		return true, &told, nil
	case a.now.Before(w.since.Add(attachPatience)):
		if !a.now.Before(w.again) { // a controller may have refused too early what it was asked for
			a.out.Look = a.out.Look || !w.again.IsZero()
			w.again = a.now.Add(askAgain)
		}
		return false, nil, nil
	}
	if refusal := a.noStore(view, endpoint); refusal != nil {
		return true, nil, refusal
	}
	if reason == "" {
		reason = "the host's cache file has not been written for " + attachPatience.String()
	}
	return no(local.CodeUnavailable, "does a \"meshvpc server\" run? see \"meshvpc status\"", reason)
}

// answerDetach is the answer to a detach, if there is one yet.
func (a *Agent) answerDetach(view *store.View, w *waiter) (done bool, _ *local.Refusal) {
	v := a.memory.VPCs[w.port.vpc]
	if v == nil || v.Leaving {
		return true, nil
	}
	problem := a.portProblem(w.port)
	for _, p := range a.host0.Problems {
		if p.VPC == "" {
			problem = p.Reason // nobody knows what is on the host
		}
	}
	if problem != "" {
		if a.now.Before(w.since.Add(detachPatience)) {
			return false, nil
		}
		return true, refuse(local.CodeUnavailable, "it goes on by itself; see \"meshvpc status\"", "detach endpoint %q: its port is still there: %s", w.port.endpoint, problem)
	}
	if !w.kept && a.saveErr == nil {
		return false, nil
	}
	_, ended := v.Released[w.port.endpoint]
	_, stale := view.Stale()
	if w.anyway || !ended || stale != nil || !a.now.Before(w.since.Add(handPatience)) {
		return true, nil
	}
	r := readEndpoint(view, w.port.vpc, w.port.endpoint)
	return r.spec == nil || r.spec.Node == a.cfg.Node, nil
}

// portsNext is when endpoints need a pass though nothing happens.
func (a *Agent) portsNext() (next time.Time) {
	for _, w := range a.waiters {
		at := w.since.Add(attachPatience)
		for _, d := range []time.Duration{handPatience, detachPatience} {
			if t := w.since.Add(d); !w.attach && a.now.Before(t) {
				at = t
				break
			}
		}
		next = earliest(earliest(next, at), w.again)
	}
	for _, n := range a.announcements {
		next = earliest(next, n.at)
	}
	next = earliest(earliest(next, a.reopens()), a.workloadsNext())
	for _, v := range a.memory.VPCs {
		for _, at := range v.Attachments {
			next = earliest(next, at.until)
		}
	}
	if a.waitsForTarget() {
		next = earliest(next, a.now.Add(targetEvery))
	}
	return next
}
