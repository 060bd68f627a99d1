package controller

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Question asks whether the holder of a node's key is at an address that the
// node reports.
type Question struct {
	Node    string
	Key     string // hash, as in the node's record
	Address netip.Addr
}

// AskFunc puts a Question to the address, and returns nil only if the holder of
// the key answered from there. It is called from many goroutines.
type AskFunc func(ctx context.Context, q Question) error

// asksAtOnce is how many questions are under way at a time, and how long after a
// failure the same is asked again: first, and at most.
const (
	asksAtOnce    = 64
	askAgainFirst = time.Second
	askAgainMost  = 30 * time.Second
)

// confirmation is what is known of an address that a node reports.
type confirmation struct {
	of     Question
	held   bool // the node answered there, or peers know it by that address
	failed int  // times in a row
	why    string
	next   time.Time // no question before
}

// against says what stands against the address, "" while the first answer is
// awaited.
func (c *confirmation) against() string {
	if c.why == "" {
		return ""
	}
	return fmt.Sprintf("%s, which it reports as its underlay address, is not confirmed: the servers ask there on UDP port 4788 and get: %s; let that port in, behind NAT forward it to the host", c.of.Address, c.why)
}

// confirmations are those of all nodes. What is in member records is believed,
// so that a new leader asks about the others only.
type confirmations struct {
	nodes  map[string]*[2]confirmation // by node, for IPv4 and IPv6
	flying map[Question]bool           // put, and not answered yet
}

func newConfirmations() confirmations {
	return confirmations{nodes: map[string]*[2]confirmation{}, flying: map[Question]bool{}}
}

// of is what is known of an address; what was known of another one that the node
// had in that family is forgotten.
func (c *confirmations) of(q Question) *confirmation {
	both := c.nodes[q.Node]
	if both == nil {
		both = &[2]confirmation{}
		c.nodes[q.Node] = both
	}
	one := &both[0]
	if q.Address.Is6() {
		one = &both[1]
	}
	if one.of != q {
		*one = confirmation{of: q}
	}
	return one
}

// ask decides which questions to put, and when to look again. What another node
// holds and reports is not asked about.
func (c *confirmations) ask(w *world, now time.Time) (questions []Question, again time.Time) {
	for _, one := range w.open {
		switch {
		case w.holds(one.of.Address) || c.flying[one.of]:
		case now.Before(one.next):
			if again.IsZero() || one.next.Before(again) {
				again = one.next
			}
		case len(c.flying) < asksAtOnce: // else an answer makes room
			c.flying[one.of] = true
			questions = append(questions, one.of)
		}
	}
	if len(c.nodes) > len(w.names) {
		maps.DeleteFunc(c.nodes, func(name string, _ *[2]confirmation) bool { return w.nodes[name] == nil })
	}
	return questions, again
}

// answer takes what came of a question, and returns what is known now; nil if
// the node has another address or key by now.
func (c *confirmations) answer(q Question, err error, now time.Time) *confirmation {
	delete(c.flying, q)
	both := c.nodes[q.Node]
	if both == nil {
		return nil
	}
	for i := range both {
		one := &both[i]
		switch {
		case one.of != q:
			continue
		case err == nil:
			*one = confirmation{of: q, held: true}
		default:
			one.why = cluster.CleanText(err.Error())
			one.next = now.Add(min(askAgainFirst<<min(one.failed, 16), askAgainMost))
			one.failed++
		}
		return one
	}
	return nil
}
