package watcher

import (
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// request writes what this host asks the controller for, when it changed. The
// controller deletes what it has answered; what nobody wants any more goes here.
func (a *Agent) request() {
	if a.mute() || a.hold != "" {
		return
	}
	want := a.wanted()
	for id, w := range want {
		if old, asked := a.requests[id]; asked && old.Want == w.Want && old.Create == w.Create {
			continue
		}
		w.At = cluster.At(a.now)
		own := w
		a.write(cluster.KeyRequest(a.cfg.Node, id.vpc, id.endpoint), &own, 0)
		a.requests[id] = w
	}
	for id := range a.requests {
		if _, wanted := want[id]; wanted {
			continue
		}
		if v := a.memory.VPCs[id.vpc]; v != nil && v.Attachments[id.endpoint].Own != nil && v.serves(id.endpoint, a.cfg.Node) {
			delete(a.requests, id) // answered, and deleted by that
			continue
		}
		a.forgetRequest(id, true)
	}
}

// forgetRequest takes a request back; asked: and that it was made.
func (a *Agent) forgetRequest(id portID, asked bool) {
	if asked {
		delete(a.requests, id)
	}
	a.write(cluster.KeyRequest(a.cfg.Node, id.vpc, id.endpoint), nil, 0)
}

// wanted is what this host asks for: to be the owner of what is attached, and to
// have deleted what it made.
func (a *Agent) wanted() map[portID]cluster.Request {
	want := map[portID]cluster.Request{}
	for vpc, v := range a.memory.VPCs {
		if v.Leaving {
			continue
		}
		for name := range v.Deletes {
			want[portID{vpc, name}] = cluster.Request{NodeID: a.cfg.NodeID, Want: cluster.WantDelete}
		}
		for name, at := range v.Attachments {
			if v.wantsOwner(name, at, a.cfg.Node) {
				want[portID{vpc, name}] = cluster.Request{NodeID: a.cfg.NodeID, Want: cluster.WantAttach, Create: at.Create}
			}
		}
	}
	return want
}

// wantsOwner reports whether this host asks to be the endpoint's owner: it does
// not ask for what another node has.
func (v *vpc) wantsOwner(endpoint string, at attachment, me string) bool {
	if at.Standby || at.Workload.Name != "" || v.serves(endpoint, me) || at.bound != "" && at.bound != me {
		return false
	}
	o := at.Own
	return o == nil || o.Node == "" || o.Node == me || at.gone
}

// forgetDeletes forgets the endpoints that this host wanted to be deleted and
// that are, or are not its to delete: have are its records in the store.
func (a *Agent) forgetDeletes(view *store.View, have map[string][]byte) (changed bool) {
	for vpc, v := range a.memory.VPCs {
		for name := range v.Deletes {
			_, waits := have[cluster.KeyRequest(a.cfg.Node, vpc, name)]
			if _, asked := a.requests[portID{vpc, name}]; !asked || waits || v.read == nil || !v.confirmed {
				continue
			}
			r := readEndpoint(view, vpc, name)
			if r.spec == nil || r.spec.State == cluster.EndpointDeleting || r.spec.Requester != a.cfg.Node {
				delete(v.Deletes, name)
				changed = true
			}
		}
	}
	return changed
}
