package voters

import "fmt"

// why says of a server why it votes, or why it does not.
func (d *deliberation) why(i int) string {
	s := d.servers[i]
	if d.answer < quorum(d.votes) && s.Role != Absent && !s.Removed {
		return d.whyStuck(s)
	}
	switch d.stands[i] {
	case leaving:
		if wait := d.blocked(i); wait != "" {
			return "removed by an operator; waits: " + wait
		}
		return "removed by an operator"
	case lost:
		return fmt.Sprintf("votes; does not answer, and counts as dead if that lasts %s", d.Grace)
	case dead:
		if d.want.has(i) {
			return fmt.Sprintf("votes; silent for longer than %s, and no server is ready to take its place", d.Grace)
		}
		return "loses its vote: " + d.whyDead()
	case sound:
		switch {
		case d.want.has(i):
			return fmt.Sprintf("votes: one of %d, of %d in %s", d.votes, d.share[s.Datacenter], place(s.Datacenter))
		case d.hope.has(i):
			return "votes, while a learner on its way may make the number odd"
		}
		return "gives its vote up: " + d.whyDrop()
	case ready:
		if d.want.has(i) {
			return "is to vote: " + d.whyVote(i)
		}
		return "stands by: " + d.whyStandby()
	}
	return d.whyNotReady(s)
}

// whyStuck is of a member while quorum is lost.
func (d *deliberation) whyStuck(s Server) string {
	switch {
	case s.Role == Learner:
		return "learns: " + d.fewAnswer()
	case s.Healthy:
		return "votes: " + d.fewAnswer()
	}
	return "votes; does not answer: " + d.fewAnswer()
}

func (c *council) fewAnswer() string {
	return fmt.Sprintf("%d of %d voters answer and %d must", c.answer, c.votes, quorum(c.votes))
}

// whyDead is of a dead voter that is to go.
func (d *deliberation) whyDead() string {
	if i := d.promotion(); i >= 0 {
		return fmt.Sprintf("silent for longer than %s, and %s is ready", d.Grace, d.servers[i].Name)
	}
	return fmt.Sprintf("silent for longer than %s, and not needed: %s", d.Grace, d.enough())
}

// whyVote is of a learner that is to vote.
func (d *deliberation) whyVote(i int) string {
	if j := d.drop(); j >= 0 {
		return fmt.Sprintf("with it in %s instead of %s in %s any one datacenter may be lost",
			place(d.servers[i].Datacenter), d.servers[j].Name, place(d.servers[j].Datacenter))
	}
	return fmt.Sprintf("it is caught up, and %d servers are to vote", d.want.size)
}

// whyDrop is of a voter that answers and is to give its vote up.
func (d *deliberation) whyDrop() string {
	now := d.weigh(d.voting())
	if d.want != nil && d.want.spread && !now.spread && d.votes > 1 {
		return fmt.Sprintf("with %d voters, and none too many in one datacenter, any one datacenter may be lost", d.want.size)
	}
	return d.enough()
}

func (d *deliberation) enough() string {
	switch {
	case d.want == nil:
		return "none is to vote"
	case d.want.size == 1:
		return "one voter is better than two, of which none may fail"
	}
	return fmt.Sprintf("%d voters are enough", d.want.size)
}

// whyStandby is of a learner that is ready and not to vote.
func (d *deliberation) whyStandby() string {
	switch {
	case d.want.size >= d.MaxVoters:
		return fmt.Sprintf("%d voters are the most", d.MaxVoters)
	}
	more := d.want.size + 2
	if t := d.fill(more, more, ready); t == nil || t.dead > 0 {
		return fmt.Sprintf("an odd number votes, and for %d voters another server is missing", more)
	}
	return fmt.Sprintf("with %d voters the loss of one datacenter could be too much", more)
}

func (d *deliberation) whyNotReady(s Server) string {
	switch {
	case s.Role == Absent && s.Removed:
		return "removed by an operator"
	case s.Role == Absent:
		return "no member of the store: it has to join"
	case !s.Healthy:
		return "learns; does not answer"
	case !s.Addressed:
		return "learns; its record does not say where clients reach it"
	case !s.CaughtUp:
		return "learns; has not caught up yet"
	}
	return fmt.Sprintf("learns; may vote when it has been well for %s", d.Stabilization)
}

// voting is who votes now.
func (c *council) voting() []bool {
	in := make([]bool, len(c.servers))
	for i, s := range c.servers {
		in[i] = s.Role == Voter
	}
	return in
}

// place is a datacenter in a sentence.
func place(datacenter string) string {
	if datacenter == "" {
		return "an unknown datacenter"
	}
	return datacenter
}
