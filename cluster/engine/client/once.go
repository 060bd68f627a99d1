package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// happensOnce reports whether a transaction that was carried out can never be
// carried out again: it writes a key that one of its guards wants at a revision, and
// no key comes back to a revision that it has left. One that makes a key is none:
// somebody may delete the key in between.
func happensOnce(t mvcc.TxnRequest) bool {
	if slices.ContainsFunc(t.Else, func(op mvcc.Op) bool { return op.Kind != mvcc.OpRange }) {
		return false
	}
	return slices.ContainsFunc(t.If, func(g mvcc.Compare) bool {
		return g.Target == mvcc.TargetMod && g.Relation == mvcc.Equal && g.Number > 0 &&
			slices.ContainsFunc(t.Then, func(op mvcc.Op) bool { return op.Kind != mvcc.OpRange && op.Key == g.Key && op.End == "" })
	})
}

// maxTries is more tries than any context has room for.
const maxTries = 32

// once makes a call that can succeed once only, and makes it again, at another
// server, while those before have not answered within their patience, as again does.
// They stay open: the first that succeeds counts. That one was refused says nothing
// as long as another has no answer, since that may be what it was refused for; so
// unless all were refused, it is open what became of the call: mvcc.ErrUnavailable.
func once[T any](ctx context.Context, succeeded func(T) bool, call func(context.Context) (T, error)) (answer T, err error) {
	type result struct {
		answer T
		err    error
	}
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, maxTries)
	made, out := 0, 0
	try := func() {
		made, out = made+1, out+1
		running.Go(func() {
			answer, err := call(ctx)
			results <- result{answer, err}
		})
	}
	patience := firstPatience
	late := time.NewTimer(patience)
	defer late.Stop()
	for try(); out > 0; {
		select {
		case r := <-results:
			out--
			switch {
			case r.err != nil:
				err = r.err
			case succeeded(r.answer):
				return r.answer, nil
			default:
				answer = r.answer
			}
		case <-late.C:
			if ctx.Err() == nil && made < maxTries {
				try()
				patience *= 2
				late.Reset(patience)
			}
		}
	}
	if err != nil && made > 1 {
		err = fmt.Errorf("%w: none of %d tries succeeded: %v", mvcc.ErrUnavailable, made, err) // which may not be what became of the others
	}
	return answer, err
}
