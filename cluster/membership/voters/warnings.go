package voters

import (
	"fmt"
	"slices"
	"strings"
)

// Warnings says in words what the voters cannot survive, and what to add, the
// gravest first; nil if any one server and any one datacenter may be lost. Of a
// Server it reads Name, Datacenter, Role, Healthy and Removed: whoever lists the
// members can ask. No voters, no warnings.
func Warnings(v View) []string {
	c := newCouncil(v)
	if c.votes == 0 {
		return nil
	}
	var list []string
	for _, w := range []string{c.warnSilent(), c.warnFew(), c.warnEven(), c.warnDatacenter()} {
		if w != "" {
			list = append(list, w)
		}
	}
	return list
}

const addServer = "meshvpc cluster token create --role server"

// warnSilent tells of voters that do not answer, and how many more may follow.
func (c *council) warnSilent() string {
	silent := c.votes - c.answer
	spare := c.answer - quorum(c.votes)
	switch {
	case silent == 0:
		return ""
	case spare < 0:
		return fmt.Sprintf("%s: changes wait until %d more %s (traffic goes on)", c.silent(), -spare, plural(-spare, "answers", "answer"))
	case spare == 0:
		return c.silent() + ": if one more fails, changes stop until one is back (traffic goes on)"
	}
	return fmt.Sprintf("%s: %d more may fail", c.silent(), spare)
}

func (c *council) silent() string {
	var names []string
	for _, s := range c.servers {
		if s.Role == Voter && !s.Healthy {
			names = append(names, s.Name)
		}
	}
	return fmt.Sprintf("%d of %d voters %s not answer (%s)", len(names), c.votes, plural(len(names), "does", "do"), strings.Join(names, ", "))
}

// warnFew is of one voter, or of two: the loss of a server is too much.
func (c *council) warnFew() string {
	if c.votes > 2 {
		return ""
	}
	servers := 0
	for _, s := range c.servers {
		if s.Role != Absent && !s.Removed && s.Healthy {
			servers++
		}
	}
	what := "1 voter: its loss stops"
	if c.votes == 2 {
		what = "2 voters: the loss of either stops"
	}
	what += " changes until it is back (traffic goes on); "
	if servers >= 3 {
		return what + "enough servers are there for three to vote, why they do not yet: meshvpc cluster members"
	}
	missing := 3 - max(servers, 1)
	return what + plural(missing, "add a server, best in a third datacenter: ", "add two servers, best each in a datacenter of its own: ") + addServer
}

func (c *council) warnEven() string {
	if c.votes%2 == 1 || c.votes == 2 {
		return ""
	}
	return fmt.Sprintf("%d voters: no more may fail than of %d; one is added or removed by itself, why it waits: meshvpc cluster members", c.votes, c.votes-1)
}

// warnDatacenter is of a datacenter whose loss leaves no quorum, were all other
// servers well. Of so few voters that warnFew speaks, it says no more.
func (c *council) warnDatacenter() string {
	if c.votes <= 2 {
		return ""
	}
	var heavy []string
	for dc, n := range c.share {
		if c.votes-n < quorum(c.votes) {
			heavy = append(heavy, dc)
		}
	}
	if len(heavy) == 0 {
		return ""
	}
	slices.Sort(heavy)
	mend := c.mendSpread()
	if len(heavy) > 1 { // an even number, half of it each
		return fmt.Sprintf("%s and %s hold half of %d voters each: the loss of either stops changes until it is back (traffic goes on)%s",
			place(heavy[0]), place(heavy[1]), c.votes, mend)
	}
	what := fmt.Sprintf("datacenter %s holds %d of %d voters", place(heavy[0]), c.share[heavy[0]], c.votes)
	if heavy[0] == "" {
		what = fmt.Sprintf("%d of %d voters are in an unknown datacenter", c.share[""], c.votes)
	}
	return what + ": its loss stops changes until it is back (traffic goes on)" + mend
}

// mendSpread says what is missing for the loss of any one datacenter to be
// survived: one server in each of three.
func (c *council) mendSpread() string {
	var all, well []string
	for _, s := range c.servers {
		if s.Role == Absent || s.Removed {
			continue
		}
		if !slices.Contains(all, s.Datacenter) {
			all = append(all, s.Datacenter)
		}
		if s.Healthy && !slices.Contains(well, s.Datacenter) {
			well = append(well, s.Datacenter)
		}
	}
	const witness = "meshvpc cluster token create --role witness"
	switch {
	case len(well) >= 3:
		return "; servers in three datacenters are there, why others do not vote yet: meshvpc cluster members"
	case len(all) >= 3:
		var silent []string
		for _, dc := range all {
			if !slices.Contains(well, dc) {
				silent = append(silent, place(dc))
			}
		}
		slices.Sort(silent)
		return fmt.Sprintf("; no server answers in %s: start \"meshvpc server\" there", strings.Join(silent, " and "))
	case len(all) == 2:
		return "; two datacenters never survive the loss of either: add a server or a witness in a third datacenter: " + witness
	}
	return "; add servers or witnesses in two other datacenters: " + addServer
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
