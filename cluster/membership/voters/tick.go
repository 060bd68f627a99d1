package voters

import "time"

// ticks are what a store's leader may be heard at, each for round trips up to as much
// (etcd: 0.5 to 1.5 of the longest). From one to the next it is at most one and a half
// times, so that etcd's rule also holds while members differ. The first is a LAN's.
var ticks = []time.Duration{
	100 * time.Millisecond, 150 * time.Millisecond, 200 * time.Millisecond, 300 * time.Millisecond,
	450 * time.Millisecond, 650 * time.Millisecond, 900 * time.Millisecond,
}

// Tick chooses for the longest round trip from the server that leads to another: now,
// if that is long enough, else the next that is, or the longest. It never chooses a
// shorter one: who leads knows its own distances alone, and another may lead next.
func Tick(longest, now time.Duration) time.Duration {
	if longest <= now {
		return now
	}
	for _, t := range ticks {
		if longest <= t {
			return max(t, now)
		}
	}
	return max(ticks[len(ticks)-1], now)
}
