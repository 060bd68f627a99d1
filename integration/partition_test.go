package integration

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/meshvpc/meshvpc/integration/history"
)

// watchedTrio is a trio with clients: one on each server's host, which speaks to that
// server only, and one on the host without, which speaks to all.
type watchedTrio struct {
	*trio
	clients map[string]*recorder // by host
}

func newWatchedTrio(ctx context.Context, t *testing.T, name string) *watchedTrio {
	t.Helper()
	c := &watchedTrio{newTrio(ctx, t, name), map[string]*recorder{}}
	for _, host := range c.servers() {
		h, err := c.Lab.Host(ctx, host)
		c.must(err)
		c.clients[host] = c.startRegisters(ctx, host, registerClient{Name: host, Endpoint: fmt.Sprintf("[%s]:2379", h.Underlay[0].Addr())})
	}
	c.clients[c.plain] = c.startRegisters(ctx, c.plain, registerClient{Name: c.plain})
	return c
}

func (c *trio) servers() []string { return append([]string{c.Server}, serverNames(c)...) }

// works waits until clients of hosts have so many answers after a moment.
func (c *watchedTrio) works(ctx context.Context, from int64, answers int, hosts ...string) {
	c.t.Helper()
	c.must(c.Until(ctx, func() error {
		for _, h := range hosts {
			if answered, unknown := c.clients[h].within(from, math.MaxInt64); len(answered) < answers {
				return fmt.Errorf("the client on %s has %d answers, and none to %d others", h, len(answered), len(unknown))
			}
		}
		return nil
	}))
}

// refuses waits until clients of hosts have given up, each several times.
func (c *watchedTrio) refuses(ctx context.Context, from int64, hosts ...string) {
	c.t.Helper()
	c.must(c.Until(ctx, func() error {
		for _, h := range hosts {
			if _, unknown := c.clients[h].within(from, math.MaxInt64); len(unknown) < registerWorkers {
				return fmt.Errorf("the client on %s has given up %d times", h, len(unknown))
			}
		}
		return nil
	}))
}

// TestPartitions takes links between servers in each way that matters, one after the
// other: who has no majority answers nothing, and says so in time; the others go on;
// and all that all have seen is what one register for each key could have shown.
func TestPartitions(t *testing.T) {
	lengthy(t)
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	c := newWatchedTrio(ctx, t, "testpartition")
	everybody := slices.Collect(maps.Keys(c.clients))
	c.works(ctx, 0, 5, everybody...)
	for _, cut := range []struct {
		name string
		do   func(leader, second, third string) error
		off  func(leader, second, third string) []string // whose clients get no answer
	}{
		{"the leader is cut off", func(leader, _, _ string) error { return c.Lab.Cut(ctx, leader, "") },
			func(leader, _, _ string) []string { return []string{leader} }},
		{"another server is cut off", func(_, second, _ string) error { return c.Lab.Cut(ctx, second, "") },
			func(_, second, _ string) []string { return []string{second} }},
		{"nobody has a majority", func(leader, second, _ string) error {
			if err := c.Lab.Cut(ctx, leader, ""); err != nil {
				return err
			}
			return c.Lab.Cut(ctx, second, "")
		}, func(string, string, string) []string { return everybody }},
		{"a server cannot reach the leader", func(leader, second, _ string) error { return c.Lab.Cut(ctx, second, leader) },
			func(_, second, _ string) []string { return []string{second} }},
		{"nobody hears the leader", func(leader, second, third string) error {
			if err := c.Lab.OneWay(ctx, leader, second); err != nil {
				return err
			}
			return c.Lab.OneWay(ctx, leader, third)
		}, func(leader, _, _ string) []string { return []string{leader} }},
		{"the leader hears nobody", func(leader, second, third string) error {
			if err := c.Lab.OneWay(ctx, second, leader); err != nil {
				return err
			}
			return c.Lab.OneWay(ctx, third, leader)
		}, func(leader, _, _ string) []string { return []string{leader} }},
	} {
		leader := c.leader(ctx)
		rest := slices.DeleteFunc(c.servers(), func(s string) bool { return s == leader })
		off := cut.off(leader, rest[0], rest[1])
		on := slices.DeleteFunc(slices.Clone(everybody), func(h string) bool { return slices.Contains(off, h) })
		c.must(cut.do(leader, rest[0], rest[1]))
		from := history.Now()
		c.works(ctx, from, 20, on...)
		c.refuses(ctx, from, off...)
		to := history.Now()
		c.must(c.Lab.Heal(ctx))
		healed := history.Now()
		c.works(ctx, healed, 5, everybody...)
		var patience time.Duration
		for _, h := range off {
			answered, unknown := c.clients[h].within(from, to)
			if len(answered) > 0 {
				t.Errorf("%s: on %s, which is cut off, %d answers: %+v", cut.name, h, len(answered), answered[0])
			}
			for _, o := range unknown {
				patience = max(patience, time.Duration(o.Return-o.Call))
			}
		}
		if patience > registerWithin+2*time.Second {
			t.Errorf("%s: a refusal took %v", cut.name, patience)
		}
		t.Logf("%s: without an answer %v, %v at the most for each try; others: no answer for %v; first answers after it ended: %v", cut.name,
			off, patience.Round(time.Millisecond), c.gap(from, to, on), c.first(healed))
	}
	c.flap(ctx)
	c.judge(ctx, slices.Collect(maps.Values(c.clients)))
}

// flapEvery and flapFor are how often a link comes or goes, and how long.
const (
	flapEvery = 2 * time.Second
	flapFor   = 20 * time.Second
)

// flap takes the leader's link and gives it back, again and again: writes go on, and
// in the end all work.
func (c *watchedTrio) flap(ctx context.Context) {
	c.t.Helper()
	leader := c.leader(ctx)
	rest := slices.DeleteFunc(slices.Collect(maps.Keys(c.clients)), func(s string) bool { return s == leader })
	from := history.Now()
	for end := time.Now().Add(flapFor); time.Now().Before(end); {
		c.must(c.Lab.Cut(ctx, leader, ""))
		<-time.After(flapEvery)
		c.must(c.Lab.Heal(ctx))
		<-time.After(flapEvery)
	}
	to := history.Now()
	c.works(ctx, to, 5, append(rest, leader)...)
	answered := 0
	for _, h := range rest {
		list, _ := c.clients[h].within(from, to)
		answered += len(list)
	}
	c.t.Logf("the link of %s, which led, flaps for %v: the others got %d answers, none for %v at the most; first answers after it ended: %v", leader,
		flapFor, answered, c.gap(from, to, rest), c.first(to))
	if answered < 20 {
		c.t.Errorf("while the link of %s flaps, the others got %d answers", leader, answered)
	}
}

// gap is the longest time in which no client of these hosts got an answer.
func (c *watchedTrio) gap(from, to int64, hosts []string) time.Duration {
	at := []int64{from, to}
	for _, h := range hosts {
		answered, _ := c.clients[h].within(from, to)
		for _, o := range answered {
			at = append(at, o.Return)
		}
	}
	slices.Sort(at)
	longest := int64(0)
	for i := range at[1:] {
		longest = max(longest, at[i+1]-at[i])
	}
	return time.Duration(longest).Round(time.Millisecond)
}

// first is how long after a moment each client got its first answer.
func (c *watchedTrio) first(from int64) map[string]time.Duration {
	after := map[string]time.Duration{}
	for host, r := range c.clients {
		answered, _ := r.within(0, math.MaxInt64)
		for _, o := range answered {
			if o.Return > from {
				after[host] = time.Duration(o.Return - from).Round(time.Millisecond)
				break
			}
		}
	}
	return after
}
