package membership

import (
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/meshvpc/meshvpc/cluster"
)

// Rate is how much of something a caller may use: Burst at once, and what is
// used comes back by PerSecond.
type Rate struct{ PerSecond, Burst float64 }

// Quota bounds what one caller may use of one server. Zero values bound nothing.
type Quota struct {
	Requests Rate // a long answer counts as several
	Streams  Rate // streams and watches that are opened
	Writes   Rate // keys
	Bytes    Rate // keys and values that are written, with what each costs beside
	Value    int  // bytes of one value
	Streamed int  // streams open, and watches open
	Leases   int
	LeaseTTL time.Duration
	// Unassigned is of how many keys a node may report that are about VPCs it
	// has no part in: it does, where an assignment was lost.
	Unassigned int
}

// NodeQuota is enough for an agent with a few hundred VPCs that starts, or comes
// back. What it lets a hostile node write in the two hours that the store's
// history may last is less than a quarter of the space there is.
func NodeQuota() Quota {
	return Quota{
		Requests: Rate{200, 3000}, Streams: Rate{10, 1000}, Writes: Rate{50, 500}, Bytes: Rate{64 << 10, 8 << 20},
		Value: 256 << 10, Streamed: 1024, Leases: 16, LeaseTTL: 2 * time.Minute, Unassigned: 1024,
	}
}

// ViewerQuota is enough to look at a VPC of some thousand members again and
// again.
func ViewerQuota() Quota {
	return Quota{Requests: Rate{500, 20000}, Streams: Rate{200, 20000}, Streamed: 8192}
}

// perWrite is what a written key costs in the store beside its bytes.
const perWrite = 200

// overQuota is why a caller has to wait.
type overQuota string

func (e overQuota) Error() string { return string(e) }

// used is what a caller has used of its quota. It is pure: time comes from
// outside.
type used struct {
	requests, streams, writes, bytes bucket
	open                             int // streams
	watches                          int
	leases                           map[int64]time.Time // that may be alive, until when
	unassigned                       map[string]bool     // keys
}

// bucket holds what is missing of a Rate's burst.
type bucket struct {
	missing float64
	at      time.Time
}

// take reports whether n can be had, and takes it.
func (b *bucket) take(r Rate, n float64, now time.Time) bool {
	if r.Burst == 0 {
		return true
	}
	b.missing = max(0, b.missing-r.PerSecond*max(0, now.Sub(b.at).Seconds()))
	b.at = now
	if b.missing+n > r.Burst {
		return false
	}
	b.missing += n
	return true
}

// request takes one request.
func (u *used) request(q Quota, now time.Time) error {
	if !u.requests.take(q.Requests, 1, now) {
		return overQuota("too many requests")
	}
	return nil
}

// answered takes what the answer was worth, though there be a debt.
func (u *used) answered(q Quota, cost float64) {
	if q.Requests.Burst > 0 {
		u.requests.missing += cost
	}
}

// openStream takes a stream; the caller closes it by open--.
func (u *used) openStream(q Quota, now time.Time) error {
	return u.one(&u.open, "streams", q, now)
}

// watch takes a watch; the caller closes it by watches--.
func (u *used) watch(q Quota, now time.Time) error {
	return u.one(&u.watches, "watches", q, now)
}

// one takes one more of what are counted apart, and are new at one rate.
func (u *used) one(count *int, what string, q Quota, now time.Time) error {
	if q.Streamed > 0 && *count >= q.Streamed {
		return overQuota(fmt.Sprintf("more than %d %s", q.Streamed, what))
	}
	if !u.streams.take(q.Streams, 1, now) {
		return overQuota("too many new " + what)
	}
	*count++
	return nil
}

// write takes all that d may write, if each of it is within bounds. assigned
// tells in which VPCs the caller has a part.
func (u *used) write(q Quota, d demand, assigned func(vpc string) bool, now time.Time) error {
	bytes := 0
	fresh := map[string]bool{}
	for _, p := range d.puts {
		if q.Value > 0 && len(p.Value) > q.Value {
			return overQuota(fmt.Sprintf("a value of more than %d bytes", q.Value))
		}
		bytes += len(p.Key) + len(p.Value)
		key := string(p.Key)
		if k, err := cluster.ParseKey(key); err == nil && k.VPC != "" && !u.unassigned[key] && !assigned(k.VPC) {
			fresh[key] = true
		}
	}
	n := d.writes()
	switch {
	case q.Unassigned > 0 && len(u.unassigned)+len(fresh) > q.Unassigned:
		return overQuota("reports about too many VPCs that it has no part in")
	case !u.bytes.take(q.Bytes, float64(bytes+n*perWrite), now):
		return overQuota("too many bytes written")
	case !u.writes.take(q.Writes, float64(n), now):
		return overQuota("too many writes")
	}
	for key := range fresh {
		if u.unassigned == nil {
			u.unassigned = map[string]bool{}
		}
		u.unassigned[key] = true
	}
	return nil
}

// grant takes a lease, if it is not asked to last too long.
func (u *used) grant(q Quota, r *pb.LeaseGrantRequest, now time.Time) error {
	if q.LeaseTTL > 0 && r.TTL > int64(q.LeaseTTL/time.Second) {
		return overQuota(fmt.Sprintf("a lease of more than %v", q.LeaseTTL))
	}
	return u.lease(q, r.ID, now)
}

// lease counts a lease that was used, here or at another server before.
func (u *used) lease(q Quota, id int64, now time.Time) error {
	if q.Leases == 0 {
		return nil
	}
	if _, known := u.leases[id]; !known {
		for other, until := range u.leases {
			if !now.Before(until) {
				delete(u.leases, other)
			}
		}
		if len(u.leases) >= q.Leases {
			return overQuota(fmt.Sprintf("more than %d leases", q.Leases))
		}
	}
	if u.leases == nil {
		u.leases = map[int64]time.Time{}
	}
	u.leases[id] = now.Add(q.LeaseTTL)
	return nil
}
