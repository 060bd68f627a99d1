package main

import (
	"context"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/integration/demo"
)

// labDemoCommand plays the article's network. It exits 0 only if all of it
// held.
func (p *program) labDemoCommand() *cli.Command {
	return p.verb("demo", "", "play the whole product on this machine's kernel, leaving nothing behind",
		[]cli.Flag{labFlag("demo"), outputFlag()},
		func(ctx context.Context, c *cli.Context) error {
			cfg := demo.Config{Name: c.String("lab"), Out: p.out}
			if !forPeople(c) {
				cfg.Out = p.err
				if !p.errTerm {
					cfg.Out = io.Discard
				}
			}
			r, err := demo.Run(ctx, cfg)
			if err != nil {
				return err
			}
			if !forPeople(c) {
				if err := p.print(c, r, nil); err != nil {
					return err
				}
			}
			if !r.OK() {
				return failed("read the step that says FAIL above", "lab demo: not all of it held")
			}
			return nil
		})
}
