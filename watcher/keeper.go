package watcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// keeper renews this node's live record as it is told: each time with a greater
// counter, and only while no fence of the node stands. So a node whose counter has
// moved was not fenced then, and after a fence none moves. What cannot be written in
// time is not written later: the next is.
type keeper struct {
	store *store.Store
	node  string
	log   *zap.Logger
	kick  chan struct{}

	mu      sync.Mutex
	order   Keeping
	tried   int64 // the last counter
	written int64 // for certain
	refused bool  // the last time: a fence stands
}

func newKeeper(s *store.Store, node string, log *zap.Logger) *keeper {
	return &keeper{store: s, node: node, log: log, kick: make(chan struct{}, 1)}
}

// keep does as it is told from now on.
func (k *keeper) keep(order Keeping) {
	k.mu.Lock()
	k.order = order
	k.mu.Unlock()
	wake(k.kick)
}

// count is the last counter that was written for certain.
func (k *keeper) count() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written
}

// run renews until ctx ends: at once when told to, then at moments that are not the
// same for all nodes.
func (k *keeper) run(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
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
		}
		if timer.Stop(); every > 0 {
			timer.Reset(next)
		}
	}
}

// renew writes the record once, and returns how long it is good for: 0, it is not to
// be renewed.
func (k *keeper) renew(ctx context.Context) time.Duration {
	k.mu.Lock()
	order := k.order
	if order.Every > 0 {
		k.tried++
	}
	order.Record.Counter = k.tried
	k.mu.Unlock()
	if order.Every == 0 {
		return 0
	}
	ctx, cancel := context.WithTimeout(ctx, order.Every)
	defer cancel()
	var c store.Change
	c.Require(cluster.KeyFence(k.node), 0)
	store.Set(&c, cluster.KeyLive(k.node), &order.Record, nil, order.Lease)
	_, err := k.store.Commit(ctx, c)
	refused := errors.Is(err, store.ErrConflict)
	if refused && !k.refused {
		k.log.Warn("this node is fenced: what is live of it does not count", zap.String("node", k.node))
	}
	k.refused = refused
	if err == nil {
		k.mu.Lock()
		k.written = order.Record.Counter
		k.mu.Unlock()
	}
	if err != nil && !refused && !errors.Is(err, mvcc.ErrLeaseNotFound) { // another lease is on its way
		k.log.Debug("cannot renew", zap.Error(err))
	}
	return order.Every
}
