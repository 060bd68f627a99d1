//go:build linux

package bench

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// sample is what was measured, in the order of measuring.
type sample struct{ values []float64 }

func (s *sample) add(v float64) { s.values = append(s.values, v) }

func (s *sample) since(start, end time.Time) { s.add(milliseconds(end.Sub(start))) }

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// at is the value that a share q of all do not exceed (nearest rank), NaN of
// none.
func (s *sample) at(q float64) float64 {
	if len(s.values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(s.values))
	return v[max(0, int(math.Ceil(q*float64(len(v))))-1)]
}

func (s *sample) String() string {
	return fmt.Sprintf("min %.1f  median %.1f  p99 %.1f  max %.1f  (n %d)", s.at(0), s.at(0.5), s.at(0.99), s.at(1), len(s.values))
}
