package sim

import (
	"container/heap"
	"time"
)

// queue holds what is to happen, by time and then by order of planning.
type queue struct {
	events eventHeap
	now    time.Duration // since the world began
	seq    int
	steps  int // events that have happened
	after  func()
}

type event struct {
	at  time.Duration
	seq int
	do  func()
}

// in plans do for d from now.
func (q *queue) in(d time.Duration, do func()) {
	q.seq++
	heap.Push(&q.events, event{q.now + max(d, 0), q.seq, do})
}

// run lets everything happen that is due until then.
func (q *queue) run(until time.Duration) {
	for len(q.events) > 0 && q.events[0].at <= until {
		e := heap.Pop(&q.events).(event)
		q.now = e.at
		q.steps++
		e.do()
		if q.after != nil {
			q.after()
		}
	}
	q.now = until
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}
