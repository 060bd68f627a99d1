package cluster

import (
	"fmt"
	"time"
)

// What a grant is counted by. An owner of strict endpoints renews its live record by
// transactions that want its ownership unchanged; each that commits is a grant: its
// kernel lets frames pass until OwnGrant after it was sent, by a clock that goes on
// while the host is suspended. A leader that has not seen the counter move for
// GrantWait gives the endpoint to another, by a transaction that wants the record as
// it has seen it. So no renewal lies between the two, and what is left is arithmetic:
// the one clock may be slow and the other fast.
//
//	OwnGrant / (1 - 1 %) + what the kernel takes < GrantWait / (1 + 1 %)

const (
	clockSkew  = 100 // a clock's rate is wrong by one part in that at most
	grantExtra = 100 * time.Millisecond
	leastGuard = 250 * time.Millisecond // of what an owner shuts earlier, and of GrantSlack
)

// OwnGrant is how long an owner lets frames pass after it sent a renewal.
func (t FailoverTimings) OwnGrant() time.Duration {
	return t.Grant - max(t.Keepalive/4, leastGuard)
}

// GrantWait is how long a leader has to see a node's counter stand still before what
// was granted to it is over.
func (t FailoverTimings) GrantWait() time.Duration { return GrantWait(t.Grant) }

// GrantWait is the method for a grant that a node says it has.
func GrantWait(grant time.Duration) time.Duration {
	return grant + 2*grant/clockSkew + grantExtra
}

// GrantSlack is the time that is left between the two with both clocks as wrong as
// they may be: for timers, and for how long the kernel takes to be told.
func (t FailoverTimings) GrantSlack() time.Duration {
	return t.GrantWait()*clockSkew/(clockSkew+1) - t.OwnGrant()*clockSkew/(clockSkew-1)
}

// MostGrant is the longest grant of any profile: that of a node of which nothing is
// known.
func MostGrant() time.Duration {
	return max(ProfileDefault.Timings().Grant, ProfileFast.Timings().Grant)
}

// Validate refuses timings by which a grant is unsafe, or ends between two renewals.
func (t FailoverTimings) Validate() error {
	switch slack := t.GrantSlack(); {
	case slack < leastGuard:
		return fmt.Errorf("%w grant of %s: %s are left until another may have it, want %s", ErrInvalid, t.Grant, slack, leastGuard)
	case t.OwnGrant() < 2*t.Keepalive:
		return fmt.Errorf("%w grant of %s: one lost renewal ends it, with one each %s", ErrInvalid, t.Grant, t.Keepalive)
	}
	return nil
}
