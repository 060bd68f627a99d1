package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// tokenLife is how long a token can be used by default.
const tokenLife = time.Hour

// serverTokenLife is that of a token for a server or a witness: who has a server's
// gets the CA's key.
const serverTokenLife = 10 * time.Minute

// maxTokenLife bounds what --ttl can ask for.
const maxTokenLife = 30 * 24 * time.Hour

func (p *program) clusterTokenCommand() *cli.Command {
	return p.noun("token", "give out, list and revoke what lets hosts join",
		[]string{"meshvpc cluster token create", "meshvpc cluster token create --uses 5 --ttl 24h", "meshvpc cluster token create --role server", "meshvpc cluster token list", "meshvpc cluster token revoke 0a1b2c3d4e"},
		p.verb("create", "", "make a token; its text is shown once", append(storeFlags(),
			&cli.StringFlag{Name: "role", Value: string(cluster.TokenNode), Usage: "what the host will be: node, server or witness"},
			&cli.DurationFlag{Name: "ttl", Usage: "how long it can be used (default 1h; 10m for a server or a witness)"},
			&cli.IntFlag{Name: "uses", Value: 1, Usage: "how many hosts may join with it"},
		), p.withStore(p.tokenCreate)),
		p.verb("list", "", "list the tokens that can be used", storeFlags(), p.withStore(p.tokenList)),
		p.verb("revoke", "ID", "make a token useless", storeFlags(), p.withStore(p.tokenRevoke)),
	)
}

// tokenReport is a token in `cluster token list -o json`; Token is its text, in
// the answer of create alone.
type tokenReport struct {
	ID      string       `json:"id"`
	Token   string       `json:"token,omitempty"`
	Role    string       `json:"role"`
	Uses    int          `json:"uses"`
	Expires cluster.Time `json:"expires"`
	By      string       `json:"by,omitempty"`
	Join    string       `json:"join,omitempty"`
}

func (p *program) tokenCreate(ctx context.Context, c *cli.Context, s *session) error {
	role, ttl, uses := cluster.TokenRole(c.String("role")), c.Duration("ttl"), c.Int("uses")
	switch role {
	case cluster.TokenNode, cluster.TokenServer, cluster.TokenWitness:
	default:
		return usage("want node, server or witness", "invalid --role %q", string(role))
	}
	if !c.IsSet("ttl") {
		ttl = tokenLife
		if role != cluster.TokenNode {
			ttl = serverTokenLife
		}
	}
	if ttl < time.Minute || ttl > maxTokenLife {
		return usage(fmt.Sprintf("want 1m to %v", maxTokenLife), "invalid --ttl %v", ttl)
	}
	if uses < 1 || uses > cluster.MaxTokenUses {
		return usage(fmt.Sprintf("want 1 to %d", cluster.MaxTokenUses), "invalid --uses %d", uses)
	}
	t, record, err := s.makeToken(ctx, role, uses, ttl, p.now())
	if err != nil {
		return err
	}
	r := tokenReport{ID: t.RecordID(), Token: t.String(), Role: string(t.Role), Uses: uses, Expires: record.Expires, By: record.By,
		Join: fmt.Sprintf("meshvpc cluster join %s --datacenter DC --token %s", joinAddress(s.endpoints[0]), t)}
	return p.print(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "token %s, for %d %s(s), until %s:\n%s\njoin by:  %s\n", r.ID, uses, r.Role, r.Expires.Format(time.RFC3339), r.Token, r.Join)
	})
}

func (p *program) tokenList(ctx context.Context, c *cli.Context, s *session) error {
	tokens, _, err := store.List[*cluster.Token](ctx, s.store, cluster.PrefixToks)
	if err != nil {
		return err
	}
	list := []tokenReport{}
	var rows [][]string
	for _, it := range tokens {
		t := it.Value
		if !p.now().Before(t.Expires.Time) {
			continue
		}
		list = append(list, tokenReport{ID: last(it.Key), Role: string(t.Role), Uses: t.Uses, Expires: t.Expires, By: clean(t.By)})
		rows = append(rows, []string{last(it.Key), string(t.Role), fmt.Sprint(t.Uses), t.Expires.Format(time.RFC3339), clean(t.By)})
	}
	return p.print(c, list, func(w io.Writer) { columns(w, []string{"id", "role", "uses", "expires", "by"}, rows) })
}

func (p *program) tokenRevoke(ctx context.Context, c *cli.Context, s *session) error {
	id := c.Args().First()
	err := s.revokeToken(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return failed("see \"meshvpc cluster token list\"; one that is used up is gone by itself", "revoke token: there is no token %q", clean(id))
	}
	if err != nil {
		return err
	}
	return p.print(c, map[string]string{"id": id, "state": "revoked"}, func(w io.Writer) { fmt.Fprintf(w, "token %s opens nothing now\n", id) })
}

// makeToken makes a token, and its record.
func (s *session) makeToken(ctx context.Context, role cluster.TokenRole, uses int, life time.Duration, now time.Time) (membership.Token, *cluster.Token, error) {
	me := s.client.credential()
	pin, err := me.CAPin()
	if err != nil {
		return membership.Token{}, nil, failed("use the client file of a cluster that has a CA", "create token: %w", err)
	}
	by, err := me.Subject()
	if err != nil {
		return membership.Token{}, nil, err
	}
	if it, err := store.Get[*cluster.Config](ctx, s.store, cluster.KeyConfig); err == nil && it.Value.Trust != nil {
		pins, err := membership.PinsOf(it.Value.Trust.Bundle()) // this file's may be the one before
		if err != nil {
			return membership.Token{}, nil, err
		}
		pin = pins[0]
	}
	t := membership.NewToken(role, pin)
	record := t.Record(uses, now, life, by.String())
	var change store.Change
	store.Create(&change, cluster.KeyToken(t.RecordID()), record)
	return t, record, s.commit(ctx, change)
}

// revokeToken is store.ErrNotFound if there is no such token.
func (s *session) revokeToken(ctx context.Context, id string) error {
	it, err := store.Get[*cluster.Token](ctx, s.store, cluster.KeyToken(id))
	if err != nil && !cluster.Unreadable(err) {
		return err
	}
	var change store.Change
	change.Remove(cluster.KeyToken(id), it.Mod)
	return s.commit(ctx, change)
}
