package watcher

import (
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func seeded() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func oneLink() (*links, linkID) {
	ls, id := newLinks(seeded()), linkID{"vpc1", "b"}
	ls.set(epoch, map[linkID]target{id: {netip.MustParseAddr("10.100.0.2"), 1430}})
	return ls, id
}

// run drives the schedule from epoch for d; alive says whether a probe sent at
// that moment is answered, 1 ms later. It returns when probes were sent.
func run(ls *links, d time.Duration, alive func(at time.Duration, p Probe) bool) (sent []time.Duration) {
	type outcome struct {
		at   time.Time
		p    Probe
		lost bool
	}
	var waiting []outcome
	for now := epoch; now.Before(epoch.Add(d)); now = now.Add(time.Millisecond) {
		for i := 0; i < len(waiting); i++ {
			if w := waiting[i]; !w.at.After(now) {
				ls.answer(now, w.p, time.Millisecond, w.lost)
				waiting = append(waiting[:i], waiting[i+1:]...)
				i--
			}
		}
		due, _ := ls.due(now)
		for _, p := range due {
			sent = append(sent, now.Sub(epoch))
			if alive(now.Sub(epoch), p) {
				waiting = append(waiting, outcome{now.Add(time.Millisecond), p, false})
			} else {
				waiting = append(waiting, outcome{now.Add(probeTimeout), p, true})
			}
		}
	}
	return sent
}

func TestLinkStates(t *testing.T) {
	for name, tt := range map[string]struct {
		alive func(time.Duration, Probe) bool
		after time.Duration
		want  cluster.LinkState
	}{
		"up at once":               {func(time.Duration, Probe) bool { return true }, 10 * time.Millisecond, cluster.LinkUp},
		"peer comes 300 ms later":  {func(at time.Duration, _ Probe) bool { return at > 300*time.Millisecond }, 600 * time.Millisecond, cluster.LinkUp},
		"new and silent, early":    {func(time.Duration, Probe) bool { return false }, 2 * time.Second, cluster.LinkUnknown},
		"new and silent":           {func(time.Duration, Probe) bool { return false }, 5 * time.Second, cluster.LinkDown},
		"one loss":                 {func(at time.Duration, _ Probe) bool { return at < time.Second || at > 12*time.Second }, 40 * time.Second, cluster.LinkUp},
		"dies after a second":      {func(at time.Duration, _ Probe) bool { return at < time.Second }, 20 * time.Second, cluster.LinkDown},
		"dies and comes back":      {func(at time.Duration, _ Probe) bool { return at < time.Second || at > 20*time.Second }, 24 * time.Second, cluster.LinkUp},
		"small packets only is up": {func(_ time.Duration, p Probe) bool { return p.size == 0 }, 20 * time.Second, cluster.LinkUp},
	} {
		t.Run(name, func(t *testing.T) {
			ls, id := oneLink()
			run(ls, tt.after, tt.alive)
			if got := ls.all[id].state; got != tt.want {
				t.Errorf("state after %v = %s; want %s", tt.after, got, tt.want)
			}
		})
	}
}

func TestFullSizeLossHasAReason(t *testing.T) {
	ls, id := oneLink()
	run(ls, 15*time.Second, func(_ time.Duration, p Probe) bool { return p.size == 0 })
	if got := ls.all[id].report().Reason; got != fullSizeLost(1430) {
		t.Errorf("reason = %q; want %q", got, fullSizeLost(1430))
	}
	ls, id = oneLink()
	run(ls, 15*time.Second, func(time.Duration, Probe) bool { return true })
	if got := ls.all[id].report().Reason; got != "" {
		t.Errorf("reason of a whole link = %q; want none", got)
	}
}

func TestProbeBudget(t *testing.T) {
	ls := newLinks(seeded())
	targets := map[linkID]target{}
	for i := range 5000 {
		targets[linkID{"vpc1", time.Duration(i).String()}] = target{netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 1430}
	}
	ls.set(epoch, targets)
	sent := run(ls, 10*time.Second, func(time.Duration, Probe) bool { return false })
	perSecond := map[int]int{}
	for _, at := range sent {
		perSecond[int(at/time.Second)]++
	}
	for s, n := range perSecond {
		if most := probeBudget + 1; n > most && s > 0 {
			t.Errorf("%d probes in second %d; want at most %d", n, s, most)
		}
	}
	if len(sent) < 9*probeBudget {
		t.Errorf("%d probes in 10 s; want the budget of %d a second to be used", len(sent), probeBudget)
	}
}

func TestIdleLinkIsProbedEveryTenSeconds(t *testing.T) {
	ls, _ := oneLink()
	sent := run(ls, 101*time.Second, func(time.Duration, Probe) bool { return true })
	if n := len(sent); n < 10 || n > 13 {
		t.Errorf("%d probes in 101 s; want about one every 10 s", n)
	}
}

func TestMovedPeerIsANewLink(t *testing.T) {
	ls, id := oneLink()
	run(ls, time.Second, func(time.Duration, Probe) bool { return true })
	stale := Probe{id: id, to: netip.MustParseAddr("10.100.0.2"), seq: 99}
	ls.set(epoch.Add(time.Second), map[linkID]target{id: {netip.MustParseAddr("10.100.0.9"), 1430}})
	if ls.answer(epoch.Add(time.Second), stale, time.Millisecond, false) || ls.all[id].state != cluster.LinkUnknown {
		t.Errorf("an answer from the former address counted: state %s", ls.all[id].state)
	}
	ls.set(epoch.Add(2*time.Second), nil)
	if due, again := ls.due(epoch.Add(time.Hour)); len(due) != 0 || !again.IsZero() {
		t.Errorf("due without links = %v, %v; want nothing, never", due, again)
	}
}
