package voters

import (
	"testing"
	"time"
)

func TestTick(t *testing.T) {
	const ms = time.Millisecond
	for name, tt := range map[string]struct{ longest, now, want time.Duration }{
		"nobody else":           {0, 100 * ms, 100 * ms},
		"a LAN":                 {ms, 100 * ms, 100 * ms},
		"just enough":           {100 * ms, 100 * ms, 100 * ms},
		"a little too far":      {101 * ms, 100 * ms, 150 * ms},
		"another continent":     {180 * ms, 100 * ms, 200 * ms},
		"to a satellite":        {620 * ms, 100 * ms, 650 * ms},
		"farther than there is": {2 * time.Second, 100 * ms, 900 * ms},
		"never faster":          {ms, 300 * ms, 300 * ms},
		"slow by hand":          {950 * ms, time.Second, time.Second},
		"fast by hand":          {30 * ms, 10 * ms, 100 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Tick(tt.longest, tt.now); got != tt.want {
				t.Errorf("Tick(%v, %v) = %v, want %v", tt.longest, tt.now, got, tt.want)
			}
		})
	}
	for i, at := range ticks[1:] {
		if before := ticks[i]; at <= before || 2*at > 3*before {
			t.Errorf("%v comes after %v", at, before)
		}
	}
}
