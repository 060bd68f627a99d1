package cluster

import (
	"maps"
	"slices"
)

// Quorum is which datacenters' loss leaves too few voting servers to decide anything:
// then nobody moves what ran there. The zero value is of no servers at all, which says
// nothing: an external etcd has voters of its own.
type Quorum struct {
	voters int
	in     map[string]int // servers that vote, by datacenter
	sites  map[string]bool
}

// Add counts a server.
func (q *Quorum) Add(s *Server) {
	if q.in == nil {
		q.in, q.sites = map[string]int{}, map[string]bool{}
	}
	q.sites[s.Datacenter] = true
	if s.Voter {
		q.voters++
		q.in[s.Datacenter]++
	}
}

// Voters are how many servers vote, in all and in a datacenter.
func (q *Quorum) Voters(dc string) (all, there int) { return q.voters, q.in[dc] }

// Survives reports whether the others could decide without a datacenter.
func (q *Quorum) Survives(dc string) bool {
	return q.voters == 0 || 2*(q.voters-q.in[dc]) > q.voters
}

// Sites are in how many datacenters there are servers, whether they vote or not.
func (q *Quorum) Sites() int { return len(q.sites) }

// Stranded are the datacenters, sorted, that an endpoint with these places would not
// leave by itself if they were lost: it could be elsewhere, and nobody could say so. One
// whose places are all in one datacenter has nowhere else to be anyway; that a node
// there is lost needs no other datacenter's vote.
func (q *Quorum) Stranded(p Place, nodes map[string]*Node) (dcs []string) {
	in := map[string]bool{}
	for name, n := range nodes {
		if _, ok := p.Rank(name, n); ok {
			in[n.Datacenter] = true
		}
	}
	if len(in) < 2 {
		return nil
	}
	for _, dc := range slices.Sorted(maps.Keys(in)) {
		if !q.Survives(dc) {
			dcs = append(dcs, dc)
		}
	}
	return dcs
}
