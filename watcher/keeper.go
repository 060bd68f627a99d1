package watcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
	"github.com/meshvpc/meshvpc/hostops"
)

// keeper renews this node's live record as it is told: each time with a greater
// counter, and only while no fence of the node stands. So a node whose counter has
// moved was not fenced then, and after a fence none moves. What cannot be written in
// time is not written later: the next is.
//
// A renewal that is a grant moves the gate, by the time that it was sent at: a process
// that was stopped meanwhile has lost that time.
type keeper struct {
	store   *store.Store
	node    string
	gate    *gateKeeper
	log     *zap.Logger
	kick    chan struct{}
	changed chan struct{} // carried is another

	mu      sync.Mutex
	order   Keeping
	tried   int64 // the last counter
	written int64 // for certain
	grant   int64 // that was said with it
	kept    int64 // the order of which a renewal committed last
	refused bool  // the last time: a fence stands, or what was granted has changed
}

func newKeeper(s *store.Store, node string, gate hostops.Gater, log *zap.Logger) *keeper {
	return &keeper{store: s, node: node, gate: &gateKeeper{gater: gate, log: log}, log: log, kick: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// keep does as it is told from now on.
func (k *keeper) keep(order Keeping) {
	k.mu.Lock()
	k.order = order
	k.mu.Unlock()
	wake(k.kick)
}

// said is the last counter that was written for certain, and the grant with it.
func (k *keeper) said() (counter, grant int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written, k.grant
}

// carried is the order that was carried out last.
func (k *keeper) carried() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.kept
}

// run renews until ctx ends: at once when told to, then at moments that are not the
// same for all nodes. In between it looks whether the gate's time is over.
func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	look := time.NewTimer(time.Hour)
	defer look.Stop()
	var every time.Duration
	for {
		var next time.Duration
		select {
		case <-ctx.Done():
			return
		case <-k.kick:
			every = k.renew(ctx)
			next = every/2 + rand.N(every/2+1)
		case <-timer.C:
			every = k.renew(ctx)
			next = every
		case <-look.C:
			k.gate.look()
			next = 0
		}
		if k.gate.isOpen() {
			look.Reset(gateLook)
		}
		if next > 0 {
			timer.Reset(next)
		} else if every == 0 {
			timer.Stop()
		}
	}
}

// renew writes the record once, and returns how long it is good for: 0, it is not to
// be renewed.
func (k *keeper) renew(ctx context.Context) time.Duration {
	k.mu.Lock()
	order, first := k.order, k.tried+1
	k.mu.Unlock()
	k.gate.drop(order)
	if order.Every == 0 {
		return 0
	}
	until, ok := k.gate.before(order)
	if !ok {
		return order.Every
	}
	ctx, cancel := context.WithTimeout(ctx, order.Every)
	defer cancel()
	changes := order.Renewals(k.node, first)
	k.mu.Lock()
	k.tried += int64(len(changes))
	k.mu.Unlock()
	var err error
	for i, c := range changes {
		if _, err = k.store.Commit(ctx, c); err != nil {
			break
		}
		k.mu.Lock()
		k.written, k.grant = first+int64(i), order.Record.Grant
		k.mu.Unlock()
	}
	refused := errors.Is(err, store.ErrConflict)
	if refused && !k.refused {
		k.log.Warn("this node is fenced, or what it serves is another's: what is live of it does not count", zap.String("node", k.node))
	}
	k.refused = refused
	if err == nil && k.gate.move(order, until) {
		k.mu.Lock()
		news := k.kept != order.Order
		k.kept = order.Order
		k.mu.Unlock()
		if news && order.Grant > 0 {
			wake(k.changed)
		}
	}
	if err != nil && !refused && !errors.Is(err, mvcc.ErrLeaseNotFound) { // another lease is on its way
		k.log.Debug("cannot renew", zap.Error(err))
	}
	return order.Every
}
