package watcher

import (
	"maps"
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// published is where a MAC is that no endpoint has, as its record says.
type published struct {
	Node     string `json:"node"`
	Sequence uint64 `json:"sequence"`
	Frozen   bool   `json:"frozen,omitempty"` // two machines have it
}

// claims are the MACs that this host says to have at its own ports, in one VPC.
type claims struct {
	of map[cluster.MAC]*claim
	// lost are MACs that another node has: with what this host had heard of each by
	// the time it read that, which counts no more.
	lost    map[cluster.MAC]uint64
	refused int // that are heard, and not claimed for lack of room
	said    int // of these, as last reported
	// budget bounds the writes that tenants can cause; it was filled up at filled.
	budget float64
	filled time.Time
}

// claim is one of them.
type claim struct {
	port     string
	sequence uint64
	gone     time.Time // since when the bridge does not know it any more; zero: it does
}

const (
	// claimGrace is how long a MAC stays claimed that the bridge has forgotten, which
	// it does after as long: what says nothing for so long needs to be asked for.
	claimGrace = 5 * time.Minute
	// claimRate is how many claims may come or change their port in a second, when
	// claimBurst have.
	claimRate  = 10
	claimBurst = cluster.MaxPublishedNode
)

func newClaims(now time.Time) *claims {
	return &claims{of: map[cluster.MAC]*claim{}, lost: map[cluster.MAC]uint64{}, budget: claimBurst, filled: now}
}

// hearing is what claims follow from.
type hearing struct {
	me    string
	heard *hostops.Table[cluster.MAC, hostops.Heard]
	ports []string // of the bridge, that are not ours
	is    map[cluster.MAC]published
	taken func(cluster.MAC) bool // by an endpoint, or a VTEP
}

// follow brings claims in line with what was heard, and reports whether it changed
// where this host takes MACs to be; again is when to look again, zero: when something
// happens.
//
// As in RFC 7432 §15, what is heard here and published elsewhere is claimed with the
// next sequence, if it was heard after this host knew that; and given up when a record
// of another node has a sequence that is not less.
func (c *claims) follow(now time.Time, h hearing) (changed bool, again time.Time) {
	c.budget = min(c.budget+now.Sub(c.filled).Seconds()*claimRate, claimBurst)
	c.filled, c.refused = now, 0
	for _, mac := range h.inOrder() {
		heard, _ := h.heard.Get(mac)
		mine := c.of[mac]
		switch {
		case h.taken(mac):
			delete(c.of, mac)
			changed = changed || mine != nil
		case h.elsewhere(mac, mine) && (mine != nil || h.is[mac].Frozen || heard.Count <= c.lost[mac]):
			delete(c.of, mac)
			changed = changed || mine != nil || c.lost[mac] != heard.Count
			c.lost[mac] = heard.Count
		case mine == nil && (len(c.of) == cluster.MaxPublishedNode || !c.spend()):
			c.refused++
		case mine == nil:
			c.of[mac], changed = &claim{port: heard.Port, sequence: h.next(mac)}, true
		default:
			mine.gone = time.Time{}
			if mine.port != heard.Port && c.spend() {
				mine.port = heard.Port
			}
			if p := h.is[mac]; p.Node == h.me {
				mine.sequence = max(mine.sequence, p.Sequence)
			}
		}
	}
	maps.DeleteFunc(c.lost, func(mac cluster.MAC, _ uint64) bool { return h.is[mac].Node == "" || h.is[mac].Node == h.me })
	for mac, mine := range c.of {
		if _, heard := h.heard.Get(mac); heard {
			continue
		}
		if mine.gone.IsZero() {
			mine.gone = now
		}
		end := mine.gone.Add(claimGrace)
		if h.taken(mac) || h.elsewhere(mac, mine) || !slices.Contains(h.ports, mine.port) || !now.Before(end) {
			delete(c.of, mac)
			changed = true
			continue
		}
		again = earliest(again, end)
	}
	if c.refused > 0 && len(c.of) < cluster.MaxPublishedNode {
		again = earliest(again, now.Add(time.Second))
	}
	return changed, again
}

// inOrder lists what is heard, that which is published here first.
func (h hearing) inOrder() []cluster.MAC {
	rank := func(mac cluster.MAC) int {
		if h.is[mac].Node == h.me {
			return 0
		}
		return 1
	}
	return slices.SortedFunc(h.heard.Keys(), func(a, b cluster.MAC) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return a.Compare(b)
	})
}

// elsewhere reports whether another node has a MAC, whatever this host claims of it.
func (h hearing) elsewhere(mac cluster.MAC, mine *claim) bool {
	p, known := h.is[mac]
	return known && p.Node != h.me && (mine == nil || p.Frozen || p.Sequence >= mine.sequence)
}

// next is the sequence of a new claim.
func (h hearing) next(mac cluster.MAC) uint64 {
	p, known := h.is[mac]
	switch {
	case !known:
		return 0
	case p.Node == h.me:
		return p.Sequence
	}
	return p.Sequence + 1
}

// spend takes from the budget what a write costs, if it is there.
func (c *claims) spend() bool {
	if c.budget < 1 {
		return false
	}
	c.budget--
	return true
}
