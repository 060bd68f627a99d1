package watcher

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func oneLink() (*links, linkID) {
	ls, id := newLinks(seeded()), linkID{"vpc1", "b"}
	ls.set(epoch, slices.Values([]target{{id, netip.MustParseAddr("10.100.0.2"), 1430}}))
	return ls, id
}

// run drives the schedule from epoch for d; alive says whether a probe sent at
// that moment is answered, 1 ms later. It returns when probes were sent.
func run(ls *links, d time.Duration, alive func(at time.Duration, p Probe) bool) (sent []time.Duration) {
	type reply struct {
		at time.Time
		p  Probe
	}
	var replies []reply // in order of at
	for now := epoch; now.Before(epoch.Add(d)); now = now.Add(time.Millisecond) {
		for len(replies) > 0 && !replies[0].at.After(now) {
			ls.answer(now, replies[0].p, time.Millisecond, false)
			replies = replies[1:]
		}
		for p, ok := ls.lost(now); ok; p, ok = ls.lost(now) {
			ls.answer(now, p, 0, true)
		}
		for _, p := range ls.due(now) {
			sent = append(sent, now.Sub(epoch))
			if alive(now.Sub(epoch), p) {
				replies = append(replies, reply{now.Add(time.Millisecond), p})
			}
		}
	}
	return sent
}

// busiest is the greatest number of sent within any span of d.
func busiest(sent []time.Duration, d time.Duration) (most int) {
	first := 0
	for i, at := range sent {
		for sent[first] <= at-d {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func manyLinks(n int) *links {
	ls := newLinks(seeded())
	var targets []target
	for i := range n {
		targets = append(targets, target{linkID{"vpc1", fmt.Sprint("n", i)}, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1430})
	}
	ls.set(epoch, slices.Values(targets))
	return ls
}

func always(time.Duration, Probe) bool { return true }
func never(time.Duration, Probe) bool  { return false }

func TestLinkStates(t *testing.T) {
	for name, tt := range map[string]struct {
		alive func(time.Duration, Probe) bool
		after time.Duration
		want  cluster.LinkState
	}{
		"up at once":               {always, 10 * time.Millisecond, cluster.LinkUp},
		"peer comes 300 ms later":  {func(at time.Duration, _ Probe) bool { return at > 300*time.Millisecond }, 600 * time.Millisecond, cluster.LinkUp},
		"new and silent, early":    {never, 2 * time.Second, cluster.LinkUnknown},
		"new and silent":           {never, 5 * time.Second, cluster.LinkDown},
		"one loss":                 {func(at time.Duration, _ Probe) bool { return at < time.Second || at > 12*time.Second }, 40 * time.Second, cluster.LinkUp},
		"dies after a second":      {func(at time.Duration, _ Probe) bool { return at < time.Second }, 20 * time.Second, cluster.LinkDown},
		"dies and comes back":      {func(at time.Duration, _ Probe) bool { return at < time.Second || at > 60*time.Second }, 72 * time.Second, cluster.LinkUp},
		"down for a moment":        {func(at time.Duration, _ Probe) bool { return at < time.Second || at > 14*time.Second }, 18 * time.Second, cluster.LinkUp},
		"small packets only is up": {func(_ time.Duration, p Probe) bool { return p.size == 0 }, 20 * time.Second, cluster.LinkUp},
	} {
		t.Run(name, func(t *testing.T) {
			ls, _ := oneLink()
			run(ls, tt.after, tt.alive)
			if got := ls.slots[0].link.state; got != tt.want {
				t.Errorf("state after %v = %s; want %s", tt.after, got, tt.want)
			}
		})
	}
}

func TestFullSizeLossHasAReason(t *testing.T) {
	ls, _ := oneLink()
	run(ls, 15*time.Second, func(_ time.Duration, p Probe) bool { return p.size == 0 })
	if got := ls.slots[0].link.report().Reason; got != fullSizeLost(1430) {
		t.Errorf("reason = %q; want %q", got, fullSizeLost(1430))
	}
	ls, _ = oneLink()
	run(ls, 15*time.Second, always)
	if got := ls.slots[0].link.report().Reason; got != "" {
		t.Errorf("reason of a whole link = %q; want none", got)
	}
}

// TestFaultHasAReason: probes that cannot be made are told apart from those
// that are lost, and the report follows when that changes.
func TestFaultHasAReason(t *testing.T) {
	ls, id := oneLink()
	run(ls, 5*time.Second, never)
	p := Probe{id: id, to: ls.slots[0].link.to, seq: 99}
	reason := func() string { return ls.slots[0].link.report().Reason }
	for _, step := range []struct {
		err  error
		news bool
		want string
	}{
		{fmt.Errorf("ping: %w", hostops.ErrNoAnswer), false, ""},
		{errors.New("open ICMP socket: operation not permitted"), true, "open ICMP socket: operation not permitted"},
		{errors.New("open ICMP socket: operation not permitted"), false, "open ICMP socket: operation not permitted"},
		{fmt.Errorf("ping: %w", hostops.ErrNoAnswer), true, ""},
		{fmt.Errorf("ping: %w", hostops.ErrCongested), false, ""},
		{errors.New("send: network is unreachable"), true, "send: network is unreachable"},
	} {
		if news := ls.blame(p, step.err); news != step.news || reason() != step.want {
			t.Errorf("after %v: news %t, reason %q; want %t, %q", step.err, news, reason(), step.news, step.want)
		}
	}
	at := epoch.Add(time.Minute)
	for _, due := range ls.due(at) {
		ls.answer(at, due, time.Millisecond, false)
	}
	if got := reason(); got != "" || ls.slots[0].link.state != cluster.LinkUp {
		t.Errorf("reason of a link that is %s = %q; want none, up", ls.slots[0].link.state, got)
	}
	if p.to = netip.MustParseAddr("10.100.0.9"); ls.blame(p, errors.New("stale")) {
		t.Error("a probe of the peer's former address counted")
	}
}

// TestProbeBudget: in no second are more probes sent than the budget, and if
// that many are wanted, nearly as many are; each link has its turn.
func TestProbeBudget(t *testing.T) {
	for _, n := range []int{10, 400, 1000, 2000, 5000} {
		for name, alive := range map[string]func(time.Duration, Probe) bool{"silent": never, "answering": always} {
			t.Run(fmt.Sprint(n, " ", name), func(t *testing.T) {
				ls := manyLinks(n)
				last, longest := map[linkID]time.Duration{}, time.Duration(0)
				const settled, end = 120 * time.Second, 300 * time.Second
				sent := run(ls, end, func(at time.Duration, p Probe) bool {
					if before, ok := last[p.id]; ok && at > settled {
						longest = max(longest, at-before)
					}
					last[p.id] = at
					return alive(at, p)
				})
				if got := busiest(sent, time.Second); got > probeBudget {
					t.Errorf("%d probes in one second; want at most %d", got, probeBudget)
				}
				if len(ls.known) != n {
					t.Fatalf("%d of %d links were ever probed", len(ls.known), n)
				}
				for id, l := range ls.known {
					if last[id] == 0 || l.state != map[string]cluster.LinkState{"silent": cluster.LinkDown, "answering": cluster.LinkUp}[name] {
						t.Fatalf("link to %s is %s, last probed at %v", id.peer, l.state, last[id])
					}
				}
				period := max(10*time.Second, time.Duration(n)*5*time.Millisecond)
				if name == "silent" { // few links that are down are asked more often
					period = min(period, max(2*time.Second, time.Duration(n)*10*time.Millisecond))
				}
				if longest > period*6/5+2*time.Second {
					t.Errorf("a link waited %v for its next probe; want about %v", longest, period)
				}
				calm, _ := slices.BinarySearch(sent, settled)
				if got, most := len(sent)-calm, n*int(end-settled)/int(period*8/10); got > most {
					t.Errorf("%d probes in %v; want at most %d, a probe a link every %v", got, end-settled, most, period)
				}
				if got := len(sent) - calm; n >= 2000 && got < int((end-settled)/time.Second)*probeBudget*8/10 {
					t.Errorf("%d probes in %v; want the budget of %d a second used", got, end-settled, probeBudget)
				}
			})
		}
	}
}

// TestNewLinksTakeTurns: many new links do not spend the budget on the first few.
func TestNewLinksTakeTurns(t *testing.T) {
	ls := manyLinks(100)
	up := map[linkID]bool{}
	run(ls, time.Second, func(at time.Duration, p Probe) bool {
		if at > 300*time.Millisecond { // the peers come a moment later
			up[p.id] = true
		}
		return up[p.id]
	})
	if len(ls.known) != 100 {
		t.Errorf("%d of 100 links were ever probed", len(ls.known))
	}
	for id, l := range ls.known {
		if l.state != cluster.LinkUp {
			t.Errorf("link to %s is %s a second after its start", id.peer, l.state)
		}
	}
}

func TestLateAnswerIsNone(t *testing.T) {
	ls, _ := oneLink()
	p := ls.due(epoch)[0]
	if q, ok := ls.lost(epoch.Add(probeTimeout)); !ok || q != p {
		t.Fatalf("lost = %v, %v; want %v", q, ok, p)
	}
	ls.answer(epoch.Add(probeTimeout), p, 0, true)
	if ls.answer(epoch.Add(probeTimeout+1), p, time.Second, false) || ls.slots[0].link.state != cluster.LinkUnknown {
		t.Errorf("an answer counted after the probe was lost: link is %s", ls.slots[0].link.state)
	}
}

func TestIdleLinkIsProbedEveryTenSeconds(t *testing.T) {
	ls, _ := oneLink()
	sent := run(ls, 101*time.Second, always)
	if n := len(sent); n < 10 || n > 13 {
		t.Errorf("%d probes in 101 s; want about one every 10 s", n)
	}
}

func TestMovedPeerIsANewLink(t *testing.T) {
	ls, id := oneLink()
	run(ls, time.Second, always)
	stale := ls.due(epoch.Add(time.Hour))[0]
	ls.set(epoch.Add(time.Second), slices.Values([]target{{id, netip.MustParseAddr("10.100.0.9"), 1430}}))
	if ls.answer(epoch.Add(time.Second), stale, time.Millisecond, false) || ls.slots[0].link.state != cluster.LinkUnknown {
		t.Errorf("an answer from the former address counted: state %s", ls.slots[0].link.state)
	}
	ls.set(epoch.Add(2*time.Second), slices.Values([]target(nil)))
	if due := ls.due(epoch.Add(2 * time.Hour)); len(due) != 0 {
		t.Errorf("due without links = %v; want nothing", due)
	}
	for _, ok := ls.lost(epoch.Add(2 * time.Hour)); ok; _, ok = ls.lost(epoch.Add(2 * time.Hour)) {
	}
	if again := ls.again(epoch.Add(2 * time.Hour)); !again.IsZero() {
		t.Errorf("without links again at %v; want never", again)
	}
}
