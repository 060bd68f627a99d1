package cluster

import (
	"fmt"
	"time"
)

// GivenUp is an operator's word that a node is lost, in Node: failover may fence it, and
// move what it has, also where it would do neither by itself. It is about the life that
// the node had when it was said: once that goes on, or another began, it is over.
type GivenUp struct {
	// Incarnation and Counter are of the live record then; empty: it had none.
	Incarnation string `json:"incarnation,omitempty"`
	Counter     int64  `json:"counter,omitempty"`
	At          Time   `json:"at"`
}

// givenUpMost is how long the word holds at most, by whichever clock: who gave a node up
// an hour ago did not speak of what it is now.
const givenUpMost = time.Hour

// Holds reports whether the word does, of a node with that live record, nil for none.
func (g *GivenUp) Holds(l *Live, now time.Time) bool {
	return g != nil && now.Sub(g.At.Time).Abs() < givenUpMost &&
		(l == nil || l.Incarnation == g.Incarnation && l.Counter == g.Counter)
}

func (g *GivenUp) validate() error {
	switch {
	case g == nil:
		return nil
	case g.Incarnation != "" && checkID("incarnation", g.Incarnation) != nil:
		return checkID("incarnation", g.Incarnation)
	case g.Counter < 0 || g.Counter > maxCount, g.At.IsZero():
		return fmt.Errorf("%w given up: counter %d at %q", ErrInvalid, g.Counter, g.At)
	}
	return nil
}
