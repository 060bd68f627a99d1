package cluster

import (
	"slices"
	"strings"
)

// Grant is a permission of an etcd role: to read the keys in [Key, End), and to
// change them if Write says so. As in etcd, an empty End means the one key.
type Grant struct {
	Key, End string
	Write    bool
}

// The roles in an external etcd that many have. A node has one more, see
// NodeRole.
const (
	RoleNodes    = "meshvpc-nodes"
	RoleViewer   = "meshvpc-viewer"
	RoleOperator = "meshvpc-operator"
	RoleAdmin    = "meshvpc-admin"
	RoleServer   = "meshvpc-server"

	nodeRole = "meshvpc-node-"
)

// NodeRole is the role of one node, which it keeps when it is removed.
func NodeRole(node string) string { return nodeRole + node }

// IsAccountRole reports whether a role of an etcd is one of ours.
func IsAccountRole(name string) bool { return strings.HasPrefix(name, "meshvpc-") }

// Accounts are the users and roles of an external etcd, whose rules take the
// place of Allowed there. Users are named by their certificates' common names.
type Accounts struct {
	Users map[string][]string // the roles of each, sorted
	Roles map[string][]Grant  // the permissions of each, sorted by key
}

// AccountsOf are the accounts that the records call for: of each node, also a
// removed one, which is left with its own records, of people, those of a node
// while it is not removed, and of servers. What the roles permit differs from
// Allowed where etcd cannot tell as much:
//
//   - a node reads all VPCs, since roles do not change with a VPC
//   - a node names what it reports as it likes, below its own prefixes
//   - an operator changes all below nodes/, vpcs/ and drills/, and many keys at once
//   - an admin has the records; to maintain the store takes its root
//   - whoever reads the key "health" may also watch it
//   - a replaced certificate is as good as its successor until it ends
func AccountsOf(nodes map[string]*Node, users map[string]*User, servers []string) Accounts {
	a := Accounts{Users: map[string][]string{}, Roles: commonRoles()}
	for name, n := range nodes {
		own := NodeRole(name)
		a.Roles[own] = sorted(append(grants(false, toNode(name)), grants(true, byNode(name))...))
		roles := []string{own}
		if n.State != NodeLeft {
			roles = append(roles, RoleNodes)
		}
		slices.Sort(roles)
		a.Users[Subject{SubjectNode, name}.String()] = roles
	}
	for name, u := range users {
		if u.By == (Subject{SubjectNode, name}).String() && (nodes[name] == nil || nodes[name].State == NodeLeft) {
			continue
		}
		if role := roleOf(u.Role); role != "" {
			a.Users[Subject{SubjectUser, name}.String()] = []string{role}
		}
	}
	for _, name := range servers {
		a.Users[Subject{SubjectServer, name}.String()] = []string{RoleServer}
	}
	return a
}

func roleOf(u UserRole) string {
	switch u {
	case UserAdmin:
		return RoleAdmin
	case UserOperator:
		return RoleOperator
	case UserViewer:
		return RoleViewer
	}
	return ""
}

func commonRoles() map[string][]Grant {
	people := append(grants(false, toPeople()), grants(false, []span{one(healthKey)})...)
	all := []span{below(Root)}
	return map[string][]Grant{
		RoleNodes:    sorted(grants(false, append(toNodes(), below(PrefixVPCs)))),
		RoleViewer:   sorted(people),
		RoleOperator: sorted(append(grants(true, []span{below(PrefixNodes), below(PrefixVPCs), below(PrefixDrills)}), people...)),
		RoleAdmin:    sorted(append(grants(true, byAdmins()), grants(false, append(all, one(healthKey)))...)),
		RoleServer:   grants(true, all),
	}
}

func grants(write bool, spans []span) []Grant {
	var list []Grant
	for _, s := range spans {
		g := Grant{s.from, s.to, write}
		if s == one(s.from) {
			g.End = ""
		}
		list = append(list, g)
	}
	return list
}

func sorted(list []Grant) []Grant {
	slices.SortFunc(list, Grant.Compare)
	return list
}

// Compare orders grants by key.
func (g Grant) Compare(o Grant) int {
	if c := strings.Compare(g.Key, o.Key); c != 0 {
		return c
	}
	return strings.Compare(g.End, o.End)
}
