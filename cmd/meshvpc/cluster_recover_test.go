package main

import (
	"strings"
	"testing"

	"github.com/meshvpc/meshvpc/cluster/engine/etcd"
)

func TestMayRecover(t *testing.T) {
	members := func(names string) (list []etcd.Member) {
		for n := range strings.FieldsSeq(names) {
			name, learner := strings.CutSuffix(n, "-")
			list = append(list, etcd.Member{Name: name, Learner: learner})
		}
		return list
	}
	for name, tt := range map[string]struct{ members, answer, want string }{
		"two of three are lost":         {"a b c", "", ""},
		"of five three, none answers":   {"a b c d e", "", ""},
		"another answers":               {"a b c", "b", "nothing is lost: b and this server are most of the 3 that vote"},
		"the others go on without this": {"a b c", "b c", "nothing is lost"},
		"one of two":                    {"a b", "", ""},
		"a learner is no vote":          {"a b c d-", "d", "d runs still, with the old store"},
		"too few answer":                {"a b c d e", "b", "b runs still, with the old store"},
		"alone":                         {"a", "", "votes alone"},
		"alone with a learner":          {"a b-", "", "votes alone"},
		"no vote":                       {"a- b c", "", "server a has no vote"},
		"no member":                     {"b c", "", "server a has no vote"},
	} {
		err := mayRecover("a", members(tt.members), strings.Fields(tt.answer))
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
