package cluster

import (
	"errors"
	"strings"
	"testing"
)

// roster is what the tests of Allowed know: n1 in blue, n2 in red, n3 removed
// and still in blue, n4 without a part in any VPC; each key is its holder's name.
type roster struct{}

func (roster) Node(name string) (*Node, bool) {
	states := map[string]NodeState{"n1": NodeActive, "n2": NodeDraining, "n3": NodeLeft, "n4": NodeActive, "keyless": NodeActive}
	s, ok := states[name]
	if name == "keyless" {
		name = ""
	}
	return &Node{State: s, Key: name}, ok
}

func (roster) User(name string) (*User, bool) {
	roles := map[string]UserRole{"adm": UserAdmin, "ope": UserOperator, "vie": UserViewer, "odd": "root"}
	r, ok := roles[name]
	return &User{Role: r, Key: name}, ok
}

func (roster) Server(name string) (*Server, bool) {
	return &Server{Key: "any"}, name == "s1"
}

func (roster) Assigned(node, vpc string) bool {
	return vpc == "blue" && (node == "n1" || node == "n3") || vpc == "red" && node == "n2"
}

// callers are the columns of the matrices.
var callers = map[string]Caller{
	"server":  {Subject{SubjectServer, "s1"}, "any"},
	"n1":      {Subject{SubjectNode, "n1"}, "n1"},
	"left":    {Subject{SubjectNode, "n3"}, "n3"},
	"oldkey":  {Subject{SubjectNode, "n1"}, "an older one"},
	"keyless": {Subject{SubjectNode, "keyless"}, "some"},
	"nonode":  {Subject{SubjectNode, "n9"}, "n9"},
	"admin":   {Subject{SubjectUser, "adm"}, "adm"},
	"oper":    {Subject{SubjectUser, "ope"}, "ope"},
	"viewer":  {Subject{SubjectUser, "vie"}, "vie"},
	"revoked": {Subject{SubjectUser, "gone"}, "gone"},
	"impost":  {Subject{SubjectUser, "adm"}, "another"},
	"odd":     {Subject{SubjectUser, "odd"}, "odd"},
	"nobody":  {Subject{}, ""},
	"strange": {Subject{"robot", "s1"}, "s1"},
}

// matrix calls check for each cell of a table whose first line names the
// callers, and whose other lines begin with what they ask for.
func matrix(t *testing.T, table string, check func(t *testing.T, row string, c Caller, want string)) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(table), "\n")
	columns := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		row, rest, _ := strings.Cut(strings.TrimSpace(line), "|")
		cells := strings.Fields(rest)
		if len(cells) != len(columns) {
			t.Fatalf("%q has %d cells, want %d", line, len(cells), len(columns))
		}
		for i, name := range columns {
			c, ok := callers[name]
			if !ok {
				t.Fatalf("%q is no caller", name)
			}
			t.Run(strings.TrimSpace(row)+" by "+name, func(t *testing.T) { check(t, strings.TrimSpace(row), c, cells[i]) })
		}
	}
}

// TestAllowedKeys: r read, c compare, w watch, p put, d delete. A row is one key,
// "K…" the range of a prefix, "K>" all keys from K on, "K,E" those up to E;
// without Root unless it begins with a slash.
func TestAllowedKeys(t *testing.T) {
	letters := map[string]Operation{"r": OpRead, "c": OpCompare, "w": OpWatch, "p": OpWrite, "d": OpDelete}
	matrix(t, `
		                          server n1    left  oldkey keyless nonode admin oper  viewer revoked impost odd nobody strange
		config                  | rcwpd  rcw   rcw   rcw    rcw     -      rcwpd rcw   rcw    -       -      -   -      -
		config2                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		nodes/…                 | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		nodes/n1                | rcwpd  rcw   -     rcw    -       -      rcwpd rcwpd rcw    -       -      -   -      -
		nodes/n3                | rcwpd  rcw   rcw   -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		nodes/n1…               | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		fences/n2               | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		servers/…               | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		servers/s1              | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		live/n1                 | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		live/n2                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		live/n3                 | rcwpd  -     rcwpd -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		live/…                  | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		live/n1…                | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/n1/…              | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/n1/vpcs/blue      | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/n1…               | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/n2/vpcs/red       | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/n3/…              | rcwpd  -     rcw   -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		hosts/…                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue/…             | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue/spec          | rcwpd  rcw   -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		vpcs/blue/endpoints/e/hold | rcwpd rcw  -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		fences/n1               | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/verdicts      | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/fences        | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n2/verdicts      | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue/ping          | rcwpd  rcw   -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		vpcs/blue/find          | rcwpd  rcw   -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		vpcs/blue/net           | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue/members/n1    | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue               | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue…              | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/red/…              | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/red/spec           | rcwpd  -     -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		vpcs/green/spec         | rcwpd  -     -     -      -       -      rcwpd rcwpd rcw    -       -      -   -      -
		vpcs//spec              | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/…                  | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		vpcs/blue/,vpcs/red0    | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/…             | rcwpd  rcwd  -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/node          | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/vpcs/blue     | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/find/blue     | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/vpcs/gone     | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/vpcs/Not!     | rcwpd  rcwd  -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1/junk          | rcwpd  rcwd  -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n1…              | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n3/vpcs/blue     | rcwpd  -     rcwpd -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/n2/node          | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/…                | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		requests/n1/…           | rcwpd  rcwd  -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		requests/n1/x           | rcwpd  rcwd  -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		requests/n1/blue/web1   | rcwpd  rcwpd -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		requests/n2/blue/web1   | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		requests/n2/x           | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		alloc/…                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		leader/controller       | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		trust/node/n1           | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		tokens/…                | rcwpd  -     -     -      -       -      rcwpd -     -      -       -      -   -      -
		tokens/t                | rcwpd  -     -     -      -       -      rcwpd -     -      -       -      -   -      -
		tokens                  | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		tokens…                 | rcwpd  -     -     -      -       -      rcwpd -     -      -       -      -   -      -
		tokens0                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		status/,tokens/t        | rcwpd  -     -     -      -       -      rcwpd -     -      -       -      -   -      -
		users/…                 | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		users/vie               | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		events/…                | rcwpd  -     -     -      -       -      rcw   rcw   rcw    -       -      -   -      -
		events/1                | rcwpd  -     -     -      -       -      rcw   rcw   rcw    -       -      -   -      -
		config,events/2         | rcwpd  -     -     -      -       -      rcw   rcw   rcw    -       -      -   -      -
		events/8,fences/        | rcwpd  -     -     -      -       -      rcw   rcw   rcw    -       -      -   -      -
		config,events/          | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		events0,fences/         | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		…                       | rcwpd  -     -     -      -       -      rcw   -     -      -       -      -   -      -
		vpcs/>                  | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		status/n1/>             | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		vpcs/blue/spec,config   | rcwpd  rcw   -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		zzz                     | rcwpd  -     -     -      -       -      rcwpd rcw   rcw    -       -      -   -      -
		/                       | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		/>                      | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		/meshvpc/v2/x           | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		/meshvpc/v1             | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
		/meshvpc/v1/,/x         | rcwpd  -     -     -      -       -      -     -     -      -       -      -   -      -
	`, func(t *testing.T, row string, c Caller, want string) {
		rooted := func(s string) string {
			if strings.HasPrefix(s, "/") {
				return s
			}
			return Root + s
		}
		key, end, ranged := strings.Cut(row, ",")
		a := Access{Key: rooted(key)}
		switch {
		case ranged:
			a.End = rooted(end)
		case strings.HasSuffix(row, "…"):
			a.Key = strings.TrimSuffix(a.Key, "…")
			last := len(a.Key) - 1
			a.End = a.Key[:last] + string(a.Key[last]+1)
		case strings.HasSuffix(row, ">"):
			a.Key, a.End = strings.TrimSuffix(a.Key, ">"), "\x00"
		}
		for l, op := range letters {
			a.Op = op
			may := Allowed(c, roster{}, a) == nil
			if want := strings.Contains(want, l) && want != "-"; op == OpWrite && a.End != "" {
				if c.Subject.Kind == SubjectNode && may {
					t.Errorf("%s of a range is allowed", a)
				}
			} else if may != want {
				t.Errorf("%s: allowed %v, want %v", a, may, want)
			}
		}
	})
}

// TestAllowedElse is about operations that have no keys, and two that do not
// exist.
func TestAllowedElse(t *testing.T) {
	matrix(t, `
		                         server n1 left oldkey keyless nonode admin oper viewer revoked impost odd nobody strange
		connect                | y      y  y    y      y       -      y     y    y      -       -      y   -      -
		make a lease           | y      y  y    -      -       -      y     -    -      -       -      -   -      -
		use a lease of its own | y      y  y    -      -       -      y     -    -      -       -      -   -      -
		use another's lease    | y      -  -    -      -       -      y     -    -      -       -      -   -      -
		list leases            | y      -  -    -      -       -      y     -    -      -       -      -   -      -
		list servers           | y      y  -    -      -       -      y     y    y      -       -      y   -      -
		see how a server is    | y      -  -    -      -       -      y     y    y      -       -      y   -      -
		maintain the store     | y      -  -    -      -       -      y     -    -      -       -      -   -      -
		take a snapshot        | y      -  -    -      -       -      y     -    -      -       -      -   -      -
		manage etcd's users    | -      -  -    -      -       -      -     -    -      -       -      -   -      -
		                       | -      -  -    -      -       -      -     -    -      -       -      -   -      -
	`, func(t *testing.T, row string, c Caller, want string) {
		if err := Allowed(c, roster{}, Access{Op: Operation(row)}); (err == nil) != (want == "y") {
			t.Errorf("%v, want %s", err, want)
		}
	})
}

// TestHealthKey: etcdctl's "endpoint health" reads one key that is no record.
func TestHealthKey(t *testing.T) {
	for name, want := range map[string]bool{"server": true, "admin": true, "oper": true, "viewer": true, "n1": false, "revoked": false} {
		if err := Allowed(callers[name], roster{}, Access{Op: OpRead, Key: "health"}); (err == nil) != want {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
		if err := Allowed(callers[name], roster{}, Access{Op: OpWrite, Key: "health"}); (err == nil) != (name == "server") {
			t.Errorf("%s writes it: %v", name, err)
		}
	}
}

// TestRefusal: one short line, and what may be on its way to the roster is told
// from what is for good.
func TestRefusal(t *testing.T) {
	for name, tt := range map[string]struct {
		by      string
		a       Access
		want    string
		unknown bool
	}{
		"a foreign key": {"n1", Access{OpWrite, KeyNodeStatus("n2"), ""},
			"node:n1 may not write status/n2/node: a node writes what it reports itself, under names that have a meaning", false},
		"a foreign VPC": {"n1", Access{OpWatch, PrefixVPC("red"), PrefixVPCs + "red0"},
			"node:n1 may not watch vpcs/red/ and on: it has no part in that VPC", true},
		"no record": {"nonode", Access{Op: OpMembers}, "node:n9 may not list servers: no record says that it is a node", true},
		"a removed node": {"left", Access{OpRead, PrefixNodes, PrefixNodes[:len(PrefixNodes)-1] + "0"},
			"node:n3 may not read nodes/ and on: it was removed", false},
		"an odd key": {"viewer", Access{OpWrite, "\x1b[31mred", ""}, "user:vie may not write ?[31mred: a viewer reads", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := Allowed(callers[tt.by], roster{}, tt.a)
			r, ok := errors.AsType[*Refusal](err)
			if !ok || err.Error() != tt.want || r.Unknown != tt.unknown {
				t.Errorf("%v (%+v); want %q", err, r, tt.want)
			}
		})
	}
}

// TestServers: a server's certificate opens what its record says it is the key to.
func TestServers(t *testing.T) {
	for name, tt := range map[string]struct {
		c    Caller
		want string
	}{
		"a server":        {Caller{Subject{SubjectServer, "s1"}, "any"}, ""},
		"taken out":       {Caller{Subject{SubjectServer, "s2"}, "any"}, "server:s2 may not list servers: no record says that it is a server"},
		"of an older key": {Caller{Subject{SubjectServer, "s1"}, "old"}, "server:s1 may not list servers: " + whyKey},
		"a node's key":    {Caller{Subject{SubjectNode, "s1"}, "any"}, "node:s1 may not list servers: no record says that it is a node"},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := Allowed(tt.c, roster{}, Access{Op: OpMembers}); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

// hosts is a roster of nodes and the viewer of each.
type hosts struct{ roster }

func (h hosts) User(name string) (*User, bool) {
	return &User{Role: UserViewer, Key: name, By: "node:" + name}, true
}

// TestViewerOfANode: it is let in while its node is, whoever removes that and
// however.
func TestViewerOfANode(t *testing.T) {
	for name, want := range map[string]bool{"n1": true, "n2": true, "n3": false, "n9": false} {
		c := Caller{Subject{SubjectUser, name}, name}
		for _, a := range []Access{{Op: OpConnect}, {Op: OpStatus}, {Op: OpRead, Key: KeyConfig}} {
			if err := Allowed(c, hosts{}, a); (err == nil) != want {
				t.Errorf("%s: %s: %v, want it allowed: %v", c.Subject, a, err, want)
			}
		}
	}
}
