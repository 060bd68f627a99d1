package voters

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	third    = "; two datacenters never survive the loss of either, add a server or a witness in a third: meshvpc cluster token create --role witness"
	others   = "; add servers or witnesses in two other datacenters: meshvpc cluster token create --role server"
	its      = ": its loss stops changes until it is back (traffic goes on)"
	byItself = "; there are servers in three datacenters, why others do not vote yet: meshvpc cluster members"
)

func TestWarnings(t *testing.T) {
	for name, tt := range map[string]struct {
		servers string
		want    []string
	}{
		"three in three datacenters": {"a1 V; b1 V; c1 V", nil},
		"five in three":              {"a1 V; a2 V; b1 V; b2 V; c1 V witness", nil},
		"and one that stands by":     {"a1 V; b1 V; c1 V; a2 L", nil},
		"no voters":                  {"", nil},
		"one server": {"a1 V", []string{
			"1 voter: its loss stops changes until it is back (traffic goes on); add two servers, best each in a datacenter of its own: meshvpc cluster token create --role server"}},
		"a second stands by": {"a1 V; b1 L", []string{
			"1 voter: its loss stops changes until it is back (traffic goes on); add a server, best in a third datacenter: meshvpc cluster token create --role server"}},
		"three, about to vote": {"a1 V; b1 L; c1 L", []string{
			"1 voter: its loss stops changes until it is back (traffic goes on); there are servers enough for three to vote, why they do not yet: meshvpc cluster members"}},
		"two voters": {"a1 V; b1 V", []string{
			"2 voters: the loss of either stops changes until it is back (traffic goes on); add a server, best in a third datacenter: meshvpc cluster token create --role server"}},
		"two of three in one":               {"hetzner1 V; hetzner2 V; skynet1 V", []string{"datacenter hetzner holds 2 of 3 voters" + its + third}},
		"all in one":                        {"a1 V; a2 V; a3 V", []string{"datacenter a holds 3 of 3 voters" + its + others}},
		"another datacenter only stands by": {"a1 V; a2 V; a3 V; b1 L", []string{"datacenter a holds 3 of 3 voters" + its + third}},
		"about to be spread":                {"a1 V; a2 V; b1 V; c1 L", []string{"datacenter a holds 2 of 3 voters" + its + byItself}},
		"but the third is down":             {"a1 V; a2 V; b1 V; c1 L down", []string{"datacenter a holds 2 of 3 voters" + its + "; no server answers in c: start \"meshvpc server\" there"}},
		"or removed":                        {"a1 V; a2 V; b1 V; c1 L removed; d1 N", []string{"datacenter a holds 2 of 3 voters" + its + third}},
		"unknown datacenter":                {"1 V; 2 V; a1 V", []string{"2 of 3 voters are in an unknown datacenter" + its + third}},
		"four": {"a1 V; b1 V; c1 V; d1 V", []string{
			"4 voters: no more may fail than of 3; one comes or goes by itself, why it waits: meshvpc cluster members"}},
		"four, two and two": {"a1 V; a2 V; b1 V; b2 V", []string{
			"4 voters: no more may fail than of 3; one comes or goes by itself, why it waits: meshvpc cluster members",
			"a and b hold half of 4 voters each: the loss of either stops changes until it is back (traffic goes on)" + third}},
		"one of three silent":    {"a1 V; b1 V; c1 V down", []string{"1 of 3 voters does not answer: the loss of one more stops changes until it is back (traffic goes on); start \"meshvpc server\" on c1"}},
		"one of five silent":     {"a1 V; b1 V; c1 V; d1 V; e1 V down", []string{"1 of 5 voters does not answer: 1 more may fail; start \"meshvpc server\" on e1"}},
		"two of five silent":     {"a1 V; b1 V; c1 V; d1 V down; e1 V down", []string{"2 of 5 voters do not answer: the loss of one more stops changes until it is back (traffic goes on); start \"meshvpc server\" on d1, e1"}},
		"quorum lost":            {"a1 V; b1 V down; c1 V down", []string{"2 of 3 voters do not answer: changes wait until 1 more answers (traffic goes on); start \"meshvpc server\" on b1, c1"}},
		"far from a quorum":      {"a1 V down; b1 V down; c1 V down", []string{"3 of 3 voters do not answer: changes wait until 2 more answer (traffic goes on); start \"meshvpc server\" on a1, b1, c1"}},
		"a silent learner":       {"a1 V; b1 V; c1 V; d1 L down", nil},
		"an absent, removed one": {"a1 V; b1 V; c1 V; d1 N; e1 N removed", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, w := range Warnings(View{Servers: parse(t, tt.servers)}) {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestWarningsAreTrue: there is silence if and only if everything is well and
// odd, and any one server and any one datacenter may be lost.
func TestWarningsAreTrue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := View{Servers: anyServers(t)}
		votes, silent, share := 0, 0, map[string]int{}
		for _, s := range v.Servers {
			if s.Role == Voter {
				votes++
				share[s.Datacenter]++
				if !s.Healthy {
					silent++
				}
			}
		}
		good := votes == 0 || votes%2 == 1 && votes > 2 && silent == 0
		for _, n := range share {
			good = good && 2*(votes-n) > votes
		}
		if list := Warnings(v); good != (len(list) == 0) {
			t.Errorf("Warnings(%+v) = %q", v, list)
		}
	})
}
