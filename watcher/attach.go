package watcher

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher/local"
)

// Question is what a client asks of the agent. One of Attach and Detach is set.
type Question struct {
	ID     int64 // of the client's choice, never the same again
	Attach *local.AttachRequest
	Detach *local.DetachRequest
}

// Answer is what came of a question: a refusal, or, of an attach, a port.
type Answer struct {
	ID       int64
	Attached *local.Attached
	Refusal  *local.Refusal
}

// waiter is a question that is not answered yet.
type waiter struct {
	id     int64
	port   portID
	attach bool
	anyway bool // a detach that waits for nobody but the host
	since  time.Time
	again  time.Time // when to see whether the request is still there
	kept   bool      // the cache file has what it changed, or cannot
}

// refuse makes a refusal. Its hint may be empty.
func refuse(code local.Code, hint, format string, args ...any) *local.Refusal {
	return &local.Refusal{Code: code, Text: cluster.CleanText(fmt.Sprintf(format, args...)), Hint: hint}
}

// ask takes questions, and reports whether memory changed by them.
func (a *Agent) ask(ctx context.Context, in Input) (changed bool) {
	for _, id := range in.Gone {
		changed = a.giveUp(id) || changed
	}
	for _, q := range in.Questions {
		w := &waiter{id: q.ID, since: a.now}
		var refusal *local.Refusal
		var did bool
		if q.Attach != nil {
			did, refusal = a.attach(ctx, in.View, w, *q.Attach)
		} else {
			did, refusal = a.detach(in.View, w, *q.Detach)
		}
		changed = changed || did
		if refusal != nil {
			a.out.Answers = append(a.out.Answers, Answer{ID: q.ID, Refusal: refusal})
			continue
		}
		w.kept = !did && in.Saved && !changed
		a.waiters = append(a.waiters, w)
	}
	return changed
}

// giveUp forgets a question whose client went away, and what it had begun.
func (a *Agent) giveUp(id int64) (changed bool) {
	i := slices.IndexFunc(a.waiters, func(w *waiter) bool { return w.id == id })
	if i < 0 {
		return false
	}
	w := a.waiters[i]
	a.waiters = slices.Delete(a.waiters, i, i+1)
	return w.attach && a.withdraw(w.port)
}

// withdraw takes an attachment back that no question waits for any more and that
// none was answered about.
func (a *Agent) withdraw(id portID) (changed bool) {
	if !a.unanswered[id] || slices.ContainsFunc(a.waiters, func(w *waiter) bool { return w.attach && w.port == id }) {
		return false
	}
	delete(a.unanswered, id)
	v := a.memory.VPCs[id.vpc]
	if v == nil {
		return false
	}
	at, ok := v.Attachments[id.endpoint]
	if !ok {
		return false
	}
	v.end(id.endpoint, a.cfg.Node, a.now)
	if at.made {
		v.wantDelete(id.endpoint)
	}
	return true
}

// wantDelete has an endpoint deleted that this host asked for.
func (v *vpc) wantDelete(endpoint string) {
	if v.Deletes == nil {
		v.Deletes = map[string]bool{}
	}
	v.Deletes[endpoint] = true
}

// attach decides about a question, with nothing done but to memory.
func (a *Agent) attach(ctx context.Context, view *store.View, w *waiter, q local.AttachRequest) (changed bool, _ *local.Refusal) {
	at, refusal := attachmentOf(q)
	if refusal != nil {
		return false, refusal
	}
	vpc, refusal := a.vpcOfQuestion(view, q)
	if refusal != nil {
		return false, refusal
	}
	v := a.memory.VPCs[vpc]
	w.attach, w.port = true, portID{vpc, q.Endpoint}
	if r := readEndpoint(view, vpc, q.Endpoint); r.spec == nil && q.Create && q.Endpoint == cluster.GatewayEndpoint {
		return false, refuse(local.CodeInvalid, "choose another name", "attach endpoint %q: the name is for the VPC's gateway of mode active", q.Endpoint)
	} else if r.spec != nil && r.spec.Failover.Mode == cluster.ModeVIP || v.Attachments[q.Endpoint].Kind == hostops.PortVIP {
		return false, refuseVIP("attach", vpc, q.Endpoint)
	}
	if old, ok := v.Attachments[q.Endpoint]; ok && a.lookAt(ctx, &old) { // of a process that has ended
		v.end(q.Endpoint, a.cfg.Node, a.now)
		changed = true
	} else if ok {
		return a.attachAgain(v, q, old, at)
	}
	if refusal := a.mayAttach(view, vpc, q); refusal != nil {
		return changed, refusal
	}
	if refusal := a.fits(ctx, vpc, q.Endpoint, &at); refusal != nil {
		return changed, refusal
	}
	r := readEndpoint(view, vpc, q.Endpoint)
	at.made = r.spec == nil || r.spec.State == cluster.EndpointDeleting
	if !at.made {
		at.absorb(r, a.cfg.Node)
	}
	v.attach(q.Endpoint, at)
	a.unanswered[w.port] = true
	a.log.Info("attaching", zap.String("vpc", vpc), zap.String("endpoint", q.Endpoint), zap.Stringer("to", at))
	return true, nil
}

// attachAgain is about an endpoint that is attached already, or about to be.
func (a *Agent) attachAgain(v *vpc, q local.AttachRequest, old, at attachment) (changed bool, _ *local.Refusal) {
	if !old.sameTarget(at) {
		with := ""
		if old.Trusted {
			with = ", trusted"
		}
		if old.NoGateway {
			with += ", without the gateway"
		}
		return false, refuse(local.CodeTaken, "meshvpc endpoint detach "+q.Endpoint, "attach endpoint %q: it is attached already, to %s%s", q.Endpoint, old, with)
	}
	if old.lost != "" {
		return false, refuse(local.CodeTarget, "", "attach endpoint %q: %s", q.Endpoint, old.lost)
	}
	if old.Standby && !q.Standby {
		old.Standby, changed = false, true
		v.Attachments[q.Endpoint] = old
	}
	return changed, nil
}

// attachmentOf reads what is asked for.
func attachmentOf(q local.AttachRequest) (attachment, *local.Refusal) {
	at := attachment{Trusted: q.Trust, NoGateway: q.NoGateway, Standby: q.Standby, Create: q.Create, For: q.For}
	targets := 0
	for _, t := range []string{q.Netns, q.Tap, q.Device} {
		if t != "" {
			targets++
		}
	}
	switch {
	case targets != 1:
		return at, refuse(local.CodeInvalid, "", "attach endpoint: want exactly one of a network namespace, a tap and a device")
	case q.Netns != "":
		at.Kind, at.Target, at.Inner = hostops.PortNetns, filepath.Clean(q.Netns), cmp.Or(q.Inner, "eth0")
	case q.Tap != "":
		at.Kind, at.Target, at.Owner = hostops.PortTap, q.Tap, -1
	default:
		at.Kind, at.Target = hostops.PortDevice, q.Device
	}
	if q.TapOwner != nil {
		at.Owner = *q.TapOwner
	}
	switch {
	case at.Kind != hostops.PortNetns && (q.Inner != "" || q.NoGateway), at.Kind != hostops.PortTap && q.TapOwner != nil:
		return at, refuse(local.CodeInvalid, "", "attach endpoint: only a device in a namespace has an inner name and default routes, and only a tap an owner")
	case at.Owner < -1 || at.Owner > 1<<32-2:
		return at, refuse(local.CodeInvalid, "", "attach endpoint: owner %d of a tap: want a user's number", at.Owner)
	case cluster.CleanText(at.For) != at.For:
		return at, refuse(local.CodeInvalid, "", "attach endpoint: for whom it is: want at most 400 bytes without control characters")
	}
	if err := at.validate(q.Endpoint); err != nil {
		return at, refuse(local.CodeInvalid, "", "attach endpoint: %v", err)
	}
	return at, nil
}

// vpcOfQuestion is the VPC that an endpoint is to be attached in, which has a
// part on this host.
func (a *Agent) vpcOfQuestion(view *store.View, q local.AttachRequest) (string, *local.Refusal) {
	name := q.VPC
	if name == "" {
		if q.Create {
			return "", refuse(local.CodeInvalid, "", "attach endpoint %q: to make it, the VPC has to be named", q.Endpoint)
		}
		var in []string
		for _, vpc := range slices.Sorted(maps.Keys(a.memory.VPCs)) {
			_, attached := a.memory.VPCs[vpc].Attachments[q.Endpoint]
			if attached || !readEndpoint(view, vpc, q.Endpoint).none {
				in = append(in, vpc)
			}
		}
		switch {
		case len(in) > 1:
			return "", refuse(local.CodeInvalid, "say which by --vpc", "attach endpoint %q: it is in several VPCs: %s", q.Endpoint, andMore(in))
		case len(in) == 0 && len(a.memory.VPCs) == 0:
			return "", refuse(local.CodeNotFound, "see \"meshvpc vpc list\"", "attach endpoint %q: this host has a part in no VPC", q.Endpoint)
		case len(in) == 0:
			return "", a.noSuchEndpoint(view, q.Endpoint, "E")
		}
		name = in[0]
	}
	v := a.memory.VPCs[name]
	switch {
	case v == nil || v.Leaving:
		return "", refuse(local.CodeNotFound, "see \"meshvpc vpc list\" and its members", "attach endpoint %q: VPC %q has no part on this host", q.Endpoint, name)
	case v.Members == nil:
		return "", refuse(local.CodeUnavailable, "try it again", "attach endpoint %q: the records of VPC %s have not been read yet", q.Endpoint, name)
	}
	return name, nil
}

// noSuchEndpoint is said of an endpoint that no record tells of.
func (a *Agent) noSuchEndpoint(view *store.View, endpoint, vpc string) *local.Refusal {
	if refusal := a.noStore(view, endpoint); refusal != nil {
		return refusal
	}
	return refuse(local.CodeNotFound, fmt.Sprintf("make it with \"meshvpc endpoint create %s --vpc %s\", or see \"meshvpc endpoint list\"", endpoint, vpc),
		"attach endpoint %q: there is no such endpoint in a VPC of this host", endpoint)
}

// noStore is said while the store cannot be reached.
func (a *Agent) noStore(view *store.View, endpoint string) *local.Refusal {
	since, err := view.Stale()
	if err == nil {
		return nil
	}
	return refuse(local.CodeUnavailable, "what is attached goes on; see \"meshvpc status\"", "attach endpoint %q: no store since %s: %v",
		endpoint, since.UTC().Format(time.RFC3339), err)
}

// mayAttach sees whether this host may have the endpoint.
func (a *Agent) mayAttach(view *store.View, vpc string, q local.AttachRequest) *local.Refusal {
	v, me := a.memory.VPCs[vpc], a.cfg.Node
	hold := cmp.Or(a.hold, v.hold)
	switch {
	case hold != "":
		return refuse(local.CodeUnavailable, "meshvpc status", "attach endpoint %q: %s", q.Endpoint, hold)
	case a.memory.Left:
		return refuse(local.CodeNotFound, "", "attach endpoint %q: this node has left the cluster", q.Endpoint)
	}
	if refusal := a.noStore(view, q.Endpoint); refusal != nil {
		return refusal
	}
	if !a.host0.Ready[vpc] {
		return refuse(local.CodeUnavailable, "meshvpc vpc status "+vpc, "attach endpoint %q: VPC %s is not up on this host%s", q.Endpoint, vpc, because(a.status(vpc).Reason))
	}
	r := readEndpoint(view, vpc, q.Endpoint)
	switch {
	case q.Create && (r.spec == nil || r.spec.State == cluster.EndpointDeleting):
		return nil
	case r.spec == nil && r.own == nil:
		return a.noSuchEndpoint(view, q.Endpoint, vpc)
	case r.spec != nil && r.spec.State == cluster.EndpointDeleting:
		return refuse(local.CodeNotFound, "", "attach endpoint %q: it is being deleted", q.Endpoint)
	case r.spec == nil && r.own != nil && r.own.Node != me:
		return refuse(local.CodeUnavailable, "meshvpc endpoint show "+q.Endpoint, "attach endpoint %q: its spec is gone", q.Endpoint)
	case q.Standby:
		return nil
	}
	return a.elsewhere(view, v, q.Endpoint, r)
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// elsewhere says why an endpoint is another node's, if it is. One that moves by
// itself may be attached at each of its places, whoever has it.
func (a *Agent) elsewhere(view *store.View, v *vpc, endpoint string, r endpointRecords) *local.Refusal {
	me, spec, own := a.cfg.Node, r.spec, r.own
	move := fmt.Sprintf("meshvpc endpoint move %s --node %s", endpoint, me)
	switch {
	case r.moves():
		if n, ok := store.At[*cluster.Node](view, cluster.KeyNode(me)); ok {
			if _, ok := spec.Failover.Place.Rank(me, n.Value); !ok {
				return refuse(local.CodeElsewhere, "choose a node that is", "attach endpoint %q: %s is none of its places %s", endpoint, me, spec.Failover.Place)
			}
		}
	case spec != nil && spec.Node != "" && spec.Node != me:
		return refuse(local.CodeElsewhere, move, "attach endpoint %q: it is bound to the node %s", endpoint, spec.Node)
	case own != nil && own.Node != "" && own.Node != me && v.Members[own.Node] != nil:
		return refuse(local.CodeElsewhere, move+", or attach it here with --standby before that", "attach endpoint %q: it is the node %s that has it", endpoint, own.Node)
	}
	return nil
}

// fits sees whether the target is there, fit and free, and pins it.
func (a *Agent) fits(ctx context.Context, vpc, endpoint string, at *attachment) *local.Refusal {
	for otherVPC, v := range a.memory.VPCs {
		for other, b := range v.Attachments {
			if (otherVPC != vpc || other != endpoint) && at.collides(b) {
				return refuse(local.CodeTaken, fmt.Sprintf("meshvpc endpoint detach %s --vpc %s", other, otherVPC), "attach endpoint %q: %s is attached to the endpoint %s of VPC %s", endpoint, *at, other, otherVPC)
			}
		}
	}
	return a.pin(ctx, endpoint, at)
}
