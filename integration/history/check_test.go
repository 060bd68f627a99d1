package history

import (
	"strings"
	"testing"
)

// TestCheck: a history as it should be, and each way in which one can be wrong.
func TestCheck(t *testing.T) {
	put := func(value string, rev, call, back int64) Op {
		return Op{Kind: Put, Key: "a", Value: value, Outcome: Done, Rev: rev, Call: call, Return: back}
	}
	get := func(value string, rev, call, back int64) Op {
		return Op{Kind: Get, Key: "a", Outcome: Done, Seen: value, Rev: rev, Call: call, Return: back}
	}
	guarded := func(value string, guard, rev, call, back int64) Op {
		return Op{Kind: Guarded, Key: "a", Value: value, Guard: guard, Outcome: Done, Rev: rev, Call: call, Return: back}
	}
	refused := func(value string, guard int64, seen string, rev, call, back int64) Op {
		return Op{Kind: Guarded, Key: "a", Value: value, Guard: guard, Outcome: Refused, Seen: seen, Rev: rev, Call: call, Return: back}
	}
	unknown := func(o Op) Op {
		o.Outcome, o.Rev = Unknown, 0
		return o
	}
	event := func(value string, rev int64) Event { return Event{Key: "a", Value: value, Rev: rev} }
	for name, tt := range map[string]struct {
		ops    []Op
		events []Event
		want   string // in the error; "": none
	}{
		"nothing": {},
		"one after the other": {
			[]Op{get("", 0, 0, 1), put("x", 2, 2, 3), get("x", 2, 4, 5), guarded("y", 2, 3, 6, 7), refused("z", 2, "y", 3, 8, 9)},
			[]Event{event("x", 2), event("y", 3)}, ""},
		"side by side, in either order": {
			[]Op{put("x", 3, 0, 9), put("y", 2, 0, 9), get("y", 2, 1, 2), get("x", 3, 3, 4)}, []Event{event("x", 3), event("y", 2)}, ""},
		"without an answer, done": {
			[]Op{unknown(put("x", 0, 0, 1)), get("", 0, 2, 3), get("x", 2, 4, 5)}, []Event{event("x", 2)}, ""},
		"without an answer, never done":      {[]Op{unknown(put("x", 0, 0, 1)), get("", 0, 2, 3)}, nil, ""},
		"without an answer, seen by nobody":  {[]Op{unknown(put("x", 0, 0, 1)), get("", 0, 2, 3)}, []Event{event("x", 2)}, ""},
		"a read without an answer":           {[]Op{unknown(get("x", 9, 0, 1))}, nil, ""},
		"an acknowledged write is lost":      {[]Op{put("x", 2, 0, 1)}, nil, "lost"},
		"it is there at another revision":    {[]Op{put("x", 2, 0, 1)}, []Event{event("x", 3)}, "lost"},
		"a write was made twice":             {[]Op{put("x", 2, 0, 1)}, []Event{event("x", 2), event("x", 3)}, "twice"},
		"without an answer, made twice":      {[]Op{unknown(put("x", 0, 0, 1))}, []Event{event("x", 2), event("x", 3)}, "twice"},
		"refused, and made":                  {[]Op{refused("x", 1, "", 0, 0, 1)}, []Event{event("x", 2)}, "refused write"},
		"made by nobody":                     {nil, []Event{event("x", 2)}, "nobody"},
		"seen before it was asked for":       {[]Op{get("x", 2, 0, 1), unknown(put("x", 0, 2, 3))}, []Event{event("x", 2)}, "before"},
		"a stale read":                       {[]Op{put("x", 2, 0, 1), get("", 0, 2, 3)}, []Event{event("x", 2)}, "not linearizable"},
		"a read of what was never there":     {[]Op{get("x", 2, 0, 1)}, nil, "not linearizable"},
		"a read goes back":                   {[]Op{put("x", 2, 0, 9), get("x", 2, 1, 2), get("", 0, 3, 4)}, []Event{event("x", 2)}, "not linearizable"},
		"without an answer, seen and unseen": {[]Op{unknown(put("x", 0, 0, 1)), get("x", 2, 2, 3), get("", 0, 4, 5)}, []Event{event("x", 2)}, "not linearizable"},
		"without an answer, after another was seen": {
			[]Op{unknown(put("x", 0, 4, 5)), put("y", 3, 0, 1), get("y", 3, 2, 3)}, []Event{event("x", 2), event("y", 3)}, "before"},
		"a guard that did not hold": {
			[]Op{put("x", 2, 0, 1), put("y", 3, 2, 3), guarded("z", 2, 4, 4, 5)}, []Event{event("x", 2), event("y", 3), event("z", 4)}, "not linearizable"},
		"refused although the guard held": {[]Op{put("x", 2, 0, 1), refused("y", 2, "x", 2, 2, 3)}, []Event{event("x", 2)}, "not linearizable"},
		"revisions out of order":          {[]Op{put("x", 3, 0, 1), put("y", 2, 2, 3)}, []Event{event("x", 3), event("y", 2)}, "not linearizable"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(tt.ops, tt.events)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestNow(t *testing.T) {
	if a, b := Now(), Now(); a <= 0 || b < a {
		t.Errorf("%d, then %d", a, b)
	}
}
