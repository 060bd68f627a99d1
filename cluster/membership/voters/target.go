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
	largest int  // members of the datacenter that has most
}

// better reports whether t is worth more than u. That one server may fail comes
// first, then that any one datacenter may; for nothing less does a voter that
// answers lose its vote.
func (t *target) better(u *target) bool {
	return cmp.Or(
		cmp.Compare(min(t.spare, 1), min(u.spare, 1)),
		order(t.spread, u.spread),
		-cmp.Compare(t.dropped, u.dropped),
		cmp.Compare(t.spare, u.spare),
		-cmp.Compare(t.dead, u.dead),
		-cmp.Compare(t.largest, u.largest),
		-cmp.Compare(t.size, u.size),
	) > 0
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

// best is who should vote at rest: an odd number, the best by target.better, nil
// if none would be a quorum. With coming, learners that may soon be ready count as
// ready. Three voters and more never become fewer than three, but for an
// operator: who is silent may come back, and with two of them left the vote of
// a single one is no gain.
func (c *council) best(with standing) *target {
	least, remain := 1, 0
	for _, s := range c.stands {
		if s == sound || s == lost || s == dead {
			remain++
		}
	}
	if remain >= 3 {
		least = min(3, c.MaxVoters)
	}
	var best *target
	for size := least; size <= c.MaxVoters; size += 2 {
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
	share, alive := map[string]int{}, map[string]int{}
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
			share[s.Datacenter]++
			t.largest = max(t.largest, share[s.Datacenter])
		}
	}
	t.spare = t.size - t.dead - quorum(t.size)
	for _, n := range alive {
		t.spread = t.spread && n <= t.spare
	}
	return t
}
