package mvcc

import (
	"cmp"
	"slices"
	"time"
)

// Lessor knows when leases end. It is pure: time is an argument. The zero
// value holds no lease and is usable; it is not safe for concurrent use.
type Lessor struct {
	leases map[LeaseID]term
	first  time.Time // no lease ends before
}

type term struct {
	ttl      time.Duration
	deadline time.Time
}

// Grant starts a lease, or starts it afresh.
func (l *Lessor) Grant(id LeaseID, ttl time.Duration, now time.Time) {
	if l.leases == nil {
		l.leases = make(map[LeaseID]term)
	}
	t := term{ttl, now.Add(ttl)}
	if len(l.leases) == 0 || t.deadline.Before(l.first) {
		l.first = t.deadline
	}
	l.leases[id] = t
}

// Renew gives a lease its full TTL again and returns that. A lease that is
// gone, or over at now, is ErrLeaseNotFound.
func (l *Lessor) Renew(id LeaseID, now time.Time) (time.Duration, error) {
	t, ok := l.leases[id]
	if !ok || !now.Before(t.deadline) {
		return 0, ErrLeaseNotFound
	}
	l.Grant(id, t.ttl, now)
	return t.ttl, nil
}

// Remove forgets a lease.
func (l *Lessor) Remove(id LeaseID) { delete(l.leases, id) }

// Expired lists the leases that are over at now, by deadline, then ID. They
// stay until removed.
func (l *Lessor) Expired(now time.Time) []LeaseID {
	if now.Before(l.first) {
		return nil
	}
	l.first, _ = l.Next()
	var ids []LeaseID
	for id, t := range l.leases {
		if !now.Before(t.deadline) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b LeaseID) int {
		return cmp.Or(l.leases[a].deadline.Compare(l.leases[b].deadline), cmp.Compare(a, b))
	})
	return ids
}

// Next is the earliest deadline; false when there is no lease.
func (l *Lessor) Next() (time.Time, bool) {
	var next time.Time
	for _, t := range l.leases {
		if next.IsZero() || t.deadline.Before(next) {
			next = t.deadline
		}
	}
	return next, !next.IsZero()
}

// Reset holds exactly these leases, each with its full TTL from now: what a
// new leader does, or a store that was restored.
func (l *Lessor) Reset(leases map[LeaseID]time.Duration, now time.Time) {
	clear(l.leases)
	for id, ttl := range leases {
		l.Grant(id, ttl, now)
	}
}
