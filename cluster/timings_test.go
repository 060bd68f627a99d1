package cluster

import (
	"errors"
	"testing"
	"time"
)

func TestTimings(t *testing.T) {
	for name, tt := range map[string]struct {
		in             *Timings
		tick, election time.Duration
		bad            bool
	}{
		"none":               {},
		"a LAN":              {in: &Timings{"100ms", "1s"}, tick: 100 * time.Millisecond, election: time.Second},
		"as written":         {in: TimingsOf(300*time.Millisecond, 3*time.Second), tick: 300 * time.Millisecond, election: 3 * time.Second},
		"no unit":            {in: &Timings{"100", "1s"}, bad: true},
		"hasty tick":         {in: &Timings{"9ms", "1s"}, bad: true},
		"slow tick":          {in: &Timings{"1.001s", "10s"}, bad: true},
		"less than 1 ms":     {in: &Timings{"100.5ms", "1s"}, bad: true},
		"hasty election":     {in: &Timings{"300ms", "1.4s"}, bad: true},
		"slow election":      {in: &Timings{"1s", "51s"}, bad: true},
		"a hundred ticks":    {in: &Timings{"10ms", "1s"}, tick: 10 * time.Millisecond, election: time.Second},
		"and no more":        {in: &Timings{"10ms", "1.001s"}, bad: true},
		"an election's text": {in: &Timings{"100ms", "soon"}, bad: true},
	} {
		tick, election, err := tt.in.Durations()
		if tick != tt.tick || election != tt.election || errors.Is(err, ErrInvalid) != tt.bad {
			t.Errorf("%s: %v, %v, %v", name, tick, election, err)
		}
	}
}
