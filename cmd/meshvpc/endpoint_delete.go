package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) endpointDeleteCommand() *cli.Command {
	return p.verb("delete", "E", "delete an endpoint and give its addresses back", waitFlags(endpointWait, ofVPCFlag(), yesFlag()), p.withStore(p.endpointDelete))
}

func (p *program) endpointDelete(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	_, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	if e.spec.IsGateway(name) {
		return failed(fmt.Sprintf("meshvpc vpc set %s --gateway none, or --gateway-mode anycast; \"meshvpc endpoint move %s --node N\" moves it", e.vpc, name), "delete endpoint %q: it is the gateway of VPC %s", name, e.vpc)
	}
	if err := p.confirm(c, "endpoint", name); err != nil {
		return err
	}
	key := cluster.KeyEndpointSpec(e.vpc, name)
	if e.spec == nil { // it vanished; what it was is in own
		var change store.Change
		store.Create(&change, key, &cluster.EndpointSpec{State: cluster.EndpointDeleting, Created: cluster.At(p.now())})
		err = s.commit(ctx, change)
	} else {
		err = edit(ctx, s, key, func(spec *cluster.EndpointSpec) error {
			spec.State = cluster.EndpointDeleting
			return nil
		})
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("delete endpoint %q: %w", name, err)
	}
	if err := s.awaitEndpointGone(ctx, c, e.vpc, name); err != nil {
		return err
	}
	return p.print(c, map[string]any{"endpoint": name, "vpc": e.vpc, "deleted": true}, func(w io.Writer) {
		fmt.Fprintf(w, "endpoint %s of VPC %s is deleted\n", name, e.vpc)
	})
}

// awaitEndpointGone waits until no record of an endpoint is left.
func (s *session) awaitEndpointGone(ctx context.Context, c *cli.Context, vpc, name string) error {
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	prefix := cluster.PrefixEndpoints(vpc) + name + "/"
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		if v.Synced(prefix) && len(endpointsOf(v, anyEndpoint)) == 0 {
			return errLook
		}
		return nil
	}, prefix)
	if ctx.Err() == nil && wait.Err() != nil {
		return notSo("it goes on by itself; does a \"meshvpc server\" run?", "delete endpoint %q: no controller has done it after %s", name, c.Duration("timeout"))
	}
	return err
}
