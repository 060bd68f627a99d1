package watcher

import (
	"context"
	"fmt"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// gate is when ports of endpoints that can move may be open.
type gate struct {
	freed time.Time // when this node's own fence went; zero: long ago, or never
	// open are the gated ports that are up, as last seen; closed those attachments whose
	// device passes frames only while the gate is open, if at all.
	open   []string
	closed map[portID]bool
	told   string // why there is no grant, as last said
}

// reopenAfter is how long a node whose fence went still serves nothing that can
// move: what became of it while the fence stood may be read a moment later, by
// another watch.
const reopenAfter = time.Second

// shutPorts decides which ports of endpoints with failover stay mute, whatever their
// own records say, and reports whether that changed. All others are left as they are.
//
// While this node is fenced all are mute: its peers take nothing from it, and
// another node may have been made the owner. After a start each waits until its own
// record and the fences have been read. Only what the kernel has open stays so: the
// agent before this one had opened it, in this boot, and nothing is lost by a crash
// or an upgrade; after a reboot no port is open.
func (a *Agent) shutPorts(ctx context.Context) (changed bool) {
	var on *hostops.State // the host, looked at when it matters
	for vpc, v := range a.memory.VPCs {
		for name, at := range v.Attachments {
			why := ""
			if at.Failover {
				why = a.whyShut(at)
			}
			if why == waitsForStore || why == waitsForGrant {
				if on == nil {
					s, err := a.cfg.Driver.Observe(ctx, false)
					if err != nil {
						return changed // and nothing will be done
					}
					on = &s
				}
				if on.Serves(vpc, at.device(vpc, name)) {
					why = ""
				}
			}
			if why == at.shut {
				continue
			}
			if at.shut = why; why == "" && v.serves(name, a.cfg.Node) {
				a.came(portID{vpc, name})
			}
			v.Attachments[name] = at
			changed = true
		}
	}
	return changed
}

const waitsForStore = "waiting for the store to say whether this node still is its owner"

// whyShut says why the port of an endpoint that can move stays mute, or "".
func (a *Agent) whyShut(at attachment) string {
	f := a.memory.fenced(a.cfg.Node, a.cfg.NodeID)
	switch {
	case f != nil:
		return cluster.CleanText("this node is fenced: " + f.Why)
	case !a.reopens().IsZero():
		return fmt.Sprintf("this node was fenced until %s", cluster.At(a.gate.freed))
	case !at.read || a.fences.at == 0:
		return waitsForStore
	case at.Strict:
		return a.whyNotGranted(at)
	}
	return ""
}

// reopens is when ports may be open again after this node's fence went; zero: they
// may be.
func (a *Agent) reopens() time.Time {
	if at := a.gate.freed.Add(reopenAfter); !a.gate.freed.IsZero() && a.now.Before(at) {
		return at
	}
	return time.Time{}
}
