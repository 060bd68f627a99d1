package store

import (
	"context"
	"sync"
	"time"
)

// Look calls look with a mirror of prefixes whenever something there has changed,
// and when the time has passed that it returned (0: no time), until ctx ends,
// which is no error, or look returns one. Look, which may follow more, does not
// run twice at once; it pulls the mirror's View itself.
func Look(ctx context.Context, cfg MirrorConfig, look func(context.Context, *Mirror) (again time.Duration, err error), prefixes ...string) error {
	m := NewMirror(cfg)
	m.Follow(prefixes...)
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = m.Run(ctx) }) // it ends with ctx only, without an error
	defer running.Wait()
	defer cancel()
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.Changed():
		case <-due:
		}
		again, err := look(ctx, m)
		if err != nil {
			return err
		}
		if due = nil; again > 0 {
			due = time.After(again)
		}
	}
}
