package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) vpcDeleteCommand() *cli.Command {
	return p.verb("delete", "V", "take a VPC down on every host", waitFlags(meshWait, yesFlag(),
		&cli.BoolFlag{Name: "force", Usage: "also while workloads use it, and without waiting for dead hosts"},
		&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until it is gone"},
	), p.withStore(p.vpcDelete))
}

func (p *program) vpcDelete(ctx context.Context, c *cli.Context, s *session) error {
	name, force := c.Args().First(), c.Bool("force")
	m, err := p.readMesh(ctx, s, name)
	if err != nil {
		return err
	}
	if err := checkDelete(m, force); err != nil {
		return err
	}
	if m.spec.State != cluster.VPCDeleting {
		if err := p.confirm(c, "VPC", name); err != nil {
			return err
		}
	}
	err = edit(ctx, s, cluster.KeyVPCSpec(name), func(spec *cluster.VPCSpec) error {
		if spec.Protect {
			return protected(name)
		}
		spec.State, spec.Force = cluster.VPCDeleting, spec.Force || force
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if !c.Bool("no-wait") {
		if err := p.awaitGone(ctx, c.Duration("timeout"), s, name); err != nil {
			return err
		}
	}
	done := struct {
		VPC     string `json:"vpc"`
		Deleted bool   `json:"deleted"`
	}{name, !c.Bool("no-wait")}
	return p.print(c, done, func(w io.Writer) {
		if done.Deleted {
			fmt.Fprintf(w, "VPC %s is deleted\n", name)
		} else {
			fmt.Fprintf(w, "VPC %s is being deleted\n", name)
		}
	})
}

// checkDelete refuses to delete a VPC that is protected, or in use unless
// forced.
func checkDelete(m *mesh, force bool) error {
	switch {
	case m.spec == nil:
		return failed(fmt.Sprintf("make it again by \"meshvpc vpc create %s\", which takes over what there is, then delete it", m.name), "delete VPC %q: its spec is gone", m.name)
	case m.spec.Protect:
		return protected(m.name)
	case m.spec.State == cluster.VPCDeleting || force:
		return nil
	}
	if len(m.places) > 0 {
		return failed(fmt.Sprintf("delete them first, or force it: meshvpc vpc delete %s --force", m.name), "delete VPC %q: it is in use by endpoints %s", m.name, few(append(m.places, m.users()...)))
	}
	if users := m.users(); len(users) > 0 {
		return failed(fmt.Sprintf("detach them first, or force it: meshvpc vpc delete %s --force", m.name), "delete VPC %q: it is in use by %s", m.name, few(users))
	}
	return nil
}

func protected(name string) error {
	return failed(fmt.Sprintf("allow it first: meshvpc vpc set %s --no-protect", name), "delete VPC %q: it is protected", name)
}

// awaitGone waits until no record of the VPC is left, and names the hosts that
// are awaited when time is over.
func (p *program) awaitGone(ctx context.Context, timeout time.Duration, s *session, name string) error {
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	bar := p.progress()
	defer bar.done()
	awaited := []string{"the controller"}
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		for _, f := range []string{cluster.PrefixVPC(name), cluster.PrefixLive} {
			if !v.Synced(f) {
				return nil
			}
		}
		m := meshOf(v, name)
		if !m.exists() {
			return errLook
		}
		if m.spec != nil && m.spec.State == cluster.VPCActive {
			return failed("see it by \"meshvpc vpc show "+name+"\"", "delete VPC %q: somebody made it again", name)
		}
		if awaited = m.heldBy(); len(awaited) == 0 {
			awaited = []string{"the controller"}
		}
		bar.show("VPC %s: awaiting %s", name, few(awaited))
		return nil
	}, cluster.PrefixVPC(name), cluster.PrefixLive)
	if ctx.Err() == nil && wait.Err() != nil {
		return notSo("it goes on by itself; \"meshvpc vpc delete "+name+" --force\" does not wait for dead hosts",
			"delete VPC %q: after %s it awaits %s", name, timeout, few(awaited))
	}
	return err
}

// heldBy names the members that are left, dead ones marked.
func (m *mesh) heldBy() []string {
	var list []string
	for _, n := range slices.Sorted(maps.Keys(m.members)) {
		if !m.live[n] {
			n += " (not live)"
		}
		list = append(list, n)
	}
	return list
}

// users names the hosts whose workloads use the VPC, as they report it.
func (m *mesh) users() []string {
	var list []string
	for _, n := range slices.Sorted(maps.Keys(m.statuses)) {
		if use := m.use(n); use != "" {
			list = append(list, use)
		}
	}
	return list
}

// use is a host with the ports that its workloads have on the VPC's bridge, as
// it reports them; "" if it reports none.
func (m *mesh) use(node string) string {
	s := m.statuses[node]
	if s == nil || len(s.Ports) == 0 {
		return ""
	}
	return fmt.Sprintf("%s (%s)", node, clean(strings.Join(s.Ports, ", ")))
}
