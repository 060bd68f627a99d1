package watcher

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// When a report about a VPC is written. What a reader must know at once is; the
// rest rides along, so that a peer's join makes this host write nothing: the
// peer reports its new links itself, and cluster.LinkBetween merges both ends.
const (
	reportJoining  = time.Second            // at most this long for links to be known
	reportCoalesce = 200 * time.Millisecond // of link changes
	reportRTT      = time.Minute            // at most this often for round trip times
)

// report is what was last written about one VPC, and what waits.
type report struct {
	written *cluster.VPCStatus // nil: nothing yet
	at      time.Time
	ready   time.Time // since when the host is ready and has not said so
	linked  time.Time // since when a link differs from what was written
	timed   time.Time // when round trip times that differ are to be written; zero: none do
	moved   bool      // links are to be compared with what was written
}

// current reports whether now, whose links are not known, is what was written
// or may wait for its links to be compared.
func (r *report) current(now *cluster.VPCStatus, t time.Time) bool {
	return r.written != nil && !r.moved && sameBasics(now, r.written) && (r.timed.IsZero() || t.Before(r.timed))
}

// due decides whether now (the present state) is to be written at t, and if
// not, when to ask again; the zero time means when something changes. p2p tells
// of a peer whether it or this node is P2P.
func (r *report) due(now *cluster.VPCStatus, t time.Time, p2p func(peer string) bool) (write bool, again time.Time) {
	w := r.written
	r.timed = time.Time{}
	joining := now.Ready && (w == nil || !w.Ready)
	switch {
	case joining:
		if r.ready.IsZero() {
			r.ready = t
		}
		return r.wait(t, r.ready.Add(reportJoining), !slices.ContainsFunc(now.Links, unknown))
	case w == nil, !sameBasics(now, w), usesDiffer(w, now, p2p):
		return true, time.Time{}
	case linksDiffer(w, now):
		if r.linked.IsZero() {
			r.linked = t
		}
		return r.wait(t, r.linked.Add(reportCoalesce), false)
	}
	r.linked = time.Time{}
	if timesDiffer(w, now) {
		write, r.timed = r.wait(t, r.at.Add(reportRTT), false)
		return write, r.timed
	}
	return false, time.Time{}
}

// early reports whether now, whose links are not known, is to wait for them, and
// until when: what due would find, but for the case that all are known.
func (r *report) early(now *cluster.VPCStatus, t time.Time) (until time.Time, early bool) {
	if !now.Ready || r.written != nil && r.written.Ready {
		return time.Time{}, false
	}
	if r.ready.IsZero() {
		r.ready = t
	}
	until = r.ready.Add(reportJoining)
	return until, t.Before(until)
}

// joining reports whether the host is ready and has not said so.
func (r *report) joining() bool { return !r.ready.IsZero() }

func (r *report) wait(t, until time.Time, enough bool) (bool, time.Time) {
	if enough || !t.Before(until) {
		return true, time.Time{}
	}
	return false, until
}

// wrote notes what was written at t.
func (r *report) wrote(s *cluster.VPCStatus, t time.Time) {
	*r = report{written: s, at: t}
}

// sameBasics compares reports without their links and times.
func sameBasics(a, b *cluster.VPCStatus) bool {
	return a.NodeID == b.NodeID && a.State == b.State && a.Ready == b.Ready && a.Reason == b.Reason && a.VNI == b.VNI &&
		a.MTU == b.MTU && a.VTEP == b.VTEP && a.Learning == b.Learning && a.Gateway == b.Gateway && a.Repairs == b.Repairs && a.FloodDropped == b.FloodDropped && a.MACsRefused == b.MACsRefused && slices.Equal(a.Ports, b.Ports)
}

func unknown(l cluster.Link) bool { return l.State == cluster.LinkUnknown }

// usesDiffer reports whether a link's use of its own tunnel is another than what
// was written: the controller waits for it. What was not written yet and is
// active does not count if a member is P2P: it came so. A link that is gone
// gives its VNI back.
func usesDiffer(w, now *cluster.VPCStatus, p2p func(peer string) bool) bool {
	return slices.ContainsFunc(now.Links, func(l cluster.Link) bool {
		old, written := linkOf(w, l.Peer)
		if !written && (l.Use == "" || l.Use == cluster.LinkActive && p2p(l.Peer)) {
			return false
		}
		return l.VNI != old.VNI || l.Use != old.Use
	}) || slices.ContainsFunc(w.Links, func(l cluster.Link) bool {
		_, there := linkOf(now, l.Peer)
		return l.VNI != 0 && !there
	})
}

// linksDiffer reports whether any link is news.
func linksDiffer(w, now *cluster.VPCStatus) bool {
	return slices.ContainsFunc(now.Links, func(l cluster.Link) bool { return news(w, l) })
}

// news reports whether a link's state or reason is another than what was
// written. A link that was not written yet and is fine does not count.
func news(w *cluster.VPCStatus, l cluster.Link) bool {
	old, written := linkOf(w, l.Peer)
	if !written {
		return l.State == cluster.LinkDown || l.Reason != ""
	}
	return l.State != cluster.LinkUnknown && (l.State != old.State || l.Reason != old.Reason)
}

// timesDiffer reports whether a round trip time moved by a quarter, and by a
// millisecond.
func timesDiffer(w, now *cluster.VPCStatus) bool {
	return slices.ContainsFunc(now.Links, func(l cluster.Link) bool {
		old, written := linkOf(w, l.Peer)
		d := math.Abs(l.RTT - old.RTT)
		return written && l.State == cluster.LinkUp && d >= 1 && d > old.RTT/4
	})
}

// linkOf finds a link in what was written.
func linkOf(w *cluster.VPCStatus, peer string) (cluster.Link, bool) {
	i, ok := slices.BinarySearchFunc(w.Links, peer, func(l cluster.Link, p string) int { return strings.Compare(l.Peer, p) })
	if !ok {
		return cluster.Link{}, false
	}
	return w.Links[i], true
}

func milliseconds(d time.Duration) float64 {
	return math.Round(d.Seconds()*1e6) / 1e3
}

func fullSizeLost(mtu int) string {
	return fmt.Sprintf("packets of %d bytes are lost: the path carries less than the VPC's MTU", mtu)
}
