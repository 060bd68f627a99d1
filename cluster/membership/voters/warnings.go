package voters

import (
	"fmt"
	"slices"
	"strings"
)

// Warning is what the voters cannot survive, and what mends it: in words, then
// after a colon the command.
type Warning struct{ What, Mend string }

// String is both in one line.
func (w Warning) String() string { return w.What + "; " + w.Mend }

// Warnings lists them, the gravest first; none if any one server and any one
// datacenter may be lost. Of a Server it reads Name, Datacenter, Role, Healthy
// and Removed, so that whoever lists the members can ask. No voters, no warnings.
func Warnings(v View) []Warning {
	c := newCouncil(v)
	var list []Warning
	for _, warn := range []func() (Warning, bool){c.warnSilent, c.warnFew, c.warnEven, c.warnDatacenter} {
		if w, ok := warn(); ok && c.votes > 0 {
			list = append(list, w)
		}
	}
	return list
}

// Commands that mend.
const (
	members    = "meshvpc cluster members"
	addServer  = "meshvpc cluster token create --role server"
	addWitness = "meshvpc cluster token create --role witness"
	goesOn     = " changes until it is back (traffic goes on)"
)

// warnSilent tells of voters that do not answer, and how many more may follow.
func (c *council) warnSilent() (w Warning, ok bool) {
	var silent []string
	for _, s := range c.servers {
		if s.Role == Voter && !s.Healthy {
			silent = append(silent, s.Name)
		}
	}
	if len(silent) == 0 {
		return w, false
	}
	what := fmt.Sprintf("%d of %d voters %s not answer", len(silent), c.votes, plural(len(silent), "does", "do"))
	w.Mend = fmt.Sprintf("start \"meshvpc server\" on %s", strings.Join(silent, ", "))
	switch spare := c.answer - quorum(c.votes); {
	case spare < 0:
		w.What = fmt.Sprintf("%s: changes wait until %d more %s (traffic goes on)", what, -spare, plural(-spare, "answers", "answer"))
	case spare == 0:
		w.What = what + ": the loss of one more stops" + goesOn
	default:
		w.What = fmt.Sprintf("%s: %d more may fail", what, spare)
	}
	return w, true
}

// warnFew is of one voter, or of two: the loss of a server is too much.
func (c *council) warnFew() (w Warning, ok bool) {
	if c.votes > 2 {
		return w, false
	}
	w.What = plural(c.votes, "1 voter: its loss stops", "2 voters: the loss of either stops") + goesOn
	servers := 0
	for _, s := range c.servers {
		if s.Role != Absent && !s.Removed && s.Healthy {
			servers++
		}
	}
	switch {
	case servers >= 3:
		w.Mend = "there are servers enough for three to vote, why they do not yet: " + members
	case servers == 2:
		w.Mend = "add a server, best in a third datacenter: " + addServer
	default:
		w.Mend = "add two servers, best each in a datacenter of its own: " + addServer
	}
	return w, true
}

// warnEven is of a number that is to be odd, and soon is.
func (c *council) warnEven() (w Warning, ok bool) {
	w.What = fmt.Sprintf("%d voters: no more may fail than of %d", c.votes, c.votes-1)
	w.Mend = "one comes or goes by itself, why it waits: " + members
	return w, c.votes > 2 && c.votes%2 == 0
}

// warnDatacenter is of a datacenter whose loss leaves no quorum, were all other
// servers well. Where warnFew speaks it would say no more.
func (c *council) warnDatacenter() (w Warning, ok bool) {
	var heavy []string
	for dc, n := range c.share {
		if c.votes-n < quorum(c.votes) {
			heavy = append(heavy, dc)
		}
	}
	if c.votes <= 2 || len(heavy) == 0 {
		return w, false
	}
	slices.Sort(heavy)
	switch {
	case len(heavy) > 1: // an even number, half of it each
		w.What = fmt.Sprintf("%s and %s hold half of %d voters each: the loss of either stops", place(heavy[0]), place(heavy[1]), c.votes)
	case heavy[0] == "":
		w.What = fmt.Sprintf("%d of %d voters are in an unknown datacenter: its loss stops", c.share[""], c.votes)
	default:
		w.What = fmt.Sprintf("datacenter %s holds %d of %d voters: its loss stops", heavy[0], c.share[heavy[0]], c.votes)
	}
	w.What += goesOn
	w.Mend = c.mendSpread()
	return w, true
}

// mendSpread says what is missing for the loss of any one datacenter to be
// survived: a server that is well in each of three.
func (c *council) mendSpread() string {
	well := map[string]bool{} // by datacenter: whether a server of it answers
	for _, s := range c.servers {
		if s.Role != Absent && !s.Removed {
			well[s.Datacenter] = well[s.Datacenter] || s.Healthy
		}
	}
	var silent []string
	for dc, answers := range well {
		if !answers {
			silent = append(silent, place(dc))
		}
	}
	slices.Sort(silent)
	switch {
	case len(well)-len(silent) >= 3:
		return "there are servers in three datacenters, why others do not vote yet: " + members
	case len(well) >= 3:
		return fmt.Sprintf("no server answers in %s: start \"meshvpc server\" there", strings.Join(silent, " and "))
	case len(well) == 2:
		return "two datacenters never survive the loss of either, add a server or a witness in a third: " + addWitness
	}
	return "add servers or witnesses in two other datacenters: " + addServer
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
