package external

import (
	"fmt"
	"maps"
	"slices"

	"github.com/meshvpc/meshvpc/cluster"
)

// verb is what a step does.
type verb string

const (
	takeRole   verb = "take role from user"
	takeGrant  verb = "take permission from role"
	deleteRole verb = "delete role"
	addRole    verb = "add role"
	giveGrant  verb = "give permission to role"
	addUser    verb = "add user"
	giveRole   verb = "give role to user"
)

// step is one write of etcd's users and roles.
type step struct {
	do         verb
	user, role string
	grant      cluster.Grant
}

func (s step) String() string {
	text := string(s.do)
	for _, word := range []string{s.user, s.role, cluster.CleanText(s.grant.Key)} {
		if word != "" {
			text += " " + word
		}
	}
	return text
}

// plan lists what turns have into want, in order: doors are shut before others are
// opened, and a role is whole before a user has it. Users that are not wanted lose
// all of our roles and stay, see the package. Pure.
func plan(have, want cluster.Accounts) (steps []step) {
	for _, user := range slices.Sorted(maps.Keys(have.Users)) {
		for _, role := range have.Users[user] {
			if !slices.Contains(want.Users[user], role) {
				steps = append(steps, step{do: takeRole, user: user, role: role})
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(have.Roles)) {
		if _, wanted := want.Roles[role]; !wanted {
			steps = append(steps, step{do: deleteRole, role: role})
			continue
		}
		for _, g := range have.Roles[role] {
			if !slices.ContainsFunc(want.Roles[role], func(w cluster.Grant) bool { return w.Key == g.Key && w.End == g.End }) {
				steps = append(steps, step{do: takeGrant, role: role, grant: g})
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(want.Roles)) {
		if _, there := have.Roles[role]; !there {
			steps = append(steps, step{do: addRole, role: role})
		}
		for _, g := range want.Roles[role] {
			if !slices.Contains(have.Roles[role], g) {
				steps = append(steps, step{do: giveGrant, role: role, grant: g})
			}
		}
	}
	for _, user := range slices.Sorted(maps.Keys(want.Users)) {
		has, there := have.Users[user]
		if !there {
			steps = append(steps, step{do: addUser, user: user})
		}
		for _, role := range want.Users[user] {
			if !slices.Contains(has, role) {
				steps = append(steps, step{do: giveRole, user: user, role: role})
			}
		}
	}
	return steps
}

// after is what is there when all steps were done.
func after(have, want cluster.Accounts) cluster.Accounts {
	a := cluster.Accounts{Users: maps.Clone(want.Users), Roles: maps.Clone(want.Roles)}
	for user := range have.Users {
		if _, wanted := want.Users[user]; !wanted {
			a.Users[user] = nil
		}
	}
	return a
}

// tell is a step for the log, with what came of it.
func tell(s step, err error) error { return fmt.Errorf("%s: %w", s, err) }
