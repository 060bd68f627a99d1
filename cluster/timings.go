package cluster

import (
	"fmt"
	"time"
)

// Timings are how often the store's leader is heard, and how long its silence is
// borne: in Config what is to be, in Server what is. nil is what a LAN needs, 100 ms
// and 1 s. etcd's rule: the tick is about the longest round trip between servers, the
// election timeout ten times that.
type Timings struct {
	Tick     string `json:"tick"`     // "100ms"; 10 ms to 1 s, whole milliseconds
	Election string `json:"election"` // "1s"; 5 to 100 ticks, whole milliseconds
	// Fixed says that a person has set them: servers do not make them longer.
	Fixed bool `json:"fixed,omitempty"`
}

// TimingsOf writes them.
func TimingsOf(tick, election time.Duration) *Timings {
	return &Timings{Tick: tick.String(), Election: election.String()}
}

// Durations reads them; of nil, zeros.
func (t *Timings) Durations() (tick, election time.Duration, err error) {
	if t == nil {
		return 0, 0, nil
	}
	if tick, err = time.ParseDuration(t.Tick); err != nil || tick < 10*time.Millisecond || tick > time.Second || tick%time.Millisecond != 0 {
		return 0, 0, fmt.Errorf("%w timings: tick %q, want 10ms to 1s, in whole milliseconds", ErrInvalid, CleanText(t.Tick))
	}
	if election, err = time.ParseDuration(t.Election); err != nil || election < 5*tick || election > 100*tick || election > 50*time.Second || election%time.Millisecond != 0 {
		return 0, 0, fmt.Errorf("%w timings: election %q, want 5 to 100 ticks of %s, 50s at most, in whole milliseconds", ErrInvalid, CleanText(t.Election), t.Tick)
	}
	return tick, election, nil
}
