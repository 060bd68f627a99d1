package voters

import (
	"cmp"
	"slices"
	"time"
)

// Role is what a server is in the store's membership.
type Role string

// The roles of a server. Absent has a record and is no member: it has not joined
// yet, or was removed and has not come back.
const (
	Absent  Role = "absent"
	Learner Role = "learner"
	Voter   Role = "voter"
)

// Server is what the leader sees of one server.
type Server struct {
	Name       string // unique; also of a member that has not started and tells none
	Datacenter string // "" is unknown, and one datacenter with all others unknown
	Witness    bool
	Role       Role
	Healthy    bool
	For        time.Duration // how long Healthy has been what it is; see Watch
	CaughtUp   bool          // of a learner: etcd would promote it
	Addressed  bool          // of a learner: its record says where clients reach it
	Removed    bool          // by an operator
}

// Policy is what the number of voters and patience with them are to be.
type Policy struct {
	// MaxVoters is the most that vote at rest, default 5; an even number counts as
	// the odd one below it. During an exchange one more votes.
	MaxVoters int
	// Grace is how long a voter is silent before it counts as dead, default 5
	// minutes.
	Grace time.Duration
	// Stabilization is how long a learner is healthy before it may vote, default
	// 10 s.
	Stabilization time.Duration
}

// View is all servers as the leader sees them at one moment, in any order.
type View struct {
	Servers []Server
	Policy  Policy
}

func (p Policy) withDefaults() Policy {
	p.MaxVoters = max(1, cmp.Or(p.MaxVoters, 5))
	p.MaxVoters -= 1 - p.MaxVoters%2
	p.Grace = cmp.Or(p.Grace, 5*time.Minute)
	p.Stabilization = cmp.Or(p.Stabilization, 10*time.Second)
	return p
}

// standing is how a server counts when voters are chosen, the best first.
type standing int

const (
	sound   standing = iota // a voter that answers
	lost                    // a voter that does not, for less than Grace
	ready                   // a learner that may be promoted
	coming                  // a learner that may soon be ready
	dead                    // a voter silent for Grace
	leaving                 // removed by an operator, and still a member
	out                     // anything else
)

func (s Server) standing(p Policy) standing {
	switch {
	case s.Role != Voter && s.Role != Learner:
		return out
	case s.Removed:
		return leaving
	case s.Role == Voter && s.Healthy:
		return sound
	case s.Role == Voter && s.For < p.Grace:
		return lost
	case s.Role == Voter:
		return dead
	case s.Healthy && s.CaughtUp && s.Addressed && s.For >= p.Stabilization:
		return ready
	case s.For < p.Grace:
		return coming
	}
	return out
}

// quorum is how many of n voters have to agree.
func quorum(n int) int { return n/2 + 1 }

// council is a View in order of names, with what follows from it.
type council struct {
	Policy
	servers []Server
	stands  []standing
	votes   int            // voters
	answer  int            // voters that are healthy
	share   map[string]int // voters of each datacenter
}

func newCouncil(v View) *council {
	c := &council{Policy: v.Policy.withDefaults(), servers: slices.Clone(v.Servers), share: map[string]int{}}
	slices.SortFunc(c.servers, func(a, b Server) int { return cmp.Compare(a.Name, b.Name) })
	for _, s := range c.servers {
		c.stands = append(c.stands, s.standing(c.Policy))
		if s.Role == Voter {
			c.votes++
			c.share[s.Datacenter]++
		}
		if s.Role == Voter && s.Healthy {
			c.answer++
		}
	}
	return c
}

// first is the server of that standing that comes first by name and of which
// test holds, -1 if there is none.
func (c *council) first(of standing, test func(i int) bool) int {
	for i := range c.servers {
		if c.stands[i] == of && test(i) {
			return i
		}
	}
	return -1
}

// last is like first, from the other end.
func (c *council) last(of standing, test func(i int) bool) int {
	for i := len(c.servers) - 1; i >= 0; i-- {
		if c.stands[i] == of && test(i) {
			return i
		}
	}
	return -1
}
