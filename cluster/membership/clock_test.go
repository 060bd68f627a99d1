package membership

import (
	"testing"
	"time"
)

func TestOffset(t *testing.T) {
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		sent, received time.Time
		want           Offset
	}{
		"equal clocks":        {noon.Add(300 * time.Millisecond), noon.Add(400 * time.Millisecond), Offset{-400 * time.Millisecond, 700 * time.Millisecond}},
		"this one is ahead":   {noon.Add(time.Hour), noon.Add(time.Hour + time.Second), Offset{-time.Hour - time.Second, -time.Hour + time.Second}},
		"this one is behind":  {noon.Add(-time.Hour), noon.Add(-time.Hour), Offset{time.Hour, time.Hour + time.Second}},
		"a slow answer spans": {noon.Add(-10 * time.Second), noon.Add(10 * time.Second), Offset{-10 * time.Second, 11 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := offsetOf(noon, tt.sent, tt.received); got != tt.want {
				t.Errorf("offset %v, want %v", got, tt.want)
			}
		})
	}
}
