package membership

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// Servers is what one reads of all before it has its store begin anew.
type Servers struct {
	Records map[string]*cluster.Server // by name
	Stale   map[string]bool            // who has to begin anew; nil: the order is another's
	Healthy map[string]bool            // whose store answers; nil: it has to be, whoever is away
	Leader  string                     // of the store
	Behind  []string                   // who is not waited for
}

// Wait says why a server may not have its store begin anew now, "" if it may. It is
// pure. One does at a time, those that follow in the order of their names, then the
// one that leads; and of three voters or more, those that are left are a quorum. Who
// may writes so into its record, under guard of all that was read: of two who read the
// same one finds it changed.
func (s Servers) Wait(name string) string {
	voters, well := 0, 0
	for _, other := range slices.Sorted(maps.Keys(s.Records)) {
		r := s.Records[other]
		if r.Voter {
			voters++
		}
		if other == name {
			continue
		}
		if r.Restarting && !slices.Contains(s.Behind, other) {
			return fmt.Sprintf("server %s begins anew", other)
		}
		if r.Voter && s.Healthy[other] {
			well++
		}
		if s.Stale[other] && s.Healthy[other] && other != s.Leader && (name == s.Leader || other < name) {
			return fmt.Sprintf("it is the turn of server %s", other)
		}
	}
	own := s.Records[name]
	if s.Healthy != nil && own != nil && own.Voter && voters > 2 && well < voters/2+1 {
		return fmt.Sprintf("without it %d of %d voters would answer", well, voters)
	}
	return ""
}
