package mvcc

import (
	"context"
	"fmt"
	"time"
)

// watch is where one watch stands. Its fields but wake are guarded by the
// Memory's mutex.
type watch struct {
	WatchRequest
	next   int64         // the first revision that was not looked at
	resume int64         // where a client would go on after a reconnect
	fail   error         // why it has to end
	wake   chan struct{} // of size 1: something may be there
}

func (w *watch) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Watch implements KV. A consumer that falls behind a compaction gets
// ErrCompacted, as with etcd. An empty Key is the smallest one; a range that
// can hold no key is refused.
func (m *Memory) Watch(ctx context.Context, r WatchRequest) <-chan WatchResponse {
	if r.Key == "" {
		r.Key = "\x00"
	}
	w := &watch{WatchRequest: r, wake: make(chan struct{}, 1)}
	m.mu.Lock()
	w.next = r.From
	if r.From <= 0 {
		w.next = m.state.Revision() + 1
	}
	w.resume = w.next
	switch {
	case m.up != nil:
		w.fail = ErrNoLeader
	case w.End != "" && w.End != "\x00" && w.End <= w.Key:
		w.fail = fmt.Errorf("watch %q to %q: range is empty", w.Key, w.End)
	}
	m.watches[w] = struct{}{}
	m.mu.Unlock()

	out := make(chan WatchResponse)
	go func() {
		defer close(out)
		m.serve(ctx, w, out)
		m.mu.Lock()
		delete(m.watches, w)
		m.mu.Unlock()
	}()
	return out
}

// Poll is what a watch from r.From on has to tell by now, at most as many
// revisions as most (0: all), without waiting: no events if there is nothing
// new. It is a watch for a simulation, which owns the time between two answers.
func (m *Memory) Poll(r WatchRequest, most int) WatchResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := WatchResponse{Header: Header{ClusterID: m.clusterID, Revision: m.state.Revision()}}
	if m.up != nil {
		resp.Err = ErrNoLeader
		return resp
	}
	if r.Key == "" {
		r.Key = "\x00"
	}
	if resp.Events, resp.Err = m.state.Events(r.From, r.Key, r.End); resp.Err != nil {
		resp.Compacted = m.state.Compacted()
		return resp
	}
	if most == 0 {
		return resp
	}
	revisions, last := 0, int64(0)
	for i, e := range resp.Events {
		if e.KV.ModRevision != last {
			last = e.KV.ModRevision
			if revisions++; revisions > most {
				resp.Events = resp.Events[:i]
				break
			}
		}
	}
	return resp
}

func (m *Memory) serve(ctx context.Context, w *watch, out chan<- WatchResponse) {
	var tick <-chan time.Time
	if m.progress > 0 {
		t := time.NewTicker(m.progress)
		defer t.Stop()
		tick = t.C
	}
	progress := false
	for {
		if resp, ok := m.pull(w, progress); ok {
			select {
			case out <- resp:
			case <-ctx.Done():
				return
			}
			if resp.Err != nil {
				return
			}
		}
		progress = false
		select {
		case <-w.wake:
		case <-tick:
			progress = true
		case <-ctx.Done():
			return
		}
	}
}

// pull takes all that a watch has not seen; with progress also the news that
// there is nothing.
func (m *Memory) pull(w *watch, progress bool) (WatchResponse, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	revision := m.state.Revision()
	resp := WatchResponse{Header: Header{ClusterID: m.clusterID, Revision: revision}}
	if resp.Err = w.fail; resp.Err != nil {
		return resp, true
	}
	if resp.Events, resp.Err = m.state.Events(w.next, w.Key, w.End); resp.Err != nil {
		resp.Compacted = m.state.Compacted()
		return resp, true
	}
	w.next = max(w.next, revision+1)
	if n := len(resp.Events); n > 0 {
		w.resume = resp.Events[n-1].KV.ModRevision + 1
		return resp, true
	}
	if progress && w.next == revision+1 {
		w.resume = w.next
		return resp, true
	}
	return resp, false
}

// notify tells the watches of the revision that was made, if it is not before.
// One that it does not concern moves past it, so that no compaction can hurt it.
func (m *Memory) notify(before int64) {
	revision := m.state.Revision()
	if revision == before {
		return
	}
	events := m.state.log[len(m.state.log)-1].events
	for w := range m.watches {
		if w.concerns(events) {
			w.poke()
		} else if w.next == revision {
			w.next++
		}
	}
}

func (w *watch) concerns(events []Event) bool {
	for _, e := range events {
		if Within(w.Key, w.End, e.KV.Key) {
			return true
		}
	}
	return false
}
