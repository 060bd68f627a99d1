package cluster

import (
	"slices"
	"strings"
	"testing"
)

// TestQuorum: servers are "dc" where they vote, "(dc)" where they do not.
func TestQuorum(t *testing.T) {
	nodes := map[string]*Node{}
	for _, name := range []string{"a1", "a2", "b1", "c1"} {
		nodes[name] = &Node{Datacenter: name[:1], Agent: true, State: NodeActive}
	}
	for name, c := range map[string]struct {
		servers, place string
		want           string // stranded
		sites          int
	}{
		"one server":                  {"a", "dc=a,dc=b", "a", 1},
		"it is elsewhere":             {"c", "dc=a,dc=b", "", 1},
		"all places in it":            {"a", "dc=a", "", 1},
		"its nodes by name":           {"a", "a1,a2", "", 1},
		"two of three":                {"a a b", "dc=a,dc=b", "a", 2},
		"the minority is not named":   {"a a b", "dc=b,dc=c", "", 2},
		"all":                         {"a a b", "all", "a", 2},
		"half each":                   {"a b", "all", "a b", 2},
		"with a witness":              {"a b w", "all", "", 3},
		"two and two, and a witness":  {"a a b b w", "all", "", 3},
		"three of five":               {"a a a b w", "all", "a", 3},
		"who stands by has no vote":   {"a a b (c)", "all", "a", 3},
		"nobody's, an etcd elsewhere": {"(a) (b)", "all", "", 2},
	} {
		var q Quorum
		for s := range strings.FieldsSeq(c.servers) {
			dc := strings.Trim(s, "()")
			q.Add(&Server{Datacenter: dc, Voter: s == dc})
		}
		p, err := ParsePlace(c.place)
		if err != nil {
			t.Fatal(err)
		}
		if got := q.Stranded(p, nodes); !slices.Equal(got, strings.Fields(c.want)) || q.Sites() != c.sites {
			t.Errorf("%s: %q, %d sites; want %q, %d", name, got, q.Sites(), c.want, c.sites)
		}
	}
}
