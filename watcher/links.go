package watcher

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// Times of the link probes. Each link is probed every probePeriod, whatever its
// state; sooner only while it is new, after a loss, and while few are down. The
// host as a whole never sends more than probeBudget in any second.
const (
	probePeriod   = 10 * time.Second
	probeFirst    = 25 * time.Millisecond  // after the first probe of a new link, doubling
	probeNew      = 250 * time.Millisecond // at most, while it is new
	probeNewFor   = 3 * time.Second        // a link that has never answered is new
	probeLull     = 250 * time.Millisecond // after a peer has come to a mesh, at least: its hosts are busy to take it in
	probeTimeout  = time.Second            // no answer until then is a loss
	probeRetry    = 500 * time.Millisecond // after a loss
	probeDown     = 2 * time.Second        // of a link that is down; many share half the budget
	probeLosses   = 3                      // in a row: the link is down
	fullSizeEvery = time.Hour
	probeBudget   = 200 // probes in any probeTimeout, and so at most in flight
	// How much later than wished a probe may be: what falls due within it is
	// sent together, and the agent wakes less often. Links that are up have the
	// moments in common in which they are probed.
	probeTogether = time.Second
	probeTick     = 100 * time.Millisecond
	probeTickNew  = 25 * time.Millisecond // while links are new
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
	tries    int    // since the state changed, while unknown or down
	asked    int    // probes sent
	answered uint64 // the newest probe that was
	since    time.Time
	fullAt   time.Time
	fullLost int
	fault    string // why probes cannot be made at all; "": they can
	next     time.Time
	index    int // in the heap
}

// Probe is one echo request to be sent.
type Probe struct {
	id   linkID
	to   netip.Addr
	size int    // bytes of the IP packet; 0: the least
	seq  uint64 // counts the host's probes
}

// links is the probe schedule of a host: a step function over explicit time.
type links struct {
	slots []slot                    // of all links, see set
	line  int                       // before it no slot waits
	known map[linkID]*link          // those that do not wait
	queue linkQueue                 // of known
	count map[cluster.LinkState]int // of all links
	rand  *rand.Rand
	base  time.Time // of the host's common moments; zero: not chosen yet

	// sent is the newest probe, over the newest before which none is in flight.
	sent, over uint64
	// flights are the newest probes by seq. A slot is free again probeTimeout
	// after it was taken: so probeBudget bounds what is sent in that time, and
	// what is in flight.
	flights [probeBudget]flight
}

// flight is a probe that was sent.
type flight struct {
	probe Probe
	at    time.Time // zero: no probe yet
	open  bool      // neither answered nor lost
}

func newLinks(r *rand.Rand) *links {
	return &links{known: map[linkID]*link{}, count: map[cluster.LinkState]int{}, rand: r}
}

// period is how often each link is probed: as often as the budget allows if
// that is less than every probePeriod.
func (ls *links) period() time.Duration {
	return max(probePeriod, ls.round(len(ls.slots)))
}

// notes says that the period is stretched. The text changes seldom: peers that
// join are no reason to write it anew.
func (ls *links) notes() []string {
	const grain = 5 * time.Second
	p := ls.period()
	if p <= probePeriod {
		return nil
	}
	return []string{fmt.Sprintf("more than %d links share %d probes a second: each is probed every %v instead of every %v",
		probePeriod/time.Second*probeBudget, probeBudget, (p + grain - 1).Truncate(grain), probePeriod)}
}

// round is how long the budget takes for n probes.
func (ls *links) round(n int) time.Duration {
	return time.Duration(n) * probeTimeout / probeBudget
}

// lost takes one probe that has not been answered in time, for answer.
func (ls *links) lost(now time.Time) (Probe, bool) {
	for ls.over < ls.sent {
		f := &ls.flights[(ls.over+1)%probeBudget]
		if f.open && now.Sub(f.at) < probeTimeout {
			break
		}
		ls.over++
		if f.open {
			return f.probe, true
		}
	}
	return Probe{}, false
}

// due takes the probes that are to be sent now, within the host's budget.
func (ls *links) due(now time.Time) (out []Probe) {
	for !ls.free().After(now) {
		l := ls.first()
		if l == nil || l.next.After(now) {
			break
		}
		ls.sent++
		l.asked++
		p := Probe{id: l.id, to: l.to, seq: ls.sent}
		if l.state == cluster.LinkUp && !now.Before(l.fullAt) {
			p.size = l.mtu
		}
		ls.flights[ls.sent%probeBudget] = flight{p, now, true}
		out = append(out, p)
		ls.schedule(l, now)
	}
	return out
}

// free is when the budget allows the next probe.
func (ls *links) free() time.Time {
	at := ls.flights[(ls.sent+1)%probeBudget].at
	if at.IsZero() {
		return at
	}
	return at.Add(probeTimeout)
}

// again is when to ask for lost and due again; the zero time: when there are
// links.
func (ls *links) again(now time.Time) (at time.Time) {
	if l := ls.first(); l != nil {
		at = later(l.next, ls.free())
	}
	if ls.over < ls.sent {
		at = earliest(at, ls.flights[(ls.over+1)%probeBudget].at.Add(probeTimeout))
	}
	if at.IsZero() {
		return at
	}
	if ls.count[cluster.LinkUnknown] > 0 {
		return later(at, now.Add(probeTickNew))
	}
	return later(at, now.Add(probeTick))
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// schedule sets when l is probed next if this probe is answered.
func (ls *links) schedule(l *link, now time.Time) {
	switch l.state {
	case cluster.LinkUp:
		l.next = ls.together(now.Add(ls.jitter(ls.period())))
	case cluster.LinkDown:
		l.next = now.Add(ls.jitter(min(max(probeDown, 2*ls.round(ls.count[cluster.LinkDown])), ls.period())))
	default: // all that are new take turns
		l.next = now.Add(max(min(probeFirst<<min(l.tries, 10), probeNew), ls.round(ls.count[cluster.LinkUnknown])))
	}
	l.tries++
	heap.Fix(&ls.queue, l.index)
}

// together is the nearest of the host's common moments. It follows t's monotonic
// clock, which nobody sets.
func (ls *links) together(t time.Time) time.Time {
	if ls.base.IsZero() {
		ls.base = t.Add(time.Duration(ls.rand.Int64N(int64(probeTogether))))
	}
	return ls.base.Add(t.Sub(ls.base).Round(probeTogether))
}

func (ls *links) jitter(d time.Duration) time.Duration {
	return d*9/10 + time.Duration(ls.rand.Int64N(int64(d)/5+1))
}

// answer takes the outcome of a probe, the round trip time or lost, and reports
// whether the link's state changed. Only the first outcome of a probe counts.
func (ls *links) answer(now time.Time, p Probe, rtt time.Duration, lost bool) bool {
	f := &ls.flights[p.seq%probeBudget]
	if !f.open || f.probe != p {
		return false
	}
	f.open = false
	l := ls.known[p.id]
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
			ls.become(l, cluster.LinkDown)
		}
		ls.soon(l, now)
	}
	return state != l.state || full != (l.fullLost >= probeLosses)
}

// become sets a link's state.
func (ls *links) become(l *link, s cluster.LinkState) {
	if l.state == s {
		return
	}
	ls.count[l.state]--
	ls.count[s]++
	l.state, l.tries = s, 0
}

func (ls *links) answered(l *link, now time.Time, p Probe, rtt time.Duration) {
	l.answered = max(l.answered, p.seq)
	l.rtt, l.losses = rtt, 0
	if p.size != 0 {
		l.fullLost, l.fullAt = 0, now.Add(ls.jitter(fullSizeEvery))
	}
	if l.state != cluster.LinkUp {
		ls.become(l, cluster.LinkUp)
		l.next = ls.together(now.Add(probeTogether)) // the full size, soon
		heap.Fix(&ls.queue, l.index)
	}
}

// blame notes why a probe could not be made, as opposed to one that was lost,
// and reports whether that changes what is said of the link.
func (ls *links) blame(p Probe, err error) bool {
	l := ls.known[p.id]
	if l == nil || l.to != p.to {
		return false
	}
	fault := ""
	if err != nil && !errors.Is(err, hostops.ErrNoAnswer) && !errors.Is(err, hostops.ErrCongested) {
		fault = err.Error()
	}
	if fault == l.fault {
		return false
	}
	l.fault = fault
	return l.state == cluster.LinkDown
}

// soon probes a link that lost one again, sooner than its period. One that is
// down has its times by schedule.
func (ls *links) soon(l *link, now time.Time) {
	wait := probeRetry
	if l.state == cluster.LinkDown {
		if l.tries > 0 {
			return
		}
		wait = probeDown
	}
	if at := now.Add(wait); l.next.After(at) {
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
	if l.state == cluster.LinkDown {
		r.Reason = l.fault
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
