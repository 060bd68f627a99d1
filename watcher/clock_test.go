package watcher

import (
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/meshvpc/meshvpc/cluster"
)

// clock is the time of a bubble as package time tells it: with a wall clock,
// which may be set, and a monotonic reading, which goes on.
type clock struct {
	begun time.Time
	set   atomic.Int64 // by how much, nanoseconds
}

func newClock() *clock { return &clock{begun: time.Now()} }

func (c *clock) now() time.Time {
	now := time.Now()
	return withReading(now.Add(time.Duration(c.set.Load())), now.Sub(c.begun))
}

// withReading gives a time a monotonic reading, which only time.Now can outside
// of bubbles: see the comment of time.Time's fields.
func withReading(wall time.Time, reading time.Duration) time.Time {
	year1885 := time.Date(1885, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	fields := (*struct {
		wall uint64
		ext  int64
		loc  *time.Location
	})(unsafe.Pointer(&wall))
	*fields = struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{1<<63 | uint64(wall.Unix()-year1885)<<30 | uint64(wall.Nanosecond()), int64(reading) + 1, nil}
	return wall
}

// TestClock holds withReading to what package time says of its times.
func TestClock(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newClock()
		before := c.now()
		time.Sleep(time.Minute)
		c.set.Store(int64(-time.Hour))
		after := c.now()
		if d := after.Sub(before); d != time.Minute {
			t.Errorf("%v went by; want a minute", d)
		}
		if d := after.Round(0).Sub(before.Round(0)); d != time.Minute-time.Hour {
			t.Errorf("the wall clock moved by %v; want 59 minutes back", d)
		}
	})
}

// TestClockIsSet: an hour forth or back on a host's clock is no reason to write
// anything, and a link that goes down is noticed as soon as ever.
func TestClockIsSet(t *testing.T) {
	for name, jump := range map[string]time.Duration{"forth": time.Hour, "back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				c := newClock()
				w.now = c.now
				for i := range 3 {
					w.start(w.node(i + 1))
				}
				defer w.close()
				w.vpc(3)
				w.settle(5 * time.Second)
				revision, writes := w.revision(), w.hosts["n1"].Writes()
				c.set.Store(int64(jump))
				w.settle(5 * time.Minute)
				if n := w.revision() - revision; n != 0 {
					t.Errorf("%d revisions after the clock was set; want none", n)
				}
				if n := w.hosts["n1"].Writes() - writes; n != 0 {
					t.Errorf("%d writes to the kernel after the clock was set; want none", n)
				}
				w.net.Cut(underlayOf(1), underlayOf(2))
				w.net.Cut(underlayOf(2), underlayOf(1))
				w.settle(15 * time.Second)
				if l := cluster.LinkBetween("n1", "n2", w.status("n1"), w.status("n2")); l.State != cluster.LinkDown {
					t.Errorf("the link that was cut = %+v; want down", l)
				}
				if l := cluster.LinkBetween("n1", "n3", w.status("n1"), w.status("n3")); l.State != cluster.LinkUp {
					t.Errorf("the other link = %+v; want up", l)
				}
				c.set.Store(0) // right again
				w.net.Heal()
				w.settle(15 * time.Second)
				if l := cluster.LinkBetween("n1", "n2", w.status("n1"), w.status("n2")); l.State != cluster.LinkUp {
					t.Errorf("the link that was healed = %+v; want up", l)
				}
			})
		})
	}
}
