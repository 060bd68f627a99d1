package watcher

import (
	"context"
	"errors"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/watcher/hooks"
)

// Hooks runs a program of a workload, as hooks.Programs does.
type Hooks interface {
	Run(ctx context.Context, o hooks.Order) (out string, err error)
}

// hooksAtOnce is how many programs of workloads run at a time; the time that others
// wait for them is not theirs.
const hooksAtOnce = 10

// errNoHooks is returned where nothing is run for workloads.
var errNoHooks = errors.New("this agent runs no programs for workloads")

// hooker runs programs of workloads beside the passes, each in a goroutine of its own.
type hooker struct {
	hooks   Hooks // nil: none is run
	log     *zap.Logger
	room    chan struct{}
	results chan HookResult
	all     errgroup.Group
}

func newHooker(h Hooks, log *zap.Logger) *hooker {
	return &hooker{hooks: h, log: log, room: make(chan struct{}, hooksAtOnce), results: make(chan HookResult)}
}

// start begins to carry out an order. Its result comes unless ctx ends.
func (h *hooker) start(ctx context.Context, o HookOrder) {
	h.all.Go(func() error {
		select {
		case h.room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		err := h.run(ctx, o.Order)
		<-h.room
		select {
		case h.results <- HookResult{o.ID, err}:
		case <-ctx.Done():
		}
		return nil
	})
}

func (h *hooker) run(ctx context.Context, o hooks.Order) error {
	if h.hooks == nil {
		return errNoHooks
	}
	out, err := h.hooks.Run(ctx, o)
	if out != "" && o.Kind != hooks.Check {
		h.log.Info("a workload's program said", zap.String("workload", o.Workload), zap.String("program", string(o.Kind)), zap.String("text", cluster.CleanText(out)))
	}
	return err
}

// wait returns when nothing runs any more.
func (h *hooker) wait() error { return h.all.Wait() }
