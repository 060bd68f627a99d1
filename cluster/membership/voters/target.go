package voters

import "cmp"

// target is a set of servers that could vote, and how good that is.
type target struct {
	in      []bool // by index of council.servers
	size    int
	spare   int  // members that may fail before those left are too few
	spread  bool // whichever datacenter is lost, enough members are left
	dropped int  // voters that answer, or did a moment ago, and are no members
	dead    int  // members that are dead
}

// better reports whether t is worth more than u. First comes that any one
// datacenter may be lost, and thus any one server: for nothing less does a voter
// that answers lose its vote.
func (t *target) better(u *target) bool {
	return cmp.Or(order(t.spread, u.spread), cmp.Compare(u.dropped, t.dropped), cmp.Compare(t.spare, u.spare)) > 0
}

// order is like cmp.Compare: true is more.
func order(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// best is who should vote at rest: an odd number, the best by target.better and
// the fewest of these, nil if none would be a quorum. With coming, learners that
// may soon be ready count as ready.
func (c *council) best(with standing) *target {
	var best *target
	for size := 1; size <= c.MaxVoters; size += 2 {
		for _, most := range []int{size - quorum(size), size} {
			if t := c.fill(size, most, with); t != nil && t.spare >= 0 && (best == nil || t.better(best)) {
				best = t
			}
		}
	}
	return best
}

// fill chooses size servers, at most most of a datacenter: voters before
// learners before the dead, each from the datacenter that has least so far,
// servers before witnesses. It is nil if there are not so many.
func (c *council) fill(size, most int, with standing) *target {
	in, share := make([]bool, len(c.servers)), map[string]int{}
	for range size {
		pick := -1
		for i, s := range c.servers {
			stands := c.stands[i]
			if in[i] || share[s.Datacenter] >= most || stands > with && stands != dead {
				continue
			}
			if pick < 0 || cmp.Or(
				cmp.Compare(max(stands, lost), max(c.stands[pick], lost)), // sound or lost: a voter
				cmp.Compare(share[s.Datacenter], share[c.servers[pick].Datacenter]),
				order(s.Witness, c.servers[pick].Witness)) < 0 {
				pick = i
			}
		}
		if pick < 0 {
			return nil
		}
		in[pick] = true
		share[c.servers[pick].Datacenter]++
	}
	return c.weigh(in)
}

// weigh says how good it is that those of in vote. Who was silent for a moment
// only counts as one that answers.
func (c *council) weigh(in []bool) *target {
	t := &target{in: in, spread: true}
	alive := map[string]int{}
	for i, s := range c.servers {
		switch {
		case !in[i] && c.stands[i] <= lost:
			t.dropped++
		case in[i] && c.stands[i] == dead:
			t.dead++
		case in[i]:
			alive[s.Datacenter]++
		}
		if in[i] {
			t.size++
		}
	}
	t.spare = t.size - t.dead - quorum(t.size)
	for _, n := range alive {
		t.spread = t.spread && n <= t.spare
	}
	return t
}
