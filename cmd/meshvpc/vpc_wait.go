package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// awaitMesh waits until the VPC is as asked, then prints its peer map.
func (p *program) awaitMesh(ctx context.Context, c *cli.Context, s *session, name string) error {
	m, err := p.awaitReady(ctx, c.Duration("timeout"), s, name)
	if err != nil {
		return err
	}
	return p.printPeers(c, m)
}

// awaitReady waits until the VPC is as asked. What is still awaited when
// timeout is over is exit 3.
func (p *program) awaitReady(ctx context.Context, timeout time.Duration, s *session, name string) (*mesh, error) {
	wait, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	bar := p.progress()
	m, report, err := s.meshUp(wait, name, func(r meshReport) {
		ready, up, links := r.count()
		bar.show("VPC %s: %d of %d members ready, %d of %d links up", r.VPC, ready, len(r.Members), up, links)
	})
	bar.done()
	switch {
	case err == nil && !report.Ready:
		var refused []string
		for _, n := range m.refusedForGood() {
			refused = append(refused, n+": "+clean(m.refused(n)))
		}
		return nil, notSo("mend them, or name others by \"meshvpc vpc set "+name+" --members\"; \"meshvpc vpc status "+name+"\" shows all",
			"wait for VPC %q: not admitted: %s", name, few(refused))
	case err == nil:
		return m, nil
	case ctx.Err() == nil && wait.Err() != nil:
		awaited := "an answer of the store at " + strings.Join(s.endpoints, ", ")
		if m != nil {
			awaited = report.awaited()
		}
		return nil, notSo("it goes on by itself: \"meshvpc vpc status "+name+"\" shows how far it is, \"meshvpc vpc wait "+name+"\" waits again",
			"wait for VPC %q: after %s it awaits %s", name, timeout, awaited)
	}
	return nil, err
}

// meshUp watches the VPC's records until it is as asked, or as far as it will
// come: then the report says who is refused. It returns within the
// notification that says so; nothing is polled. When ctx ends first, what was
// seen last is returned with the error.
func (s *session) meshUp(ctx context.Context, name string, show func(meshReport)) (m *mesh, report meshReport, err error) {
	fixed := meshPrefixes(name)
	var following string
	err = s.follow(ctx, func(mirror *store.Mirror, v *store.View) error {
		for _, f := range fixed {
			if !v.Synced(f) {
				return nil
			}
		}
		statuses := statusPrefixes(v, name)
		if now := strings.Join(statuses, " "); now != following {
			following = now
			mirror.Follow(append(append([]string{}, fixed...), statuses...)...)
		}
		m = meshOf(v, name)
		report = m.report()
		show(report)
		switch {
		case !m.exists():
			return failed("somebody deleted it", "wait for VPC %q: it does not exist any more", name)
		case report.Ready, onlyRefusedMissing(m, report):
			return errLook
		}
		return nil
	}, fixed...)
	return m, report, err
}

// onlyRefusedMissing reports whether all that keeps the VPC from being ready
// are nodes that were refused for good.
func onlyRefusedMissing(m *mesh, report meshReport) bool {
	refused := m.refusedForGood()
	if len(refused) == 0 {
		return false
	}
	missing := 0
	for _, b := range report.Members {
		if !b.Ready {
			missing++
		}
		for _, l := range b.Links {
			if l.State != cluster.LinkUp {
				return false
			}
		}
	}
	return missing == len(refused)
}

func (p *program) vpcWait(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	if _, err := p.readMesh(ctx, s, name); err != nil {
		return err
	}
	return p.awaitMesh(ctx, c, s, name)
}

func (p *program) vpcStatus(ctx context.Context, c *cli.Context, s *session) error {
	m, err := p.readMesh(ctx, s, c.Args().First())
	if err != nil {
		return err
	}
	r := m.report()
	err = p.print(c, r, func(w io.Writer) { p.meshTable(w, r) })
	if err == nil && !r.Ready {
		return exitCode(exitNotSo)
	}
	return err
}

func (p *program) meshTable(w io.Writer, r meshReport) {
	ready, up, links := r.count()
	if r.Ready {
		fmt.Fprintf(w, "VPC %s: %s, MTU %d, encryption: none\n", r.VPC, p.paint(green, "ready"), r.MTU)
	} else {
		fmt.Fprintf(w, "VPC %s: %s: %s\n", r.VPC, p.paint(red, "not ready"), r.Reason)
	}
	fmt.Fprintf(w, "members ready: %d of %d, links up: %d of %d\n\n", ready, len(r.Members), up, links)
	var rows [][]string
	for _, b := range r.Members {
		up, worst, reasons := 0, 0.0, []string{}
		by := map[cluster.Transport]int{}
		for _, l := range b.Links {
			by[l.Transport]++
			if l.State == cluster.LinkUp {
				up++
				worst = max(worst, l.RTT)
			} else {
				reasons = append(reasons, fmt.Sprintf("%s %s%s", l.Peer, l.State, suffix(": ", l.Reason)))
			}
		}
		if b.Reason != "" {
			reasons = []string{b.Reason}
		}
		rows = append(rows, []string{b.Node, yesNo(b.Ready), fmt.Sprintf("%d/%d", up, len(b.Links)), carriers(by), milliseconds(worst), few(reasons)})
	}
	columns(w, []string{"node", "ready", "links up", "by", "slowest", "reason"}, rows)
	for _, d := range r.Duplicates {
		fmt.Fprintln(w, "finding: "+d.String()+": "+mendDuplicate)
	}
	for _, note := range append(r.floods(), r.refusals()...) {
		fmt.Fprintln(w, "note: "+note)
	}
}

// carriers is "multipoint", or "2 p2p, 1 multipoint" where links differ.
func carriers(by map[cluster.Transport]int) string {
	var parts []string
	for _, t := range []cluster.Transport{cluster.P2P, cluster.Multicast, ""} {
		name := cmp.Or(string(t), string(cluster.Multipoint))
		switch {
		case by[t] > 0 && len(by) == 1:
			return name
		case by[t] > 0:
			parts = append(parts, fmt.Sprintf("%d %s", by[t], name))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

func milliseconds(ms float64) string {
	if ms == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f ms", ms)
}
