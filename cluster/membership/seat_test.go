package membership_test

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster/membership"
)

// seats reads "V" voter, "v" a voter that does not answer, "L" a learner, "l" one
// that does not answer, "s" one that catches up, "n" one that has not started;
// "-" after it: its server was taken out. IDs count from 1.
func seats(text string) (list []membership.Seat) {
	for _, c := range text {
		if c == '-' {
			list[len(list)-1].Out = true
			continue
		}
		id := uint64(len(list) + 1)
		s := membership.Seat{Name: fmt.Sprintf("s%d", id), ID: id, Voter: strings.ContainsRune("Vv", c), Healthy: strings.ContainsRune("VLs", c)}
		switch c {
		case 's':
			s.Lag = 5000
		case 'n':
			s.Name = ""
		}
		list = append(list, s)
	}
	return list
}

func TestNextStep(t *testing.T) {
	for _, tt := range []struct{ seats, want, why string }{
		{"V", "", "it votes, alone"},
		{"VL", "", "it is ready, and waits"},
		{"VLL", "promote 2", "it is about"},
		{"VVL", "promote 3", "it is about to vote"},
		{"VLs", "", "it catches up: 5000"},
		{"VLn", "", ""},
		{"VLl", "", "it does not answer"},
		{"VVVL", "", "it is ready, and waits"},
		{"VVVLL", "promote 4", ""},
		{"VVV-", "remove 3", ""},
		{"VvV-", "", ""},         // two are left, one of them silent
		{"Vvv-", "", ""},         // the same, and it would not even be decided
		{"VVv-", "remove 3", ""}, // a dead one goes
		{"VV-", "remove 2", ""},
		{"V-", "", ""}, // nobody would be left
		{"VL-", "remove 2", ""},
		{"VLLL-", "remove 4", ""},
		{"VVV-L", "remove 3", ""},
	} {
		t.Run(tt.seats, func(t *testing.T) {
			list := seats(tt.seats)
			step := membership.NextStep(list)
			got := ""
			if step.Do != membership.StepNone {
				got = fmt.Sprintf("%s %d", step.Do, step.ID)
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if last := list[len(list)-1].Name; tt.why != "" && tt.why != "it is about" && !strings.HasPrefix(step.Why[last], tt.why) {
				t.Errorf("why %q, want %q", step.Why[last], tt.why)
			}
		})
	}
}

// TestStepsKeepQuorum: whatever is seen, a step leaves a majority of the voters
// that answer, if there was one, and steps come to an end at an odd number or for
// want of servers.
func TestStepsKeepQuorum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := seats("V" + rapid.StringOfN(rapid.RuneFrom([]rune("VvLlsn-")), 0, 12, -1).Draw(t, "seats"))
		for range 100 {
			had := majority(list)
			step := membership.NextStep(list)
			if step.Do == membership.StepNone {
				return
			}
			var next []membership.Seat
			for _, s := range list {
				switch {
				case s.ID != step.ID:
				case step.Do == membership.StepRemove:
					continue
				default:
					s.Voter = true
				}
				next = append(next, s)
			}
			if list = next; had && !majority(list) {
				t.Fatalf("%s %d loses the quorum: %+v", step.Do, step.ID, list)
			}
		}
		t.Fatalf("no end: %+v", list)
	})
}

func majority(list []membership.Seat) bool {
	voters, healthy := 0, 0
	for _, s := range list {
		if s.Voter {
			voters++
			if s.Healthy {
				healthy++
			}
		}
	}
	return healthy > voters/2
}
