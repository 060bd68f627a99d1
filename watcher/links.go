package watcher

import (
	"cmp"
	"container/heap"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Times of the link probes.
const (
	probePeriod   = 10 * time.Second       // of a link that is up
	probeDown     = 2 * time.Second        // of a link that is down
	probeFirst    = 25 * time.Millisecond  // after the first probe of a new link, doubling
	probeNew      = 250 * time.Millisecond // at most, while it is new
	probeNewFor   = 3 * time.Second        // a link that has never answered is new
	probeTimeout  = time.Second            // no answer until then is a loss
	probeRetry    = 500 * time.Millisecond // after a loss
	probeLosses   = 3                      // in a row: the link is down
	fullSizeEvery = time.Hour
	probeBudget   = 200 // probes a second of one host in all
)

// linkID names a link of this host.
type linkID struct{ vpc, peer string }

func (a linkID) compare(b linkID) int {
	return cmp.Or(strings.Compare(a.vpc, b.vpc), strings.Compare(a.peer, b.peer))
}

// link is what is known of one link.
type link struct {
	id       linkID
	to       netip.Addr // the peer's VTEP address
	mtu      int        // of the VPC, bytes
	state    cluster.LinkState
	rtt      time.Duration
	losses   int
	tries    int // while unknown
	asked    int64
	answered int64 // the newest probe that was
	since    time.Time
	fullAt   time.Time
	fullLost int
	next     time.Time
	index    int // in the heap
}

// Probe is one echo request to be sent.
type Probe struct {
	id   linkID
	to   netip.Addr
	size int // bytes of the IP packet; 0: the least
	seq  int64
}

// links is the probe schedule of a host: a step function over explicit time.
type links struct {
	all    map[linkID]*link
	queue  linkQueue
	tokens float64
	filled time.Time
	rand   *rand.Rand
}

func newLinks(r *rand.Rand) *links {
	return &links{all: map[linkID]*link{}, tokens: probeBudget, rand: r}
}

// target is a link that should be probed.
type target struct {
	to  netip.Addr
	mtu int
}

// set makes targets the links that are probed. A new link, or one whose
// address moved, is unknown and due at once.
func (ls *links) set(now time.Time, targets map[linkID]target) {
	for id, l := range ls.all {
		if t, ok := targets[id]; !ok || t.to != l.to {
			heap.Remove(&ls.queue, l.index)
			delete(ls.all, id)
		}
	}
	var fresh []*link
	for id, t := range targets {
		l := ls.all[id]
		if l == nil {
			l = &link{id: id, to: t.to, state: cluster.LinkUnknown, since: now, next: now}
			ls.all[id] = l
			fresh = append(fresh, l)
		}
		if l.mtu != t.mtu {
			l.mtu, l.fullAt = t.mtu, time.Time{}
		}
	}
	slices.SortFunc(fresh, func(a, b *link) int { return a.id.compare(b.id) })
	for _, l := range fresh {
		heap.Push(&ls.queue, l)
	}
}

// due takes the probes that are to be sent now, within the host's budget, and
// says when to ask again (the zero time: when there are links).
func (ls *links) due(now time.Time) (out []Probe, again time.Time) {
	if !ls.filled.IsZero() {
		ls.tokens = min(probeBudget, ls.tokens+now.Sub(ls.filled).Seconds()*probeBudget)
	}
	ls.filled = now
	for len(ls.queue) > 0 {
		l := ls.queue[0]
		if l.next.After(now) {
			return out, l.next
		}
		if ls.tokens < 1 {
			return out, now.Add(time.Second / probeBudget)
		}
		ls.tokens--
		l.asked++
		p := Probe{id: l.id, to: l.to, seq: l.asked}
		if l.state == cluster.LinkUp && !now.Before(l.fullAt) {
			p.size = l.mtu
		}
		out = append(out, p)
		ls.schedule(l, now)
	}
	return out, time.Time{}
}

// schedule sets when l is probed next if this probe is answered.
func (ls *links) schedule(l *link, now time.Time) {
	switch l.state {
	case cluster.LinkUp:
		l.next = now.Add(ls.jitter(probePeriod))
	case cluster.LinkDown:
		l.next = now.Add(ls.jitter(probeDown))
	default:
		l.next = now.Add(min(probeFirst<<min(l.tries, 10), probeNew))
		l.tries++
	}
	heap.Fix(&ls.queue, l.index)
}

func (ls *links) jitter(d time.Duration) time.Duration {
	return d*9/10 + time.Duration(ls.rand.Int64N(int64(d)/5+1))
}

// answer takes the outcome of a probe, the round trip time or lost, and reports
// whether the link's state changed.
func (ls *links) answer(now time.Time, p Probe, rtt time.Duration, lost bool) bool {
	l := ls.all[p.id]
	if l == nil || l.to != p.to {
		return false
	}
	state, full := l.state, l.fullLost >= probeLosses
	switch {
	case !lost:
		ls.answered(l, now, p, rtt)
	case p.seq < l.answered: // a later one got through
	case p.size != 0:
		if l.fullLost++; l.fullLost >= probeLosses {
			l.fullAt = now.Add(probePeriod)
		}
		ls.soon(l, now)
	default:
		l.losses++
		isNew := l.state == cluster.LinkUnknown && now.Before(l.since.Add(probeNewFor))
		if l.losses >= probeLosses && !isNew {
			l.state = cluster.LinkDown
		}
		ls.soon(l, now)
	}
	return state != l.state || full != (l.fullLost >= probeLosses)
}

func (ls *links) answered(l *link, now time.Time, p Probe, rtt time.Duration) {
	l.answered = max(l.answered, p.seq)
	l.rtt, l.losses = rtt, 0
	if p.size != 0 {
		l.fullLost, l.fullAt = 0, now.Add(ls.jitter(fullSizeEvery))
	}
	if l.state != cluster.LinkUp {
		l.state, l.tries = cluster.LinkUp, 0
		l.next = now // the full size, at once
		heap.Fix(&ls.queue, l.index)
	}
}

// soon probes a link that lost one again, sooner than its period.
func (ls *links) soon(l *link, now time.Time) {
	if at := now.Add(probeRetry); l.state != cluster.LinkDown && l.next.After(at) {
		l.next = at
		heap.Fix(&ls.queue, l.index)
	}
}

// report is the link as status records show it.
func (l *link) report() cluster.Link {
	r := cluster.Link{Peer: l.id.peer, State: l.state}
	if l.state == cluster.LinkUp {
		r.RTT = milliseconds(l.rtt)
	}
	if l.state == cluster.LinkUp && l.fullLost >= probeLosses {
		r.Reason = fullSizeLost(l.mtu)
	}
	return r
}

type linkQueue []*link

func (q linkQueue) Len() int { return len(q) }
func (q linkQueue) Less(i, j int) bool {
	if c := q[i].next.Compare(q[j].next); c != 0 {
		return c < 0
	}
	return q[i].id.compare(q[j].id) < 0
}
func (q linkQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *linkQueue) Push(x any) {
	l := x.(*link)
	l.index = len(*q)
	*q = append(*q, l)
}
func (q *linkQueue) Pop() any {
	old := *q
	l := old[len(old)-1]
	*q = old[:len(old)-1]
	return l
}
