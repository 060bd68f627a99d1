package watcher

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// writer puts this node's own records into the store beside the passes: the
// newest value of each key wins, and what could not be written is tried again.
type writer struct {
	store *store.Store
	log   *zap.Logger
	kick  chan struct{}

	mu      sync.Mutex
	pending map[string]Write
}

// writerBatch is how many records one transaction takes; it stays below
// mvcc.MaxTxnOps and the request limit of etcd.
const writerBatch = 32

func newWriter(s *store.Store, log *zap.Logger) *writer {
	return &writer{store: s, log: log, kick: make(chan struct{}, 1), pending: map[string]Write{}}
}

// put hands over a record.
func (w *writer) put(r Write) {
	w.mu.Lock()
	w.pending[r.Key] = r
	w.mu.Unlock()
	wake(w.kick)
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context) {
	const first, most = 200 * time.Millisecond, 5 * time.Second
	backoff := first
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.kick:
		}
		for ctx.Err() == nil {
			batch := w.take()
			if len(batch) == 0 {
				break
			}
			err := w.commit(ctx, batch)
			switch {
			case err == nil:
				backoff = first
				continue
			case ctx.Err() != nil:
			case errors.Is(err, cluster.ErrInvalid):
				w.log.Error("report is refused and dropped", zap.Strings("keys", slices.Sorted(maps.Keys(batch))), zap.Error(err))
				continue
			case errors.Is(err, mvcc.ErrDenied) && len(batch) > 1:
				w.apart(ctx, batch)
				continue
			case errors.Is(err, mvcc.ErrDenied): // a look at our own records brings it again
				w.log.Error("report is denied", zap.Strings("keys", slices.Sorted(maps.Keys(batch))), zap.Error(err))
				continue
			case errors.Is(err, mvcc.ErrLeaseNotFound): // the next lease brings it again
				maps.DeleteFunc(batch, func(_ string, v Write) bool { return v.Lease != 0 })
			default:
				w.log.Warn("cannot report, will retry", zap.Duration("in", backoff), zap.Error(err))
			}
			w.restore(batch)
			store.Sleep(ctx, backoff)
			backoff = min(2*backoff, most)
		}
	}
}

// apart writes each record of a batch alone: one that is denied keeps no other
// from being written. What fails otherwise is given back.
func (w *writer) apart(ctx context.Context, batch map[string]Write) {
	for _, key := range slices.Sorted(maps.Keys(batch)) {
		one := map[string]Write{key: batch[key]}
		switch err := w.commit(ctx, one); {
		case errors.Is(err, mvcc.ErrDenied):
			w.log.Error("report is denied", zap.String("key", key), zap.Error(err))
		case err != nil:
			w.restore(one)
		}
	}
}

func (w *writer) take() map[string]Write {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := map[string]Write{}
	for _, key := range slices.Sorted(maps.Keys(w.pending)) {
		if len(batch) == writerBatch {
			break
		}
		batch[key] = w.pending[key]
		delete(w.pending, key)
	}
	return batch
}

// restore gives back what was not written, unless something newer came.
func (w *writer) restore(batch map[string]Write) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, v := range batch {
		if _, newer := w.pending[key]; !newer {
			w.pending[key] = v
		}
	}
}

// AddTo adds the write to a change.
func (w Write) AddTo(c *store.Change) {
	if w.Record == nil {
		c.Remove(w.Key, 0)
		return
	}
	store.Set(c, w.Key, w.Record, nil, w.Lease)
}

func (w *writer) commit(ctx context.Context, batch map[string]Write) error {
	var c store.Change
	for _, key := range slices.Sorted(maps.Keys(batch)) {
		batch[key].AddTo(&c)
	}
	_, err := w.store.Commit(ctx, c)
	return err
}
