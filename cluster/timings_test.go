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
		"a LAN":              {in: &Timings{Tick: "100ms", Election: "1s"}, tick: 100 * time.Millisecond, election: time.Second},
		"as written":         {in: TimingsOf(300*time.Millisecond, 3*time.Second), tick: 300 * time.Millisecond, election: 3 * time.Second},
		"no unit":            {in: &Timings{Tick: "100", Election: "1s"}, bad: true},
		"hasty tick":         {in: &Timings{Tick: "9ms", Election: "1s"}, bad: true},
		"slow tick":          {in: &Timings{Tick: "1.001s", Election: "10s"}, bad: true},
		"less than 1 ms":     {in: &Timings{Tick: "100.5ms", Election: "1s"}, bad: true},
		"hasty election":     {in: &Timings{Tick: "300ms", Election: "1.4s"}, bad: true},
		"slow election":      {in: &Timings{Tick: "1s", Election: "51s"}, bad: true},
		"a hundred ticks":    {in: &Timings{Tick: "10ms", Election: "1s"}, tick: 10 * time.Millisecond, election: time.Second},
		"and no more":        {in: &Timings{Tick: "10ms", Election: "1.001s"}, bad: true},
		"an election's text": {in: &Timings{Tick: "100ms", Election: "soon"}, bad: true},
	} {
		tick, election, err := tt.in.Durations()
		if tick != tt.tick || election != tt.election || errors.Is(err, ErrInvalid) != tt.bad {
			t.Errorf("%s: %v, %v, %v", name, tick, election, err)
		}
	}
}
