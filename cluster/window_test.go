package cluster

import (
	"encoding/json"
	"testing"
	"time"
)

func TestWindow(t *testing.T) {
	for in, c := range map[string]struct {
		text string // as it is written
		open []string
		shut []string
	}{
		"Sat 02:00-04:00 UTC":         {open: []string{"Sat 02:00", "Sat 03:59"}, shut: []string{"Sat 01:59", "Sat 04:00", "Sun 02:30", "Fri 02:30"}},
		"Mon-Fri 22:00-06:00 UTC":     {text: "Mon,Tue,Wed,Thu,Fri 22:00-06:00 UTC", open: []string{"Mon 22:00", "Tue 05:59", "Sat 05:59", "Fri 23:00"}, shut: []string{"Mon 05:00", "Sat 22:00", "Sun 05:00", "Sat 06:00", "Wed 12:00"}},
		"Sat-Mon,Wed 00:00-24:00 UTC": {text: "Sun,Mon,Wed,Sat 00:00-24:00 UTC", open: []string{"Sat 00:00", "Sun 23:59", "Mon 12:00", "Wed 12:00"}, shut: []string{"Tue 00:00", "Thu 00:00"}},
		"daily 03:00-05:00 UTC":       {open: []string{"Sun 03:00", "Thu 04:00"}, shut: []string{"Sun 05:00"}},
		"Sat 23:00-00:00 UTC":         {open: []string{"Sat 23:30"}, shut: []string{"Sun 00:00", "Sat 22:59"}},
	} {
		w, err := ParseWindow(in)
		if c.text == "" {
			c.text = in
		}
		if err != nil || w.String() != c.text {
			t.Errorf("%s: %s, %v", in, w, err)
		}
		var again Window
		b, err := json.Marshal(w)
		if err != nil || json.Unmarshal(b, &again) != nil || again != w {
			t.Errorf("%s: %s is %+v, %v", in, b, again, err)
		}
		for want, list := range map[bool][]string{true: c.open, false: c.shut} {
			for _, at := range list {
				now := weekday(t, at)
				if w.Open(now) != want || w.Open(now.In(time.FixedZone("", 5*3600))) != want {
					t.Errorf("%s at %s: open is %v", in, at, !want)
				}
			}
		}
	}
	for _, bad := range []string{"", "Sat", "Sat 02:00-04:00", "Sat 02:00-04:00 CET", "Sat 2:00-4:00 UTC", "Sat 02:00 UTC", "sat 02:00-04:00 UTC",
		"Sat- 02:00-04:00 UTC", "Sat 02:00-02:00 UTC", "Sat 24:00-02:00 UTC", "Sat 02:60-04:00 UTC", "Sat 02:00-24:01 UTC", "Sat,, 02:00-04:00 UTC"} {
		if w, err := ParseWindow(bad); err == nil {
			t.Errorf("%q was taken, as %s", bad, w)
		}
	}
	if (Window{}).Open(weekday(t, "Sat 00:00")) {
		t.Error("none is open")
	}
}

// weekday is a moment of one week of 2026 that begins on a Sunday.
func weekday(t *testing.T, s string) time.Time {
	at, err := time.Parse("15:04", s[4:])
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range dayNames {
		if name == s[:3] {
			return time.Date(2026, 3, 1+i, at.Hour(), at.Minute(), 0, 0, time.UTC)
		}
	}
	t.Fatal(s)
	return at
}
