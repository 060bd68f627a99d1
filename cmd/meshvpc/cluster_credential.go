package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) clusterCredentialCommand() *cli.Command {
	return p.noun("credential", "give people their own access, list it, revoke it",
		[]string{"meshvpc cluster credential create alice --role viewer", "meshvpc cluster credential list", "meshvpc cluster credential revoke alice"},
		p.verb("create", "NAME", "write a client file for a person", append(storeFlags(),
			&cli.StringFlag{Name: "role", Usage: "admin, operator or viewer (required)"},
			&cli.StringFlag{Name: "file", Usage: "the client `FILE` to write (default NAME.yaml)"},
		), p.withStore(p.credentialCreate)),
		p.verb("list", "", "list who has access", storeFlags(), p.withStore(p.credentialList)),
		p.verb("revoke", "NAME", "take a person's access away", storeFlags(), p.withStore(p.credentialRevoke)),
	)
}

// userReport is a user in `cluster credential list -o json`.
type userReport struct {
	User    string       `json:"user"`
	Role    string       `json:"role"`
	Created cluster.Time `json:"created"`
	By      string       `json:"by,omitempty"`
	File    string       `json:"file,omitempty"`
}

func (p *program) credentialCreate(ctx context.Context, c *cli.Context, s *session) error {
	name, role := c.Args().First(), cluster.UserRole(c.String("role"))
	if cluster.CheckNodeName(name) != nil {
		return usage("want 1 to 63 of a-z, 0-9 and -, not beginning or ending with -", "invalid name %q", name)
	}
	if role != cluster.UserAdmin && role != cluster.UserOperator && role != cluster.UserViewer {
		return usage("want --role admin, operator or viewer", "invalid role %q", role)
	}
	path := c.String("file")
	if path == "" {
		path = name + ".yaml"
	}
	if _, err := os.Stat(path); err == nil {
		return failed("name another file by --file", "create credential: %s exists", path)
	}
	if s.client.CA == "" {
		return failed("use the client file of an admin", "create credential: this client file has no certificate to ask with")
	}
	credential, err := askServers(ctx, s.client.joins(s.endpoints), s.call, func(ctx context.Context, address string) (membership.Credential, error) {
		return membership.NewUser(ctx, address, s.client.credential(), name, role)
	})
	if err != nil {
		return fmt.Errorf("create credential: %w", err)
	}
	if err := writeConfig(path, s.client.with(credential)); err != nil {
		return failed("revoke it (meshvpc cluster credential revoke "+name+") and try again", "create credential: %w", err)
	}
	r := userReport{User: name, Role: string(role), Created: cluster.At(p.now()), File: path}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s, %s: %s is all that is needed; use it by --config or MESHVPC_CONFIG, and hand it over in private\n", name, role, path)
	})
}

func (p *program) credentialList(ctx context.Context, c *cli.Context, s *session) error {
	users, _, err := store.List[*cluster.User](ctx, s.store, cluster.PrefixUsers)
	if err != nil {
		return err
	}
	list := []userReport{}
	var rows [][]string
	for _, it := range users {
		u := it.Value
		list = append(list, userReport{User: last(it.Key), Role: string(u.Role), Created: u.Created, By: clean(u.By)})
		rows = append(rows, []string{last(it.Key), string(u.Role), u.Created.Format(time.RFC3339), clean(u.By)})
	}
	return p.print(c, list, func(w io.Writer) { columns(w, []string{"user", "role", "created", "by"}, rows) })
}

func (p *program) credentialRevoke(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	it, err := store.Get[*cluster.User](ctx, s.store, cluster.KeyUser(name))
	if errors.Is(err, store.ErrNotFound) {
		return failed("see \"meshvpc cluster credential list\"", "revoke credential: there is no user %q", clean(name))
	}
	if err != nil && !cluster.Unreadable(err) {
		return err
	}
	if me, err := s.client.credential().Subject(); err == nil && me == (cluster.Subject{Kind: cluster.SubjectUser, Name: name}) {
		return failed("let another admin do it", "revoke credential: it is the one that this command uses")
	}
	var change store.Change
	change.Remove(cluster.KeyUser(name), it.Mod)
	if err := s.commit(ctx, change); err != nil {
		return err
	}
	return p.print(c, map[string]string{"user": name, "state": "revoked"}, func(w io.Writer) { fmt.Fprintf(w, "%s's credential opens nothing now\n", name) })
}
