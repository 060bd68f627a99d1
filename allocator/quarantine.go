package allocator

import (
	"time"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// QuarantineTime is how long a released value stays taken: a kernel may still
// hold it.
const QuarantineTime = 60 * time.Second

// Quarantine counts the time of released values from when it first saw them,
// by its caller's clock: a new leader counts afresh. The zero value is usable;
// it is for one goroutine.
type Quarantine struct {
	since map[string]seen
}

type seen struct {
	mod int64
	at  time.Time
}

// Due lists the reverse keys whose time is over, and says when to ask again;
// the zero time if nothing waits.
func (q *Quarantine) Due(v *store.View, now time.Time) (due []store.Item[*cluster.Allocation], again time.Time) {
	still := map[string]seen{}
	for it := range store.Below[*cluster.Allocation](v, cluster.PrefixAlloc) {
		if !it.Value.Released {
			continue
		}
		s, ok := q.since[it.Key]
		if !ok || s.mod != it.Mod {
			s = seen{it.Mod, now}
		}
		still[it.Key] = s
		end := s.at.Add(QuarantineTime)
		switch {
		case !now.Before(end):
			due = append(due, it)
		case again.IsZero() || end.Before(again):
			again = end
		}
	}
	q.since = still
	return due, again
}
