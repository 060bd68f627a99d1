package enginetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshvpc/meshvpc/cluster/mvcc"
)

// stream is a running watch whose answers are held to the contract.
type stream struct {
	request mvcc.WatchRequest
	answers <-chan mvcc.WatchResponse
	cancel  context.CancelFunc
	last    int64 // ModRevision of the last event
}

func openWatch(t *testing.T, s Store, r mvcc.WatchRequest) *stream {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	return &stream{request: r, answers: s.Watch(ctx, r), cancel: cancel}
}

// next is the next answer that is no mere progress.
func (w *stream) next(t *testing.T) (mvcc.WatchResponse, bool) {
	t.Helper()
	late := time.NewTimer(patience)
	defer late.Stop()
	for {
		select {
		case resp, ok := <-w.answers:
			if ok && len(resp.Events) == 0 && resp.Err == nil {
				continue
			}
			return resp, ok
		case <-late.C:
			t.Fatalf("watch %+v: no answer in %v", w.request, patience)
		}
	}
}

// want reads as many events as there are in events, and compares. No answer
// may begin within a revision.
func (w *stream) want(t *testing.T, events []mvcc.Event, opts ...cmp.Option) {
	t.Helper()
	var got []mvcc.Event
	for len(got) < len(events) {
		resp, ok := w.next(t)
		if !ok || resp.Err != nil {
			t.Fatalf("watch %+v ended after %d events (%v), want %d", w.request, len(got), resp.Err, len(events))
		}
		if first := resp.Events[0].KV.ModRevision; first <= w.last {
			t.Errorf("watch %+v: an answer begins at revision %d after %d", w.request, first, w.last)
		}
		w.last = resp.Events[len(resp.Events)-1].KV.ModRevision
		if resp.Revision < w.last {
			t.Errorf("watch %+v: header at %d, events up to %d", w.request, resp.Revision, w.last)
		}
		got = append(got, resp.Events...)
	}
	if d := cmp.Diff(got, events, opts...); d != "" {
		t.Errorf("watch %+v (-got +want):\n%s", w.request, d)
	}
}

// wantCompacted reads the end of a watch that asked for too old a revision.
func (w *stream) wantCompacted(t *testing.T, revision int64) {
	t.Helper()
	resp, _ := w.next(t)
	if !errors.Is(resp.Err, mvcc.ErrCompacted) || resp.Compacted != revision || len(resp.Events) != 0 {
		t.Errorf("watch %+v: %+v, want ErrCompacted at %d", w.request, resp, revision)
	}
	if resp, ok := w.next(t); ok {
		t.Errorf("watch %+v went on after its error: %+v", w.request, resp)
	}
	w.cancel()
}

// close ends the watch, which must have nothing more to say.
func (w *stream) close(t *testing.T) {
	t.Helper()
	w.cancel()
	if resp, ok := w.next(t); ok {
		t.Errorf("watch %+v had more than expected: %+v", w.request, resp)
	}
}
