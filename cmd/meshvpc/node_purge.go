package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
	server, err := purgeable(d)
	if err != nil {
		return err
	}
	if err := p.confirm(c, "node", name); err != nil {
		return err
	}
	done, err := takeDown(ctx, driver)
	if err != nil {
		return fmt.Errorf("purge node: %w", err)
	}
	if err := errors.Join(forgetServer(d, server), forget(d)); err != nil {
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

// purgeable refuses to purge a server that has not been taken out of its cluster;
// of one that has, it returns the configuration.
func purgeable(d dirs) (*serverConfig, error) {
	var cfg serverConfig
	err := readConfig(d.server(), &cfg)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		_, err = os.Stat(markRemoved(cfg))
	}
	if err != nil {
		return nil, failed("this host keeps the cluster's records; take the node out first (meshvpc node remove), and let the server hear of it",
			"purge node: %s says that it is a server", d.server())
	}
	return &cfg, nil
}

// forgetServer removes the files of a server that was taken out, but not its
// snapshots. The mark goes last, so that a purge that was cut short goes on.
func forgetServer(d dirs, cfg *serverConfig) error {
	if cfg == nil {
		return nil
	}
	var errs []error
	for _, path := range []string{dataDir(*cfg), cfg.TLS.Cert, cfg.TLS.Key, d.pem(cluster.SubjectServer).CAKey, revokedFile(*cfg), markFounded(*cfg), d.server(), markRemoved(*cfg)} {
		errs = append(errs, os.RemoveAll(path))
	}
	return errors.Join(errs...)
}

// forget removes the node's files, with those that "cluster env" has made of its
// client file.
func forget(d dirs) error {
	node, user := d.pem(cluster.SubjectNode), d.pem(cluster.SubjectUser)
	var errs []error
	for _, path := range []string{d.cache(), d.endpointsFile(), d.agent(), d.client(), pemOf(d.client()), node.CA, node.Cert, node.Key, user.Key} {
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
