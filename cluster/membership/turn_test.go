package membership

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/cluster"
)

// serversOf reads "a V stale; b L down; c V leads restarting".
func serversOf(text string) Servers {
	s := Servers{Records: map[string]*cluster.Server{}, Stale: map[string]bool{}, Healthy: map[string]bool{}}
	for part := range strings.SplitSeq(text, "; ") {
		f := strings.Fields(part)
		has := func(word string) bool { return slices.Contains(f, word) }
		s.Records[f[0]] = &cluster.Server{Voter: has("V"), Restarting: has("restarting")}
		s.Stale[f[0]], s.Healthy[f[0]] = has("stale"), !has("down")
		if has("leads") {
			s.Leader = f[0]
		}
	}
	return s
}

func TestTurnToBeginAnew(t *testing.T) {
	for name, tt := range map[string]struct{ servers, who, want string }{
		"alone":                     {"a V stale leads", "a", ""},
		"the first":                 {"a V stale; b V stale leads; c V stale", "a", ""},
		"not the second yet":        {"a V stale; b V stale leads; c V stale", "c", "it is the turn of server a"},
		"who leads, last":           {"a V stale leads; b V; c V stale", "a", "it is the turn of server c"},
		"when the others are over":  {"a V stale leads; b V; c V", "a", ""},
		"before who leads":          {"a V stale leads; b V stale; c V", "b", ""},
		"one at a time":             {"a V restarting; b V stale leads; c V stale", "c", "server a begins anew"},
		"who stands by, too":        {"a V leads; b V; c V; d L restarting; e L stale", "e", "server d begins anew"},
		"never below quorum":        {"a V stale; b V leads; c V down", "a", "without it 1 of 3 voters would answer"},
		"of five one may be away":   {"a V down stale; b V stale; c V leads; d V; e V", "b", ""},
		"but not two":               {"a V down; b V stale; c V leads; d V down; e V", "b", "without it 2 of 5 voters would answer"},
		"who stands by costs none":  {"a V leads; b V; c V down; d L stale", "d", ""},
		"of two it has to be":       {"a V stale; b V leads", "a", ""},
		"its own word from before":  {"a V stale restarting; b V leads; c V", "a", ""},
		"nobody has told of itself": {"a V; b V leads; c V", "x", ""},
	} {
		if got := serversOf(tt.servers).Wait(tt.who); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	s := serversOf("a V; b V restarting; c V down leads")
	s.Healthy, s.Stale, s.Behind = nil, nil, []string{"b"}
	if got := s.Wait("a"); got != "" {
		t.Errorf("it has to be: %q", got)
	}
}

// TestTurnsNeverBelowQuorum has servers decide by what they read some time ago, under
// the guard that it has not changed, while others do and the lead moves: all get
// there, and never is more than one away because of that.
func TestTurnsNeverBelowQuorum(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		n := 3 + r.IntN(5)
		voters := []int{3, 5}[r.IntN(2)]
		now := Servers{Records: map[string]*cluster.Server{}, Stale: map[string]bool{}, Healthy: map[string]bool{}, Leader: "s0"}
		var names []string
		for i := range max(n, voters) {
			name := fmt.Sprint("s", i)
			names = append(names, name)
			now.Records[name] = &cluster.Server{Voter: i < voters}
			now.Stale[name], now.Healthy[name] = r.IntN(4) > 0, true
		}
		revision, steps := 0, 0
		type look struct {
			revision int
			may      bool
		}
		looks := map[string]look{}
		for slices.ContainsFunc(names, func(x string) bool { return now.Stale[x] || now.Records[x].Restarting }) {
			if steps++; steps > 20000 {
				t.Fatalf("seed %d: still stale: %v", seed, now.Stale)
			}
			name := names[r.IntN(len(names))]
			record := now.Records[name]
			switch r.IntN(4) {
			case 0: // it reads
				if now.Healthy[name] && now.Stale[name] && !record.Restarting {
					looks[name] = look{revision, now.Wait(name) == ""}
				}
			case 1: // it writes, and goes
				if l := looks[name]; l.may && l.revision == revision && now.Healthy[name] && now.Stale[name] {
					revision++
					record.Restarting, now.Healthy[name] = true, false
					if now.Leader == name {
						now.Leader = names[(slices.Index(names, name)+1)%voters]
					}
				}
			case 2: // it is back, and says so later
				if record.Restarting {
					now.Healthy[name], now.Stale[name] = true, false
				}
			case 3:
				switch {
				case record.Restarting && now.Healthy[name]:
					revision++
					record.Restarting = false
				case r.IntN(5) == 0 && record.Voter && now.Healthy[name]:
					now.Leader = name
				}
			}
			away, work := 0, 0
			for _, x := range names {
				if !now.Healthy[x] {
					away++
				}
				if now.Healthy[x] && now.Records[x].Voter {
					work++
				}
			}
			if away > 1 || work < voters/2+1 {
				t.Fatalf("seed %d: %d away, %d of %d voters work", seed, away, work, voters)
			}
		}
	}
}
