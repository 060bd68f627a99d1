package voters

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const ms = time.Millisecond

// TestTimings: the profiles, and how long one is kept.
func TestTimings(t *testing.T) {
	at := func(tick time.Duration) Timing { return Timing{tick, 10 * tick} }
	for name, tt := range map[string]struct {
		rtt     time.Duration
		current Timing
		want    time.Duration // tick
		why     string
	}{
		"a LAN":                    {rtt: 300 * time.Microsecond, want: 100 * ms, why: "longest round trip 300µs: good for up to 100ms"},
		"nothing measured":         {rtt: 0, want: 100 * ms},
		"an ocean":                 {rtt: 120 * ms, want: 150 * ms, why: "120ms: good for up to 150ms"},
		"the far side":             {rtt: 200 * ms, want: 200 * ms},
		"a satellite":              {rtt: 610 * ms, want: 650 * ms},
		"the longest":              {rtt: 900 * ms, want: 900 * ms},
		"longer than any":          {rtt: 5 * time.Second, want: 900 * ms, why: "good for up to 900ms, elections without need are likely"},
		"longer at once":           {rtt: 101 * ms, current: at(100 * ms), want: 150 * ms},
		"shorter not at once":      {rtt: 99 * ms, current: at(150 * ms), want: 150 * ms, why: "kept, since it is not far below 100ms"},
		"but soon":                 {rtt: 80 * ms, current: at(150 * ms), want: 100 * ms},
		"down by several":          {rtt: 10 * ms, current: at(900 * ms), want: 100 * ms},
		"with room to each":        {rtt: 95 * ms, current: at(900 * ms), want: 150 * ms},
		"up by several":            {rtt: 400 * ms, current: at(100 * ms), want: 450 * ms},
		"timings of somebody else": {rtt: 99 * ms, current: Timing{123 * ms, time.Second}, want: 100 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			got, why := Timings(tt.rtt, tt.current)
			if got != at(tt.want) || !strings.Contains(why, tt.why) {
				t.Errorf("Timings(%s, %v) = %v, %q; want %v, …%s…", tt.rtt, tt.current, got, why, at(tt.want), tt.why)
			}
		})
	}
}

// TestTimingsRule: etcd's rule holds for every round trip that a profile is
// for, and what shakes by a tenth does not flap.
func TestTimingsRule(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rtt := time.Duration(rapid.Int64Range(0, int64(900*ms)).Draw(t, "rtt"))
		fresh, _ := Timings(rtt, Timing{})
		if fresh.Election < 10*rtt || fresh.Election < 5*fresh.Tick || fresh.Election > 50*time.Second {
			t.Errorf("election %s for %s", fresh.Election, rtt)
		}
		if rtt > 100*ms && (fresh.Tick < rtt/2 || fresh.Tick > rtt*3/2) {
			t.Errorf("tick %s for %s", fresh.Tick, rtt)
		}
		now, changes := fresh, 0
		for range 50 {
			sample := time.Duration(float64(rtt) * rapid.Float64Range(0.9, 1.1).Draw(t, "shake"))
			next, _ := Timings(sample, now)
			if next != now {
				changes++
			}
			if next.Election < 10*min(sample, 900*ms) {
				t.Errorf("election %s for %s", next.Election, sample)
			}
			if sample > 125*ms && next.Tick > 2*sample {
				t.Errorf("tick %s for %s", next.Tick, sample)
			}
			now = next
		}
		if changes > 1 {
			t.Errorf("%d changes around %s", changes, rtt)
		}
	})
}
