package observe

import (
	"slices"
	"time"

	"github.com/meshvpc/meshvpc/cluster"
)

// Heard is who of a target answered in a round.
type Heard struct{ Agent, Kernel bool }

// seen is what is known of a target: misses in a row, and whether there ever was an
// answer.
type seen struct {
	agent, kernel           int
	heardAgent, heardKernel bool
}

// judge turns rounds into verdicts. The zero judge has no targets.
type judge struct {
	dc      string // of this node
	misses  int    // until a target is silent
	targets []Target
	seen    map[string]*seen
	fresh   int  // rounds in a row that began in time
	blind   bool // no echo requests can be sent
}

// watch makes targets those that are judged; what is known of those that stay is kept.
func (j *judge) watch(dc string, misses int, targets []Target) {
	if j.misses != misses {
		j.seen, j.fresh = nil, 0
	}
	known := j.seen
	j.dc, j.misses, j.targets, j.seen = dc, misses, targets, make(map[string]*seen, len(targets))
	for _, t := range targets {
		j.seen[t.Node] = known[t.Node]
		if j.seen[t.Node] == nil {
			j.seen[t.Node] = &seen{}
		}
	}
}

// round takes what came of a round, if it was in time, and returns the verdict: its
// counter and node are not set.
func (j *judge) round(late bool, heard map[string]Heard) cluster.Verdicts {
	if late {
		j.fresh = 0
		for _, s := range j.seen {
			s.agent, s.kernel = 0, 0
		}
	} else {
		j.fresh++
		for name, s := range j.seen {
			s.hear(heard[name])
		}
	}
	v := cluster.Verdicts{Unsure: j.fresh < j.misses || j.doubts()}
	for _, t := range j.targets {
		s := j.seen[t.Node]
		if s.agent < j.misses {
			continue
		}
		unknown := j.unknown(s)
		v.Suspects = append(v.Suspects, cluster.Suspect{Node: t.Node, Kernel: unknown || s.kernel < j.misses, KernelUnknown: unknown})
	}
	return v
}

func (s *seen) hear(h Heard) {
	s.agent, s.kernel = s.agent+1, s.kernel+1
	if h.Agent {
		s.agent, s.heardAgent = 0, true
	}
	if h.Kernel {
		s.kernel, s.heardKernel = 0, true
	}
}

// unknown reports whether nobody can tell by echo requests if a target's kernel runs.
func (j *judge) unknown(s *seen) bool { return j.blind || s.heardAgent && !s.heardKernel }

// doubts reports whether so many targets are silent that it may be this node's own
// network, see the package's doc.
func (j *judge) doubts() bool {
	if len(j.targets) <= 2 {
		return false
	}
	silent, all := map[string]int{}, map[string]int{} // by datacenter
	for _, t := range j.targets {
		all[t.Datacenter]++
		if s := j.seen[t.Node]; s.agent >= j.misses && (s.kernel >= j.misses || j.unknown(s)) {
			silent[t.Datacenter]++
		}
	}
	without := func(dc string) bool {
		n, of := 0, 0
		for other := range all {
			if other != dc {
				n, of = n+silent[other], of+all[other]
			}
		}
		return 2*n <= of
	}
	if without("") { // of none: all targets count
		return false
	}
	for dc := range all {
		if dc != j.dc && without(dc) {
			return false
		}
	}
	return true
}

// tardy reports whether a round that was to end after period d ended so late that
// nobody knows what became of it: by the monotonic clock, which stands still while the
// host is suspended, or by the wall clock, which does not.
func tardy(began, now time.Time, d, period time.Duration) bool {
	wall := now.Round(0).Sub(began.Round(0))
	return max(now.Sub(began), wall) > d+period
}

// news reports whether a verdict has to be written: last is what was written last, nil
// if nothing is known to be.
func news(last *cluster.Verdicts, v cluster.Verdicts) bool {
	return len(v.Suspects) > 0 || last == nil || last.Unsure != v.Unsure || !slices.Equal(last.Suspects, v.Suspects)
}
