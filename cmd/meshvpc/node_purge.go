package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"
	"go.uber.org/zap"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
)

// nodePurge takes down all that carries our mark on this host, then forgets
// that the host was a node. It needs no store, and no agent may run.
func (p *program) nodePurge(ctx context.Context, c *cli.Context) error {
	d := hostDirs()
	name, _ := os.Hostname() // for the question only
	if cfg, err := readAgent(""); err == nil {
		name = cfg.Node
	}
	driver, err := newDriver(zap.NewNop())
	if err != nil {
		return fmt.Errorf("purge node: %w", err)
	}
	defer driver.Close()
	if _, err := os.Stat(d.server()); err == nil {
		return failed("this host keeps the cluster's records", "purge node: %s says that it is a server", d.server())
	}
	if err := p.confirm(c, "node", name); err != nil {
		return err
	}
	done, err := takeDown(ctx, driver)
	if err != nil {
		return fmt.Errorf("purge node: %w", err)
	}
	if err := forget(d); err != nil {
		return fmt.Errorf("purge node: %w", err)
	}
	v := struct {
		Node       string   `json:"node"`
		Operations []string `json:"operations"`
	}{name, done}
	return p.print(c, v, func(w io.Writer) {
		for _, op := range done {
			fmt.Fprintln(w, op)
		}
		fmt.Fprintf(w, "nothing of meshvpc's is left on this host\n")
	})
}

// forget removes the node's files, with those that "cluster env" has made of its
// client file.
func forget(d dirs) error {
	node, user := d.pem(cluster.SubjectNode), d.pem(cluster.SubjectUser)
	var errs []error
	for _, path := range []string{d.cache(), d.agent(), d.client(), pemOf(d.client()), node.CA, node.Cert, node.Key, user.Key} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// takeDown makes the host equal to nothing, and lists what it did. Two rounds
// are enough unless somebody else works on the host at the same time.
func takeDown(ctx context.Context, driver hostops.Driver) ([]string, error) {
	done := []string{}
	for range 3 {
		state, err := driver.Observe(ctx, true)
		if err != nil {
			return done, err
		}
		ops, _ := hostops.Plan(hostops.Desired{}, state)
		if len(ops) == 0 {
			return done, nil
		}
		var errs []error
		for _, op := range ops {
			if err := driver.Apply(ctx, op); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", op, err))
				continue
			}
			done = append(done, op.String())
		}
		if err := errors.Join(errs...); err != nil {
			return done, err
		}
	}
	return done, errors.New("somebody makes it again: stop the agent first")
}
