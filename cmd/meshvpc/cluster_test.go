package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestVoterWarnings: learners do not vote, and a member is there before it has
// a name.
func TestVoterWarnings(t *testing.T) {
	for name, tt := range map[string]struct {
		members []serverReport
		want    []string
	}{
		"no right to look": {},
		"all is well":      {members: serversIn("x", "y", "z")},
		"one server": {serversIn("x"), []string{
			"1 voter: its loss stops changes until it is back (traffic goes on); add two servers, best each in a datacenter of its own: meshvpc cluster token create --role server"}},
		"and one that learns": {append(serversIn("x"), serverReport{Name: "b", Datacenter: "y", Healthy: true}), []string{
			"1 voter: its loss stops changes until it is back (traffic goes on); add a server, best in a third datacenter: meshvpc cluster token create --role server"}},
		"a voter that never came": {append(serversIn("x", "y"), serverReport{Datacenter: "z", Voter: true}), []string{
			"1 of 3 voters does not answer: the loss of one more stops changes until it is back (traffic goes on); start \"meshvpc server\" on a member that has not started yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, w := range voterWarnings(tt.members) {
				got = append(got, w.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
