package observe

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// offer is a verdict that is good for a period from when it was decided.
type offer struct {
	verdict cluster.Verdicts
	at      time.Time
	period  time.Duration
}

// writer writes the newest verdict that is news, in time or not at all.
type writer struct {
	store *store.Store
	node  string
	log   *zap.Logger
	kick  chan struct{}

	mu   sync.Mutex
	id   string // the node's
	next *offer
	ends bool // nobody is observed any more: the record is to say nothing

	// run's alone.
	read    bool              // what the store has was read
	last    *cluster.Verdicts // what the store has; nil: nothing, or nobody knows
	counter int64             // of the last verdict that was sent
}

func newWriter(s *store.Store, node string, log *zap.Logger) *writer {
	return &writer{store: s, node: node, log: log, kick: make(chan struct{}, 1)}
}

// as tells whose verdicts they are.
func (w *writer) as(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id, w.ends = id, false
}

// offer takes the place of what has not been written.
func (w *writer) offer(o offer) {
	w.mu.Lock()
	w.next = &o
	w.mu.Unlock()
	w.wake()
}

// rest has the record say nothing, whenever that can be written.
func (w *writer) rest() {
	w.mu.Lock()
	w.next, w.ends = nil, true
	w.mu.Unlock()
	w.wake()
}

func (w *writer) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// restEvery is how often it is tried to write what has time.
const restEvery = 5 * time.Second

func (w *writer) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		}
		for ctx.Err() == nil {
			w.mu.Lock()
			o, ends, id := w.next, w.ends, w.id
			w.next = nil
			w.mu.Unlock()
			if o == nil && !ends {
				break
			}
			if ends {
				o = &offer{cluster.Verdicts{}, time.Now(), restEvery}
			}
			o.verdict.NodeID = id
			err := w.write(ctx, *o)
			if err != nil && ctx.Err() == nil {
				w.log.Debug("cannot write verdicts", zap.Error(err))
			}
			if ends && (err == nil || !store.Sleep(ctx, restEvery)) {
				w.mu.Lock()
				w.ends = w.ends && err != nil
				w.mu.Unlock()
			}
		}
	}
}

// write writes a verdict if it is news and still good.
func (w *writer) write(ctx context.Context, o offer) error {
	left := o.period - max(time.Since(o.at), time.Now().Round(0).Sub(o.at.Round(0)))
	if left <= 0 {
		return nil // the next is on its way
	}
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	if err := w.look(ctx); err != nil {
		return err
	}
	v := o.verdict
	if !news(w.last, v) || w.last == nil && w.counter == 0 && v.NodeID == "" {
		return nil
	}
	w.counter++
	v.Counter = w.counter
	w.last = nil // until it is known to be written
	var c store.Change
	store.Set(&c, cluster.KeyVerdicts(w.node), &v, nil, 0)
	if _, err := w.store.Commit(ctx, c); err != nil {
		return err
	}
	w.last = &v
	return nil
}

// look reads what the store has, once: verdicts of another life of this node.
func (w *writer) look(ctx context.Context) error {
	if w.read {
		return nil
	}
	it, err := store.Get[*cluster.Verdicts](ctx, w.store, cluster.KeyVerdicts(w.node))
	switch {
	case errors.Is(err, cluster.ErrInvalid), errors.Is(err, cluster.ErrNewer): // it is overwritten
	case err == nil:
		w.last, w.counter = it.Value, it.Value.Counter
	case !errors.Is(err, store.ErrNotFound):
		return err
	}
	w.read = true
	return nil
}
