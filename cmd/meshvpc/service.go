package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
)

func (p *program) serviceCommand() *cli.Command {
	flags := func(more ...cli.Flag) []cli.Flag {
		return append([]cli.Flag{
			&cli.StringFlag{Name: "only", Usage: "`SERVICE` agent or server (default what this host is)"},
			&cli.StringFlag{Name: "root", Usage: "act on the files below `DIR`, an image's, and start nothing"},
		}, append(more, outputFlag())...)
	}
	changing := func(more ...cli.Flag) []cli.Flag {
		return flags(append(more,
			&cli.BoolFlag{Name: "dry-run", Usage: "print files and commands, and do nothing"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "give up what was edited by hand"},
			timeoutFlag(time.Minute, "how long the services may take"))...)
	}
	return p.noun("service", "agent and server as services of systemd or rc.d", []string{
		"meshvpc service install",
		"meshvpc service install --dry-run",
		"meshvpc service install --only agent --root /mnt/image --binary /usr/local/bin/meshvpc",
		"meshvpc service uninstall --only server",
		"meshvpc service status -o json",
	},
		p.verb("install", "", "write the units of what this host is, start them now and at each boot",
			changing(&cli.StringFlag{Name: "binary", Usage: "the program to start, a `FILE` of that host (default this one)"}), p.serviceInstall),
		p.verb("uninstall", "", "stop the services and remove the units that install wrote; the network stays as it is", changing(), p.serviceUninstall),
		p.verb("status", "", "whether the services are installed and run; exit 3 if one does not that should",
			flags(timeoutFlag(10*time.Second, "how long the service manager may take to answer")), p.serviceStatus),
	)
}

func (p *program) serviceInstall(ctx context.Context, c *cli.Context) error {
	h, services, err := p.findServices(ctx, c)
	if err != nil {
		return err
	}
	if services, err = h.choose(services); err != nil {
		return err
	}
	if err := p.keepEdited(c, services); err != nil {
		return err
	}
	return p.changeServices(ctx, c, h, planInstall(h.manager, services, h.root != ""))
}

func (p *program) serviceUninstall(ctx context.Context, c *cli.Context) error {
	h, services, err := p.findServices(ctx, c)
	if err != nil {
		return err
	}
	if err := p.keepEdited(c, services); err != nil {
		return err
	}
	for _, s := range services {
		if s.found == originForeign {
			p.warn("%s stays: meshvpc did not write it", s.path)
		}
	}
	return p.changeServices(ctx, c, h, planUninstall(h.manager, services, h.root != ""))
}

// keepEdited refuses to touch what somebody wrote by hand, unless told to; a dry
// run only says that it would.
func (p *program) keepEdited(c *cli.Context, services []service) error {
	err := refuseEdited(c.Command.Name, services)
	switch {
	case err == nil || c.Bool("yes"):
		return nil
	case c.Bool("dry-run"):
		p.warn("%v: it takes --yes", err)
		return nil
	}
	return err
}

// findServices looks at the host. What the service manager of a host says that
// has none is of no concern to a dry run: then nothing runs.
func (p *program) findServices(ctx context.Context, c *cli.Context) (serviceHost, []service, error) {
	h, err := p.serviceHost(c)
	if err != nil {
		return h, nil, err
	}
	if c.Bool("dry-run") {
		look := h.look
		h.look = func(ctx context.Context, run runner, unit string) (unitState, error) {
			s, err := look(ctx, run, unit)
			if err != nil {
				p.warn("taking %s for inactive: %v", unit, err)
			}
			return s, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	services, err := h.services(ctx)
	return h, services, err
}

// changeServices does, or only shows, what was planned.
func (p *program) changeServices(ctx context.Context, c *cli.Context, h serviceHost, steps []step) error {
	dry := c.Bool("dry-run")
	if !dry {
		if err := h.apply(ctx, steps, c.Duration("timeout")); err != nil {
			return err
		}
	}
	v := struct {
		Manager string `json:"manager"`
		Root    string `json:"root,omitempty"`
		DryRun  bool   `json:"dry_run"`
		Steps   []step `json:"steps"`
	}{h.name, h.root, dry, append([]step{}, steps...)}
	return p.print(c, v, func(w io.Writer) {
		for _, s := range steps {
			fmt.Fprintln(w, s)
			if dry && s.Do == doWrite {
				fmt.Fprintf(w, "%s\n", s.Text)
			}
		}
		switch {
		case len(steps) == 0:
			fmt.Fprintln(w, "nothing to do")
		case dry:
			fmt.Fprintln(w, "nothing was done")
		}
	})
}
