package voters

import "fmt"

// Kind is what a Step does.
type Kind string

// The kinds of a Step. Remove takes a member out, be it voter or learner: etcd
// knows no way back from voter to learner, so that a server which is to stand by
// leaves, empties its data directory and joins again.
const (
	None    Kind = "none"
	Promote Kind = "promote"
	Remove  Kind = "remove"
)

// Step is one change of the membership.
type Step struct {
	Kind   Kind
	Server string // "" for None
	Why    string // a sentence without its end; for None what is waited for, "" at rest
}

// Decision is what to do now, and for each server why it votes or does not. The
// sentences change only when their reason does, so that they can be recorded.
type Decision struct {
	Step Step
	Why  map[string]string
}

// Decide says what the leader does next. Same view, same decision, in whatever
// order the servers come.
func Decide(v View) Decision {
	c := newCouncil(v)
	d := deliberation{c, c.best(ready), c.best(coming)}
	out := Decision{Step: d.step(), Why: map[string]string{}}
	for i, s := range c.servers {
		out.Why[s.Name] = d.why(i)
	}
	return out
}

// deliberation is a council that knows what it wants.
type deliberation struct {
	*council
	want *target // who should vote
	hope *target // who should, once learners on their way are ready
}

func (t *target) has(i int) bool { return t != nil && t.in[i] }

func (d *deliberation) step() Step {
	if d.answer < quorum(d.votes) {
		return Step{None, "", d.fewAnswer() + ": nothing is changed"}
	}
	if i := d.leaver(); i >= 0 {
		return d.do(Remove, i, "an operator removed it")
	}
	if i := d.first(lost, func(int) bool { return true }); i >= 0 {
		return Step{None, "", fmt.Sprintf("%s is given %s to answer again", d.servers[i].Name, d.Grace)}
	}
	if i := d.first(dead, func(i int) bool { return !d.want.has(i) }); i >= 0 {
		return d.do(Remove, i, d.whyDead())
	}
	promoted, dropped := d.promotion(), d.drop()
	switch {
	case promoted >= 0 && (d.votes%2 == 1 || dropped < 0):
		return d.do(Promote, promoted, d.whyVote(promoted))
	case dropped >= 0 && d.hope.has(dropped):
		return Step{None, "", fmt.Sprintf("%d voters until a learner on its way is ready", d.votes)}
	case dropped >= 0:
		return d.do(Remove, dropped, d.whyDrop())
	}
	if i := d.first(leaving, func(int) bool { return true }); i >= 0 {
		return Step{None, "", fmt.Sprintf("%s stays as it is: %s", d.servers[i].Name, d.blocked(i))}
	}
	return Step{Kind: None}
}

// do is the step if it is safe; whoever asks for one that is not waits.
func (d *deliberation) do(k Kind, i int, why string) Step {
	if wait := d.unsafe(k, i); wait != "" {
		return Step{None, "", fmt.Sprintf("%s stays as it is: %s", d.servers[i].Name, wait)}
	}
	return Step{k, d.servers[i].Name, why}
}

// unsafe says what speaks against a step, "" if nothing does: afterwards the
// voters that answer have to be a quorum. A newcomer is not relied upon, lest
// its failure stop the rest; only the very first voter has no choice.
func (d *deliberation) unsafe(k Kind, i int) string {
	votes, answer := d.votes, d.answer
	switch {
	case k == Promote && votes == 1:
		return ""
	case k == Promote:
		votes++
	case d.servers[i].Role == Learner:
		return ""
	default:
		votes--
		if d.servers[i].Healthy {
			answer--
		}
	}
	switch {
	case votes == 0:
		return "it is the only voter, and no other server is ready"
	case answer < quorum(votes):
		return fmt.Sprintf("%d of then %d voters would answer and %d must", answer, votes, quorum(votes))
	}
	return ""
}

// leaver is the server that leaves first by an operator's word, -1 if none can
// now: those without a say, then those that answer, while the fate of no other
// is open.
func (d *deliberation) leaver() int {
	if i := d.first(leaving, func(i int) bool { return d.servers[i].Role == Learner || !d.servers[i].Healthy }); i >= 0 {
		return i
	}
	return d.first(leaving, func(i int) bool { return d.blocked(i) == "" })
}

// blocked says why a server that an operator removed is still there, "" if
// nothing keeps it.
func (d *deliberation) blocked(i int) string {
	if d.answer < quorum(d.votes) {
		return d.fewAnswer()
	}
	s := d.servers[i]
	if l := d.first(lost, func(int) bool { return true }); l >= 0 && s.Role == Voter && s.Healthy {
		return fmt.Sprintf("%s is given %s to answer again", d.servers[l].Name, d.Grace)
	}
	return d.unsafe(Remove, i)
}

// promotion is the learner to promote first, -1 if none: that whose datacenter
// has least votes.
func (d *deliberation) promotion() int {
	pick := -1
	for i, s := range d.servers {
		if d.stands[i] == ready && d.want.has(i) && (pick < 0 || d.share[s.Datacenter] < d.share[d.servers[pick].Datacenter]) {
			pick = i
		}
	}
	return pick
}

// drop is the voter that answers and gives its vote up first, -1 if none. That a
// learner on its way would let it stay is for the caller to judge.
func (d *deliberation) drop() int {
	return d.last(sound, func(i int) bool { return !d.want.has(i) })
}
