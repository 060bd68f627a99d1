package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

var errSilent = errors.New("no answer")

// underlay is where hosts really are, and counts what is asked.
type underlay struct {
	mu    sync.Mutex
	at    map[netip.Addr]string // by address: the node that answers there
	asked map[Question]int
	away  int // under way
	most  int // of them at a time
	takes time.Duration
}

func (u *underlay) ask(ctx context.Context, q Question) error {
	u.mu.Lock()
	u.asked[q]++
	u.away++
	u.most = max(u.most, u.away)
	takes := u.takes
	u.mu.Unlock()
	t := time.NewTimer(takes)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.away--
	if u.at[q.Address] == q.Node {
		return nil
	}
	return errSilent
}

func (u *underlay) put(node, addr string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.at[netip.MustParseAddr(addr)] = node
}

// count is how often a node was asked at an address.
func (u *underlay) count(node, addr string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[Question{Node: node, Address: netip.MustParseAddr(addr)}]
}

func (u *underlay) total() (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, k := range u.asked {
		n += k
	}
	return n
}

// confirmed is a rig on such an underlay: VPC blue on h1, h2 and h3.
func confirmed(t *testing.T) (*rig, *underlay) {
	r := newRig(t)
	u := &underlay{at: map[netip.Addr]string{}, asked: map[Question]int{}}
	r.ask = u.ask
	r.startHosts()
	for i := range 3 {
		name, addr := fmt.Sprint("h", i+1), fmt.Sprint("192.0.2.", i+1)
		u.put(name, addr)
		r.join(name, addr)
	}
	r.start("a", r.mem)
	settle()
	r.vpc("blue", spec("all", "10.100.0.0/16"))
	pass(15 * time.Second) // until all have answered, and the history tells of it
	return r, u
}

func (r *rig) at(node string) string {
	m := get[*cluster.Member](r, cluster.KeyMember("blue", node))
	if m == nil {
		return ""
	}
	return m.Underlay().String()
}

func (r *rig) refused(node string) string {
	return get[*cluster.VPCNet](r, cluster.KeyVPCNet("blue")).Refused[node]
}

// TestAddressOfAStranger: what a node is not found at reaches no member record,
// is asked about less and less often, and is taken as soon as the node answers.
func TestAddressOfAStranger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, u := confirmed(t)
		others := r.dump(cluster.KeyMember("blue", "h1"), cluster.KeyMember("blue", "h2"))
		before := r.mem.Revision()
		r.report("h3", "198.51.100.9", 1500)
		settle()
		if r.at("h3") != "192.0.2.3" || !strings.Contains(r.refused("h3"), "keeps its underlay address: 198.51.100.9, which it reports as its underlay address, is not confirmed") ||
			!strings.Contains(r.refused("h3"), "4788 and get: no answer") {
			t.Errorf("h3 is at %s, %q", r.at("h3"), r.refused("h3"))
		}
		pass(2 * time.Minute)
		if n := r.mem.Revision() - before; n != 3 {
			t.Errorf("%d revisions, want 3: the report, the reason, the event that tells of it", n)
		}
		if n := u.count("h3", "198.51.100.9"); n < 6 || n > 10 {
			t.Errorf("asked %d times in 2 minutes, want it after 1, 2, 4 … 30 s", n)
		}
		if now := r.dump(cluster.KeyMember("blue", "h1"), cluster.KeyMember("blue", "h2")); now != others {
			t.Errorf("others changed:\n%s", now)
		}
		u.put("h3", "198.51.100.9")
		pass(askAgainMost)
		if r.at("h3") != "198.51.100.9" || r.refused("h3") != "" {
			t.Errorf("h3 is at %s, %q", r.at("h3"), r.refused("h3"))
		}
	})
}

// TestAddressOfAnother: the holder of an address is named, and is not bothered
// by questions for another.
func TestAddressOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, u := confirmed(t)
		r.report("h3", "192.0.2.1", 1500)
		pass(2 * time.Minute)
		if r.at("h3") != "192.0.2.3" || !strings.Contains(r.refused("h3"), "192.0.2.1, which it reports as its underlay address, is h1's") {
			t.Errorf("h3 is at %s, %q", r.at("h3"), r.refused("h3"))
		}
		if n := u.count("h3", "192.0.2.1"); n != 0 || r.at("h1") != "192.0.2.1" {
			t.Errorf("asked %d times, h1 is at %s", n, r.at("h1"))
		}
		r.node("h4") // a newcomer gets neither
		r.report("h4", "192.0.2.2", 1500)
		r.node("h5")
		r.report("h5", "198.51.100.1", 1500)
		pass(time.Minute)
		if r.at("h4") != "" || !strings.Contains(r.refused("h4"), "is h2's") || r.at("h5") != "" || !strings.Contains(r.refused("h5"), "not confirmed") {
			t.Errorf("h4 %q %q, h5 %q %q", r.at("h4"), r.refused("h4"), r.at("h5"), r.refused("h5"))
		}
	})
}

// TestHonestMove: two hosts that report at once that they changed places are
// both found there, which takes no revision more, and nothing is written while
// answers are awaited. (Reported one after the other, the first may be refused
// until the second is heard: its address is still the other's.)
func TestHonestMove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, u := confirmed(t)
		u.takes = 100 * time.Millisecond
		before := r.mem.Revision()
		u.put("h1", "192.0.2.2")
		u.put("h2", "192.0.2.1")
		r.txn(r.written(cluster.KeyNodeStatus("h1"), report("h1", "192.0.2.2", 1500)),
			r.written(cluster.KeyNodeStatus("h2"), report("h2", "192.0.2.1", 1500)))
		pass(50 * time.Millisecond)
		if n := r.mem.Revision() - before; n != 1 {
			t.Errorf("%d revisions while both are asked, want 1", n)
		}
		pass(time.Second)
		if n := r.mem.Revision() - before; n != 2 || r.at("h1") != "192.0.2.2" || r.at("h2") != "192.0.2.1" {
			t.Errorf("%d revisions, want 2; h1 is at %s, h2 at %s", n, r.at("h1"), r.at("h2"))
		}
	})
}

// TestHalfASwap: while one of two that change places is not found at its new
// address, it keeps the old one, which the other cannot have.
func TestHalfASwap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, u := confirmed(t)
		u.put("h1", "192.0.2.2") // h2 is in fact nowhere
		r.report("h1", "192.0.2.2", 1500)
		r.report("h2", "192.0.2.1", 1500)
		pass(time.Minute)
		if r.at("h1") != "192.0.2.1" || r.at("h2") != "192.0.2.2" || !strings.Contains(r.refused("h1"), "is h2's") {
			t.Errorf("h1 is at %s, %q; h2 at %s, %q", r.at("h1"), r.refused("h1"), r.at("h2"), r.refused("h2"))
		}
	})
}

// TestNewLeaderAsksLittle: what is in member records is believed; nodes of no
// VPC are asked again, some at a time.
func TestNewLeaderAsksLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, u := confirmed(t)
		r.edit("blue", func(s *cluster.VPCSpec) { s.Members = "h1,h2,h3" })
		const more = 3 * asksAtOnce
		for i := range more {
			name, addr := fmt.Sprint("m", i), fmt.Sprint("203.0.113.", i+1)
			u.put(name, addr)
			r.join(name, addr)
		}
		settle()
		u.takes = time.Second
		asked, before := u.total(), r.mem.Revision()
		r.start("b", r.mem)
		r.delete(cluster.KeyLeader)
		pass(30 * time.Second)
		if n := u.total() - asked; n != more {
			t.Errorf("%d questions of a new leader, want %d", n, more)
		}
		if u.most != asksAtOnce {
			t.Errorf("%d questions under way at a time, want %d", u.most, asksAtOnce)
		}
		if got := get[*cluster.Leader](r, cluster.KeyLeader); got == nil || r.mem.Revision()-before > 4 {
			t.Errorf("%v leads, %d revisions", got, r.mem.Revision()-before)
		}
	})
}

// TestAnswerThatComesLate is about another address than the node has by then.
func TestAnswerThatComesLate(t *testing.T) {
	now := time.Unix(1000, 0)
	q := Question{Node: "h1", Key: "k", Address: netip.MustParseAddr("192.0.2.1")}
	for name, later := range map[string]Question{
		"another address": {q.Node, q.Key, netip.MustParseAddr("192.0.2.2")}, "another key": {q.Node, "l", q.Address},
	} {
		c := newConfirmations()
		c.of(q)
		c.flying[q] = true
		one := c.of(later)
		if c.answer(q, nil, now) != nil || one.held || c.of(later).held || len(c.flying) != 0 {
			t.Errorf("%s: %+v", name, c.of(later))
		}
		if c.of(q).held {
			t.Errorf("%s: it is held when it comes back", name)
		}
	}
	c := newConfirmations()
	if c.answer(q, nil, now) != nil {
		t.Error("a node that is gone was confirmed")
	}
}
