package history

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// patience is how long the search for an order may take; then there is no verdict,
// which is an error.
const patience = time.Minute

// Check returns what is wrong with a history, nil if nothing is. Events are all of
// the store's, in any order.
func Check(ops []Op, events []Event) error {
	known, err := settle(ops, events)
	if err != nil {
		return err
	}
	keys := map[string][]porcupine.Operation{}
	for i, o := range known {
		keys[o.Key] = append(keys[o.Key], porcupine.Operation{ClientId: i, Input: o, Call: o.Call, Output: o, Return: o.Return})
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if r := porcupine.CheckOperationsTimeout(model(), keys[key], patience); r != porcupine.Ok {
			return fmt.Errorf("%d operations on %s: not linearizable (%s)", len(keys[key]), key, r)
		}
	}
	return nil
}

// register is a key's state.
type register struct {
	rev   int64
	value string
}

// model says which answers a register gives. Revisions grow.
func model() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return register{} },
		Step: func(state, input, _ any) (bool, any) {
			now, o := state.(register), input.(Op)
			seen := register{o.Rev, o.Seen}
			switch {
			case o.Kind == Get:
				return seen == now, now
			case o.Outcome == Refused:
				return seen == now && o.Guard != now.rev, now
			case o.Kind == Guarded && o.Guard != now.rev:
				return false, now
			}
			return o.Rev > now.rev, register{o.Rev, o.Value}
		},
	}
}

// settle compares writes with the store's events and leaves operations with known
// outcomes only: reads without an answer tell nothing, writes without one either
// never were or are done. The latter happened before anybody saw them, or a later
// write of the key.
func settle(ops []Op, events []Event) (known []Op, err error) {
	var errs []error
	written := map[string]Event{}
	for _, e := range events {
		if other, twice := written[e.Value]; twice {
			errs = append(errs, fmt.Errorf("%q was written twice, to %s at revision %d and to %s at %d", e.Value, other.Key, other.Rev, e.Key, e.Rev))
		}
		written[e.Value] = e
	}
	seen := sightings(ops)
	for _, o := range ops {
		if !o.writes() {
			if o.Outcome == Done {
				known = append(known, o)
			}
			continue
		}
		e, is := written[o.Value]
		delete(written, o.Value)
		switch {
		case o.Outcome == Done && (!is || e.Key != o.Key || e.Rev != o.Rev):
			errs = append(errs, fmt.Errorf("an acknowledged write is lost: %+v", o))
		case o.Outcome == Refused && is:
			errs = append(errs, fmt.Errorf("a refused write was made at revision %d: %+v", e.Rev, o))
		case o.Outcome == Unknown && !is:
			continue
		case o.Outcome == Unknown:
			o.Outcome, o.Rev, o.Return = Done, e.Rev, until(seen[o.Key], e.Rev)
			if o.Return < o.Call {
				errs = append(errs, fmt.Errorf("a write was seen before it was asked for: %+v", o))
			}
		}
		known = append(known, o)
	}
	for _, e := range written {
		errs = append(errs, fmt.Errorf("nobody wrote %+v", e))
	}
	return known, errors.Join(errs...)
}

// sighting is when a revision of a key, or a later one, had been seen at the latest.
type sighting struct{ rev, at int64 }

// sightings are those of each key, by revision, the last one first.
func sightings(ops []Op) map[string][]sighting {
	seen := map[string][]sighting{}
	for _, o := range ops {
		if o.Outcome != Unknown {
			seen[o.Key] = append(seen[o.Key], sighting{o.Rev, o.Return})
		}
	}
	for _, list := range seen {
		slices.SortFunc(list, func(a, b sighting) int { return cmp.Compare(b.rev, a.rev) })
		for i := range list[1:] {
			list[i+1].at = min(list[i+1].at, list[i].at)
		}
	}
	return seen
}

// until is when a write of that revision had happened; never seen, it may happen
// after all else.
func until(seen []sighting, rev int64) int64 {
	at := int64(math.MaxInt64)
	for _, s := range seen {
		if s.rev < rev {
			break
		}
		at = s.at
	}
	return at
}
