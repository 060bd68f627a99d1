package cluster

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Window is a time of each week, in UTC, from some minute to before another. One whose
// end is not after its beginning ends on the day after. The zero value is none, which
// is never open.
type Window struct {
	days     uint8 // on which it begins, bit 0 is Sunday
	from, to int16 // minutes of the day
}

const (
	everyDay  = 1<<7 - 1
	minutes   = 24 * 60
	windowUse = `want days, from, to and UTC, such as "Sat 02:00-04:00 UTC", "Mon-Fri 22:00-06:00 UTC", "daily 03:00-05:00 UTC"`
)

var dayNames = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// ParseWindow reads "Sat 02:00-04:00 UTC". Days are Sun to Sat, joined by commas, ranges
// of them, or daily. Other zones are refused: hosts do not agree on what they are. Errors
// wrap ErrInvalid.
func ParseWindow(s string) (w Window, err error) {
	words := strings.Fields(s)
	if len(words) == 3 && words[2] == "UTC" {
		from, to, _ := strings.Cut(words[1], "-")
		days, okDays := parseDays(words[0])
		first, okFrom := parseMinute(from)
		last, okTo := parseMinute(to)
		if okDays && okFrom && okTo && first != last && first < minutes {
			return Window{days, first, last}, nil
		}
	}
	return w, fmt.Errorf("%w window %q: %s", ErrInvalid, CleanText(s), windowUse)
}

func parseDays(s string) (days uint8, ok bool) {
	if s == "daily" {
		return everyDay, true
	}
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		a, b := slices.Index(dayNames, first), slices.Index(dayNames, last)
		if !isRange {
			b = a
		}
		if a < 0 || b < 0 {
			return 0, false
		}
		for days |= 1 << b; a != b; a = (a + 1) % 7 {
			days |= 1 << a
		}
	}
	return days, true
}

// parseMinute reads HH:MM up to 24:00.
func parseMinute(s string) (int16, bool) {
	h, m, _ := strings.Cut(s, ":")
	hour, err1 := strconv.ParseUint(h, 10, 8)
	minute, err2 := strconv.ParseUint(m, 10, 8)
	at := hour*60 + minute
	return int16(at), err1 == nil && err2 == nil && len(h) == 2 && len(m) == 2 && minute < 60 && at <= minutes //nolint:gosec // at most 255*60+59
}

// Open reports whether now is in it.
func (w Window) Open(now time.Time) bool {
	now = now.UTC()
	at, today := int16(now.Hour()*60+now.Minute()), now.Weekday()
	if w.from < w.to {
		return w.begins(today) && at >= w.from && at < w.to
	}
	return w.begins(today) && at >= w.from || w.begins((today+6)%7) && at < w.to
}

func (w Window) begins(day time.Weekday) bool { return w.days&(1<<day) != 0 }

// Equal reports whether two are the same; for packages that compare whole records.
func (w Window) Equal(o Window) bool { return w == o }

// IsZero reports whether there is none.
func (w Window) IsZero() bool { return w == Window{} }

func (w Window) String() string {
	if w.IsZero() {
		return ""
	}
	days := "daily"
	if w.days != everyDay {
		var names []string
		for i, name := range dayNames {
			if w.begins(time.Weekday(i)) {
				names = append(names, name)
			}
		}
		days = strings.Join(names, ",")
	}
	return fmt.Sprintf("%s %02d:%02d-%02d:%02d UTC", days, w.from/60, w.from%60, w.to/60, w.to%60)
}

// MarshalText writes what ParseWindow reads.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText is ParseWindow.
func (w *Window) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWindow(string(b))
	return err
}
