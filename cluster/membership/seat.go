package membership

import (
	"cmp"
	"fmt"
	"slices"
)

// Seat is a member of the store, as it looks to the leader.
type Seat struct {
	Name    string // of the server; "" before it has started
	ID      uint64 // etcd's
	Voter   bool
	Healthy bool   // it answers
	Lag     uint64 // log entries behind the leader
	Out     bool   // its server was taken out of the cluster
}

// StepKind is what is done to a member.
type StepKind string

// The kinds of steps.
const (
	StepNone    StepKind = ""
	StepPromote StepKind = "promote" // a learner becomes a voter
	StepRemove  StepKind = "remove"
)

// Step is one change of the store's members.
type Step struct {
	Do  StepKind
	ID  uint64            // of whom
	Why map[string]string // of each server by name: why it votes, or does not
}

// caughtUp is how far a learner may be behind to become a voter. What is missing
// then comes within moments; etcd asks for nine tenths of the log.
const caughtUp = 1000 // log entries

// NextStep is what is to be done next, one thing at a time: who was taken out
// goes, if the others can decide without it; learners become voters when that
// makes their number odd, or when two can, one after the other.
func NextStep(seats []Seat) Step {
	seats = slices.SortedFunc(slices.Values(seats), func(a, b Seat) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	voters := 0
	var ready []Seat
	for _, s := range seats {
		switch {
		case s.Voter && !s.Out:
			voters++
		case !s.Out && s.Name != "" && s.Healthy && s.Lag <= caughtUp:
			ready = append(ready, s)
		}
	}
	step := Step{Why: map[string]string{}}
	for _, s := range seats {
		if s.Name != "" && !s.Out {
			step.Why[s.Name] = why(s, voters, slices.Contains(ready, s))
		}
	}
	for _, s := range seats {
		if s.Out && (!s.Voter || MayLose(seats, s.ID)) {
			step.Do, step.ID = StepRemove, s.ID
			return step
		}
	}
	if len(ready) > 1 || len(ready) > 0 && voters%2 == 0 {
		step.Do, step.ID = StepPromote, ready[0].ID
	}
	return step
}

func why(s Seat, voters int, ready bool) string {
	switch {
	case s.Voter && voters == 1:
		return "it votes, alone"
	case s.Voter:
		return fmt.Sprintf("it votes, one of %d", voters)
	case !s.Healthy:
		return "it does not answer"
	case !ready:
		return fmt.Sprintf("it catches up: %d log entries to go", s.Lag)
	case voters%2 == 1:
		return fmt.Sprintf("it is ready, and waits for one server more: %d voters bear no more losses than %d", voters+1, voters)
	default:
		return "it is about to vote"
	}
}

// MayLose reports whether the voters without the one with an ID, those of them
// that answer, are a majority of what is left.
func MayLose(seats []Seat, id uint64) bool {
	rest, healthy := 0, 0
	for _, s := range seats {
		if !s.Voter || s.ID == id {
			continue
		}
		rest++
		if s.Healthy {
			healthy++
		}
	}
	return rest > 0 && healthy > rest/2
}
