package external

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/meshvpc/meshvpc/cluster"
)

func TestPlan(t *testing.T) {
	g := func(key string, write bool) cluster.Grant { return cluster.Grant{Key: key, Write: write} }
	have := cluster.Accounts{
		Users: map[string][]string{"node:a": {"own", "nodes"}, "user:b": {"viewer"}, "user:gone": {}},
		Roles: map[string][]cluster.Grant{"own": {g("a", true), g("old", false)}, "nodes": {g("n", false)}, "unused": nil},
	}
	want := cluster.Accounts{
		Users: map[string][]string{"node:a": {"own"}, "node:c": {"new"}},
		Roles: map[string][]cluster.Grant{"own": {g("a", false)}, "nodes": {g("n", false)}, "new": {g("c", true)}},
	}
	var got []string
	for _, s := range plan(have, want) {
		got = append(got, s.String())
	}
	steps := []string{
		"take role from user node:a nodes", "take role from user user:b viewer",
		"take permission from role own old", "delete role unused",
		"add role new", "give permission to role new c", "give permission to role own a",
		"add user node:c", "give role to user node:c new",
	}
	if d := cmp.Diff(steps, got); d != "" {
		t.Error(d)
	}
}

// TestPlanSettles: what after says is there needs no more steps, whatever was there.
func TestPlanSettles(t *testing.T) {
	roles := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"r1", "r2", "r3"}), 0, 3, rapid.ID[string])
	accounts := rapid.Custom(func(t *rapid.T) cluster.Accounts {
		grants := rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) cluster.Grant {
			return cluster.Grant{Key: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key"), Write: rapid.Bool().Draw(t, "write")}
		}), 0, 2, func(g cluster.Grant) string { return g.Key })
		a := cluster.Accounts{Roles: rapid.MapOf(rapid.SampledFrom([]string{"r1", "r2", "r3"}), grants).Draw(t, "roles"),
			Users: rapid.MapOf(rapid.SampledFrom([]string{"u1", "u2"}), roles).Draw(t, "users")}
		return a
	})
	rapid.Check(t, func(t *rapid.T) {
		have, want := accounts.Draw(t, "have"), accounts.Draw(t, "want")
		if more := plan(after(have, want), want); len(more) > 0 {
			t.Errorf("still to do: %v", more)
		}
	})
}
