package voters

import "time"

// maxGap is the most that one observation proves of the time since the last.
const maxGap = 5 * time.Second

// Watch is what a leader saw of the servers' health, from its election on: make
// a new one then. It counts time that was watched, never the clock's: after a
// clock that jumps, or a leader that was frozen itself, nobody has been silent
// for longer than was seen. The zero value is ready for use, by one goroutine.
type Watch struct{ seen map[string]sight }

type sight struct {
	healthy bool
	lasts   time.Duration
}

// Observe takes in the health of all servers, elapsed after the last call by
// the monotonic clock; at most 5 s of that count. Servers not named are
// forgotten.
func (w *Watch) Observe(elapsed time.Duration, healthy map[string]bool) {
	now := make(map[string]sight, len(healthy))
	for name, h := range healthy {
		if was, ok := w.seen[name]; ok && was.healthy == h {
			now[name] = sight{h, was.lasts + min(max(elapsed, 0), maxGap)}
		} else {
			now[name] = sight{healthy: h}
		}
	}
	w.seen = now
}

// Health is what the last Observe was told of a server, and for how long that
// has been so without a break.
func (w *Watch) Health(name string) (healthy bool, lasts time.Duration) {
	s := w.seen[name]
	return s.healthy, s.lasts
}
