package cluster

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// accountsOfRoster are the accounts for the roster that the tests of Allowed know.
func accountsOfRoster() Accounts {
	nodes, users := map[string]*Node{}, map[string]*User{}
	for _, n := range []string{"n1", "n2", "n3", "n4"} {
		nodes[n], _ = roster{}.Node(n)
	}
	for _, u := range []string{"adm", "ope", "vie", "odd"} {
		users[u], _ = roster{}.User(u)
	}
	return AccountsOf(nodes, users, []string{"s1"})
}

// permits is what etcd answers: the request lies in the union of all intervals.
func (a Accounts) permits(user string, x Access) bool {
	var spans []span
	for _, role := range a.Users[user] {
		for _, g := range a.Roles[role] {
			if x.reads() || g.Write {
				spans = append(spans, span{g.Key, g.End})
				if g.End == "" {
					spans[len(spans)-1] = one(g.Key)
				}
			}
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return strings.Compare(a.from, b.from) })
	var union []span
	for _, s := range spans {
		if last := len(union) - 1; last >= 0 && s.from <= union[last].to {
			union[last].to = max(union[last].to, s.to)
		} else {
			union = append(union, s)
		}
	}
	return x.onKeys() && x.within(union...)
}

// TestAccounts holds the roles of an external etcd against Allowed, for random
// callers and keys: all that Allowed lets a caller do is granted, and what else is
// granted is in the list of AccountsOf.
func TestAccounts(t *testing.T) {
	accounts := accountsOfRoster()
	names := []string{"n1", "n2", "n3", "n4", "n9", "blue", "red", "t", "adm", "junk", "spec", "net", "node", "ping", "members", "controller", "Not!"}
	first := []string{"config", "nodes", "live", "vpcs", "hosts", "status", "requests", "fences", "servers", "tokens", "users", "events", "alloc", "leader", "zzz", ""}
	middle := []string{"vpcs", "links", "members", "node", "spec", "net", "blue", "n1"}
	keys := rapid.Custom(func(t *rapid.T) string {
		if rapid.IntRange(0, 30).Draw(t, "outside") == 0 {
			return rapid.SampledFrom([]string{"/", "health", "/meshvpc/v1", "/meshvpc/v2/x", "a"}).Draw(t, "foreign")
		}
		parts := []string{rapid.SampledFrom(first).Draw(t, "family")}
		for range rapid.IntRange(0, 3).Draw(t, "depth") {
			parts = append(parts, rapid.SampledFrom(append(names, middle...)).Draw(t, "part"))
		}
		return Root + strings.Join(parts, "/") + rapid.SampledFrom([]string{"", "", "/", "0"}).Draw(t, "tail")
	})
	both, refused, differ := 0, 0, map[string]int{}
	one := func(t *rapid.T) {
		c := callers[rapid.SampledFrom([]string{"server", "n1", "left", "nonode", "admin", "oper", "viewer", "revoked"}).Draw(t, "caller")]
		a := Access{Op: rapid.SampledFrom([]Operation{OpRead, OpCompare, OpWatch, OpWrite, OpDelete}).Draw(t, "op"), Key: keys.Draw(t, "key")}
		switch rapid.IntRange(0, 3).Draw(t, "range") {
		case 0:
			a.End = keys.Draw(t, "end")
		case 1:
			a.End = a.Key[:len(a.Key)-1] + string(a.Key[len(a.Key)-1]+1)
		}
		if a.Op == OpWrite {
			a.End = "" // there is no put of many keys
		}
		if a.End != "" && a.End <= a.Key {
			return // etcd refuses it, whoever asks
		}
		allowed, granted := Allowed(c, roster{}, a) == nil, accounts.permits(c.Subject.String(), a)
		switch {
		case allowed && granted:
			both++
		case !allowed && !granted:
			refused++
		case allowed: // for good reason
			if c.Subject.Kind != SubjectServer || a.within(below(Root)) {
				t.Errorf("%s: %s is allowed, and not granted", c.Subject, a)
			}
		default:
			differ[difference(t, c, a)]++
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		for range 100 {
			one(t)
		}
	})
	if both == 0 || refused == 0 || len(differ) < 3 {
		t.Errorf("granted %d, refused %d, differ %v: the callers or keys are ill chosen", both, refused, differ)
	}
}

// difference is which of the listed differences lets c do a.
func difference(t *rapid.T, c Caller, a Access) string {
	me := c.Subject.Name
	n, isNode := roster{}.Node(me)
	u, isUser := roster{}.User(me)
	switch {
	case c.Subject.Kind == SubjectNode && isNode && n.State != NodeLeft && a.reads() && a.within(below(PrefixVPCs)):
		return "a node reads all VPCs"
	case c.Subject.Kind == SubjectNode && isNode && a.Op == OpWrite && a.within(byNode(me)...):
		return "a node names what it reports as it likes"
	case c.Subject.Kind == SubjectUser && isUser && u.Role == UserOperator && a.within(below(PrefixNodes), below(PrefixVPCs)):
		return "an operator changes all below nodes/ and vpcs/"
	case c.Subject.Kind == SubjectUser && isUser && a.reads() && a.within(one(healthKey)):
		return "health is compared and watched, too"
	}
	t.Errorf("%s: %s is granted, and not allowed", c.Subject, a)
	return ""
}

// TestAccountsOf names the users, and the roles of one node.
func TestAccountsOf(t *testing.T) {
	nodes := map[string]*Node{"n1": {State: NodeActive}, "n3": {State: NodeLeft}}
	users := map[string]*User{"vie": {Role: UserViewer}, "n1": {Role: UserViewer, By: "node:n1"}, "n3": {Role: UserViewer, By: "node:n3"}, "odd": {Role: "root"}}
	got := AccountsOf(nodes, users, []string{"s1"})
	want := map[string][]string{
		"node:n1": {"meshvpc-node-n1", "meshvpc-nodes"}, "node:n3": {"meshvpc-node-n3"},
		"user:vie": {"meshvpc-viewer"}, "user:n1": {"meshvpc-viewer"}, "server:s1": {"meshvpc-server"},
	}
	if d := cmp.Diff(want, got.Users); d != "" {
		t.Error(d)
	}
	own := []Grant{
		{"/meshvpc/v1/config", "", false}, {"/meshvpc/v1/hosts/n1/", "/meshvpc/v1/hosts/n10", false},
		{"/meshvpc/v1/live/n1", "", true}, {"/meshvpc/v1/nodes/n1", "", false},
		{"/meshvpc/v1/requests/n1/", "/meshvpc/v1/requests/n10", true}, {"/meshvpc/v1/status/n1/", "/meshvpc/v1/status/n10", true},
	}
	if d := cmp.Diff(own, got.Roles["meshvpc-node-n1"]); d != "" {
		t.Error(d)
	}
	for user, roles := range got.Users {
		for _, r := range roles {
			if len(got.Roles[r]) == 0 || !IsAccountRole(r) {
				t.Errorf("%s has the role %s, which is none", user, r)
			}
		}
	}
}
