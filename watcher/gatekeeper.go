package watcher

import (
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/hostops"
)

// gateLook is how often it is looked whether the gate's time is over: a kernel that was
// suspended has counted less of it. The goroutine that looks does not hear of that.
const gateLook = 250 * time.Millisecond

// gateKeeper moves the gate of this host by the grants of a keeper. It is for one
// goroutine.
type gateKeeper struct {
	gater hostops.Gater // nil: there is none
	log   *zap.Logger
	known bool          // until is the kernel's
	until time.Duration // of Uptime: when it shuts; 0: it is shut
}

func (g *gateKeeper) isOpen() bool { return g.until > 0 }

// before says until when the gate may be open if a renewal of order that is sent now
// commits; !ok: none may be sent. What the renewal says of the grant's length holds
// for all before it, too: an earlier, longer one is cut to that first.
func (g *gateKeeper) before(order Keeping) (until time.Duration, ok bool) {
	if order.Grant == 0 || g.gater == nil {
		return 0, order.Grant == 0
	}
	until = g.gater.Uptime() + order.Grant
	if !g.known {
		at, err := g.gater.GateUntil()
		if err != nil {
			g.log.Warn("cannot read the gate", zap.Error(err))
			return 0, false
		}
		g.known, g.until = true, at
	}
	return until, g.until <= until || g.set(until)
}

// drop shuts the gate if order is to have none: of an earlier process it is left to
// its time.
func (g *gateKeeper) drop(order Keeping) {
	if order.Grant == 0 && g.until > 0 && g.set(g.gater.Uptime()) {
		g.until = 0
	}
}

// move opens the gate until a time, if that is order's to do.
func (g *gateKeeper) move(order Keeping, until time.Duration) bool {
	return order.Grant == 0 || g.set(until)
}

// look shuts the gate if its time is over: most often it has shut itself.
func (g *gateKeeper) look() {
	if g.until > 0 && g.gater.Uptime() >= g.until && g.set(g.until) {
		g.until = 0
	}
}

func (g *gateKeeper) set(until time.Duration) bool {
	if err := g.gater.SetGate(until); err != nil {
		g.log.Warn("cannot move the gate", zap.Error(err))
		return false
	}
	g.until = until
	return true
}
