package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/allocator"
	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// How long `ipam check` lets the controller do what it is about to do anyway, and
// how long --fix does.
const (
	ipamSettle = time.Second
	ipamFix    = 15 * time.Second
)

func (p *program) ipamCommand() *cli.Command {
	return p.noun("ipam", "who has which address, MAC and VNI",
		[]string{
			"meshvpc ipam check",
			"meshvpc ipam check --vpc vpc1 -o json",
			"meshvpc ipam check --fix",
		},
		p.verb("check", "", "what is taken, by whom, and what is not as it should be", waitFlags(ipamFix, ofVPCFlag(),
			&cli.BoolFlag{Name: "fix", Usage: "wait until the controller has mended what it can, and say what that was"},
		), p.withStore(p.ipamCheck)),
	)
}

// ipamReport is `ipam check -o json`.
type ipamReport struct {
	Findings []allocator.Finding `json:"findings"`
	Fixed    []allocator.Finding `json:"fixed,omitempty"` // with --fix
	Usage    []allocator.Usage   `json:"usage"`
}

func (p *program) ipamCheck(ctx context.Context, c *cli.Context, s *session) error {
	vpc := c.String("vpc")
	if vpc != "" && cluster.CheckVPCName(vpc) != nil {
		return usage("see \"meshvpc vpc list\"", "invalid VPC name %q", clean(vpc))
	}
	within := ipamSettle
	if c.Bool("fix") {
		within = c.Duration("timeout")
	}
	r, err := p.audit(ctx, s, vpc, within)
	if err != nil {
		return err
	}
	if vpc != "" && !slices.ContainsFunc(r.vpcs, func(name string) bool { return name == vpc }) {
		return p.noVPC(ctx, s, vpc)
	}
	if !c.Bool("fix") {
		r.Fixed = nil
	}
	if err := p.print(c, r.ipamReport, func(w io.Writer) { ipamTable(w, r.ipamReport) }); err != nil {
		return err
	}
	if len(r.Findings) > 0 {
		return exitCode(exitNotSo)
	}
	return nil
}

type audited struct {
	ipamReport
	vpcs []string
}

// audit looks until nothing is wrong that the controller mends by itself, or the
// time is over.
func (p *program) audit(ctx context.Context, s *session, vpc string, within time.Duration) (r audited, err error) {
	prefixes := []string{cluster.PrefixVPCs, cluster.PrefixAlloc, cluster.PrefixHosts, cluster.PrefixNodes, cluster.KeyLeader}
	first := []allocator.Finding(nil)
	began, seen := p.now(), false
	bar := p.progress()
	defer bar.done()
	err = store.Look(ctx, store.MirrorConfig{Store: s.store}, func(_ context.Context, m *store.Mirror) (time.Duration, error) {
		v := m.Pull()
		for _, prefix := range prefixes {
			if !v.Synced(prefix) {
				_, err := v.Stale()
				return 0, err
			}
		}
		r = audited{ipamReport{Findings: of(allocator.Audit(v), vpc), Usage: allocator.UsageOf(v)}, vpcNames(v)}
		r.Usage = slices.DeleteFunc(r.Usage, func(u allocator.Usage) bool { return vpc != "" && u.VPC != vpc })
		if !seen {
			seen, first = true, r.Findings
		}
		mends := slices.ContainsFunc(r.Findings, func(f allocator.Finding) bool { return !f.ByHand })
		left := within - p.now().Sub(began)
		if !mends || left <= 0 {
			return 0, errLook
		}
		bar.show("awaiting the controller: %d findings", len(r.Findings))
		return left, nil
	}, prefixes...)
	switch {
	case err == nil:
		return r, ctx.Err()
	case !errors.Is(err, errLook):
		return r, err
	}
	r.Fixed = slices.DeleteFunc(slices.Clone(first), func(f allocator.Finding) bool { return slices.Contains(r.Findings, f) })
	return r, nil
}

// of keeps the findings of one VPC, and those of none; of all if it is "".
func of(list []allocator.Finding, vpc string) []allocator.Finding {
	kept := []allocator.Finding{}
	for _, f := range list {
		if vpc == "" || f.VPC == "" || f.VPC == vpc {
			kept = append(kept, f)
		}
	}
	return kept
}

func ipamTable(w io.Writer, r ipamReport) {
	for _, f := range r.Fixed {
		fmt.Fprintf(w, "mended: %s\n", ipamLine(f))
	}
	for _, f := range r.Findings {
		fmt.Fprintf(w, "%s\n  %s\n", ipamLine(f), clean(f.Do))
	}
	if len(r.Findings) == 0 {
		fmt.Fprintln(w, "nothing is wrong")
	}
	if len(r.Usage) == 0 {
		return
	}
	fmt.Fprintln(w)
	var rows [][]string
	for _, u := range r.Usage {
		rows = append(rows, []string{u.VPC, u.Network.String(), fmt.Sprint(u.Capacity), fmt.Sprint(u.Used), fmt.Sprint(u.Resting), fmt.Sprint(u.Free), shares(u.Top)})
	}
	columns(w, []string{"vpc", "network", "addresses", "used", "resting", "free", "most at"}, rows)
}

// ipamLine is "vpc1: web1: 10.10.11.2: what is wrong".
func ipamLine(f allocator.Finding) string {
	var parts []string
	for _, part := range []string{f.VPC, f.Holder, f.Value, f.What} {
		if part != "" {
			parts = append(parts, clean(part))
		}
	}
	return strings.Join(parts, ": ")
}

func shares(top []allocator.Share) string {
	var list []string
	for _, s := range top {
		if s.Node != "" {
			list = append(list, fmt.Sprintf("%s (%d)", clean(s.Node), s.Addresses))
		}
	}
	return strings.Join(list, ", ")
}
