package cluster

import (
	"fmt"
	"strconv"
)

// FloodLimit is how many frames a second each tunnel of a VPC takes on each host of
// those that go to all: broadcasts, multicasts, and unicasts for a MAC that nobody was
// heard from. Zero is DefaultFloodLimit.
type FloodLimit int

// Values of a flood limit.
const (
	NoFloodLimit      FloodLimit = -1
	DefaultFloodLimit FloodLimit = 1000
	MaxFloodLimit     FloodLimit = 1_000_000
)

const noLimit = "none"

// ParseFloodLimit reads a number from 1 to MaxFloodLimit, or none. Errors wrap
// ErrInvalid.
func ParseFloodLimit(s string) (FloodLimit, error) {
	if s == noLimit {
		return NoFloodLimit, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || FloodLimit(n) > MaxFloodLimit {
		return 0, fmt.Errorf("%w flood limit %q: want 1 to %d frames a second, or none", ErrInvalid, CleanText(s), MaxFloodLimit)
	}
	return FloodLimit(n), nil
}

// String is the number in force, or "none".
func (l FloodLimit) String() string {
	if l == NoFloodLimit {
		return noLimit
	}
	return strconv.Itoa(l.Rate())
}

// Rate is in frames a second; 0: no bound.
func (l FloodLimit) Rate() int {
	switch l {
	case NoFloodLimit:
		return 0
	case 0:
		return int(DefaultFloodLimit)
	}
	return int(l)
}

func checkFloodLimit(l FloodLimit) error {
	if l < NoFloodLimit || l > MaxFloodLimit {
		return fmt.Errorf("%w flood limit %d: want 1 to %d frames a second, or -1 for none", ErrInvalid, int(l), MaxFloodLimit)
	}
	return nil
}
