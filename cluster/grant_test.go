package cluster

import (
	"math/rand/v2"
	"testing"
	"time"
)

func TestGrantTimings(t *testing.T) {
	for p, want := range map[Profile][3]time.Duration{
		ProfileDefault: {8250 * time.Millisecond, 9280 * time.Millisecond, 850 * time.Millisecond},
		ProfileFast:    {2750 * time.Millisecond, 3160 * time.Millisecond, 350 * time.Millisecond},
	} {
		x := p.Timings()
		if got := [3]time.Duration{x.OwnGrant(), x.GrantWait(), x.GrantSlack().Truncate(50 * time.Millisecond)}; got != want {
			t.Errorf("%q: %v, want %v", p, got, want)
		}
		if err := p.Validate(); err != nil {
			t.Error(err)
		}
	}
	for name, x := range map[string]FailoverTimings{
		"too little slack": {Keepalive: time.Second, Grant: 1000 * time.Second},
		"too short":        {Keepalive: time.Second, Grant: 2 * time.Second},
		"none":             {Keepalive: time.Second},
	} {
		if x.Validate() == nil {
			t.Errorf("%s: %s of %+v are fine", name, x.GrantSlack(), x)
		}
	}
}

// overlaps plays one owner that was granted something for the last time: how long the
// next is open before it shuts. All times are true ones.
func overlap(rng *rand.Rand, x FailoverTimings, skew float64) time.Duration {
	rate := func() float64 { return 1 - skew + 2*skew*float64(rng.IntN(2)) }
	scaled := func(d time.Duration, rate float64) time.Duration { return time.Duration(float64(d) / rate) }
	upTo := func(d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
	committed := upTo(x.Keepalive) // after it was sent: it may take as long as a period
	seen := committed + upTo(50*time.Millisecond)
	shut := scaled(x.OwnGrant(), rate()) + upTo(100*time.Millisecond) // the kernel may be late by as much
	return shut - (seen + scaled(x.GrantWait(), rate()))
}

// TestGrantsNeverOverlap: with clocks as wrong as is promised for, another is open only
// after the owner has shut; with worse ones that is seen to fail.
func TestGrantsNeverOverlap(t *testing.T) {
	for _, p := range []Profile{ProfileDefault, ProfileFast} {
		rng, x := rand.New(rand.NewPCG(1, 1)), p.Timings()
		least, bad := time.Hour, 0
		for range 200_000 {
			if d := overlap(rng, x, 0.01); d > 0 {
				t.Fatalf("%q: two are open for %s", p, d)
			} else {
				least = min(least, -d)
			}
			if overlap(rng, x, 0.1) > 0 {
				bad++
			}
		}
		t.Logf("%q: at least %s between the two; with clocks wrong by 10 %% %d of 200000 overlap", p, least, bad)
		if least > x.GrantSlack() || bad == 0 {
			t.Errorf("%q: this shows nothing", p)
		}
	}
}
