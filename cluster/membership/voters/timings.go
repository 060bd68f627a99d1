package voters

import (
	"fmt"
	"time"
)

// Timing is how often a leader is heard and how long its silence is borne. It
// has to be the same on all members and is read when a member starts.
type Timing struct {
	Tick     time.Duration // heartbeat; etcd's rule: 0.5 to 1.5 times the longest round trip
	Election time.Duration // etcd's rule: 10 round trips or more; 50 s at most
}

// profiles are the timings to choose from, each for round trips up to its tick.
// From one to the next it is at most one and a half times, so that etcd's rule
// holds between them.
var profiles = []Timing{
	{100 * time.Millisecond, time.Second},
	{150 * time.Millisecond, 1500 * time.Millisecond},
	{200 * time.Millisecond, 2 * time.Second},
	{300 * time.Millisecond, 3 * time.Second},
	{450 * time.Millisecond, 4500 * time.Millisecond},
	{650 * time.Millisecond, 6500 * time.Millisecond},
	{900 * time.Millisecond, 9 * time.Second},
}

// Timings chooses for the longest round trip between any two servers, as a
// median of several measurements tells it, and says why. The shortest profile
// is etcd's own, for a LAN; the longest serves round trips of 900 ms. A longer
// profile is taken at once, since an election shorter than ten round trips may
// fail; current, the zero value if there is none, is left for a shorter one only
// when the round trip is a fifth below what that is for.
func Timings(maxRTT time.Duration, current Timing) (Timing, string) {
	held := len(profiles) - 1
	for held >= 0 && profiles[held] != current {
		held--
	}
	for i, p := range profiles {
		limit := p.Tick
		if i < held {
			limit = limit * 4 / 5
		}
		if maxRTT > limit {
			continue
		}
		if i == held && i > 0 && maxRTT <= profiles[i-1].Tick {
			return p, fmt.Sprintf("longest round trip %s: kept, since it is not far below %s", round(maxRTT), profiles[i-1].Tick)
		}
		return p, fmt.Sprintf("longest round trip %s: good for up to %s", round(maxRTT), p.Tick)
	}
	last := profiles[len(profiles)-1]
	return last, fmt.Sprintf("longest round trip %s: the slowest timings are good for up to %s, elections without need are likely", round(maxRTT), last.Tick)
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
