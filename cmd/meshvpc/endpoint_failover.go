package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// modeHelp is what the modes mean.
const modeHelp = "say by --mode what becomes of the workload: \"stateless\": it is attached at several nodes (\"meshvpc endpoint attach\" on each), one of them serves, and each side of a cut network may have one; \"vip\": nothing is attached, the VPC's own namespace at one of its places answers"

// failoverFrom reads the flags that say where an endpoint may run.
func failoverFrom(c *cli.Context, f *cluster.Failover) (err error) {
	mode, place, failback := c.String("mode"), c.String("place"), c.String("failback")
	switch {
	case mode == "" && place != "":
		return usage(modeHelp, "--place without --mode")
	case place == "" && mode != "":
		return usage("such as --place dc=a,dc=b; \"meshvpc node list\" shows datacenters and nodes", "--mode without --place: where may it run?")
	case mode == "" && failback != "":
		return usage("leave --failback out, or add --place and --mode", "--failback of an endpoint that never leaves its node")
	case mode == "":
		return nil
	case c.String("node") != "":
		return usage("leave one of both out", "--node binds it to one node, and --place names places to go to")
	}
	if f.Mode, err = cluster.ParseMode(mode); err != nil {
		return &refusal{exitUsage, err, modeHelp}
	}
	if f.Place, err = cluster.ParsePlace(place); err != nil {
		return &refusal{exitUsage, err, "such as dc=a,dc=b, or names of nodes"}
	}
	if failback != "" {
		if f.Failback, err = cluster.ParseFailback(failback); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	return nil
}

// candidates are the members of a VPC where an endpoint may run, in order.
func candidates(v *store.View, vpc string, place cluster.Place) (names, datacenters []string) {
	rank := map[string]int{}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		name := strings.TrimPrefix(it.Key, cluster.PrefixNodes)
		if at, ok := place.Rank(name, it.Value); ok && v.Has(cluster.KeyMember(vpc, name)) {
			rank[name] = at
			names, datacenters = append(names, name), append(datacenters, it.Value.Datacenter)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return rank[a] - rank[b] })
	slices.Sort(datacenters)
	return names, slices.Compact(datacenters)
}

// warnPlaces tells of places that are of no use.
func (p *program) warnPlaces(v *store.View, name, vpc string, f *cluster.Failover) {
	place := f.Place
	names, datacenters := candidates(v, vpc, place)
	switch {
	case len(names) == 0:
		p.warn("no member of VPC %s is one of its places %s: nobody can have it", vpc, place)
	case len(names) == 1:
		p.warn("%s is the only member of VPC %s among its places %s: it has nowhere to go", names[0], vpc, place)
	case len(datacenters) == 1:
		p.warn("all its places are in %s: the loss of that datacenter is the loss of the endpoint", datacenters[0])
	}
	if of, ok := store.At[*cluster.VPCSpec](v, cluster.KeyVPCSpec(vpc)); ok && cmp.Or(of.Value.Learning, cluster.LearnDynamic) == cluster.LearnDynamic {
		p.warn("hosts of VPC %s learn by flooding: they check who is fenced, not from where an endpoint's frames come; for both, meshvpc vpc set %s --learning static", vpc, vpc)
	}
	if len(names) > 0 && f.Mode != cluster.ModeVIP {
		fmt.Fprintf(p.err, "attach its workload on each of %s: meshvpc endpoint attach %s\n", few(names), name)
	}
}

func (p *program) endpointHoldCommand() *cli.Command {
	return p.verb("hold", "E", "keep automation off an endpoint: it stays where it is", storeFlags(ofVPCFlag(),
		&cli.StringFlag{Name: "why", Usage: "`TEXT` for whoever finds it held"},
	), p.withStore(p.endpointHold))
}

func (p *program) endpointHold(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	v, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	var change store.Change
	store.Create(&change, cluster.KeyEndpointHold(e.vpc, name), &cluster.Hold{Why: c.String("why"), Since: cluster.At(p.now())})
	switch err := s.commit(ctx, change); {
	case errors.Is(err, store.ErrConflict):
		fmt.Fprintf(p.err, "endpoint %s is held already\n", name)
	case err != nil:
		return fmt.Errorf("hold endpoint %q: %w", name, err)
	default:
		e.hold = &cluster.Hold{Why: c.String("why")}
	}
	return p.printEndpoint(c, e.report(v))
}

func (p *program) endpointReleaseCommand() *cli.Command {
	return p.verb("release", "E", "let automation move an endpoint again", storeFlags(ofVPCFlag()), p.withStore(p.endpointRelease))
}

func (p *program) endpointRelease(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	v, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	if e.hold == nil {
		fmt.Fprintf(p.err, "endpoint %s is not held\n", name)
		return p.printEndpoint(c, e.report(v))
	}
	it, ok := store.At[*cluster.Hold](v, cluster.KeyEndpointHold(e.vpc, name))
	if ok {
		var change store.Change
		change.Remove(it.Key, it.Mod)
		if err := s.commit(ctx, change); err != nil && !errors.Is(err, store.ErrConflict) {
			return fmt.Errorf("release endpoint %q: %w", name, err)
		}
	}
	e.hold = nil
	return p.printEndpoint(c, e.report(v))
}

// failoverReport is how an endpoint moves by itself, in JSON.
type failoverReport struct {
	Mode     cluster.Mode     `json:"mode"`
	Place    []string         `json:"place"`
	Failback cluster.Failback `json:"failback"`
	Held     bool             `json:"held"`
	HeldWhy  string           `json:"held_why,omitempty"`
	Standby  []string         `json:"standby"` // nodes where it is attached and does not serve, if one endpoint is shown
	Moved    *cluster.Moved   `json:"moved,omitempty"`
}

// failover is nil for an endpoint that stays where it is.
func (e *endpointRecords) failover(v *store.View) *failoverReport {
	if !e.moves() {
		return nil
	}
	f := &e.spec.Failover
	r := &failoverReport{Mode: f.Mode, Place: []string{}, Failback: cmp.Or(f.Failback, cluster.FailbackNever), Held: e.hold != nil, Standby: []string{}}
	for _, p := range f.Place {
		r.Place = append(r.Place, clean(string(p)))
	}
	if e.hold != nil {
		r.HeldWhy = clean(e.hold.Why)
	}
	if e.own != nil {
		r.Moved = e.own.Moved
	}
	for it := range store.Below[*cluster.EndpointStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err == nil && k.VPC == e.vpc && k.Name == e.name && it.Value.State == cluster.PortStandby {
			r.Standby = append(r.Standby, k.Node)
		}
	}
	return r
}

// text prints it below the rest of an endpoint.
func (r *failoverReport) text(w io.Writer) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "failover:   %s, at %s; failback %s\n", r.Mode, strings.Join(r.Place, ", "), r.Failback)
	nowhere := "nowhere: attach its workload at another of its places"
	if r.Mode == cluster.ModeVIP {
		nowhere = "nowhere: no other member at its places is ready"
	}
	fmt.Fprintf(w, "standby:    %s\n", cmp.Or(strings.Join(r.Standby, ", "), nowhere))
	if r.Held {
		fmt.Fprintf(w, "held:       yes%s\n", suffix(": ", r.HeldWhy))
	}
	if m := r.Moved; m != nil {
		fmt.Fprintf(w, "moved:      from %s at %s: %s\n", m.From, m.At.UTC().Format(time.RFC3339), clean(m.Why))
		if len(m.Unfenced) > 0 {
			fmt.Fprintf(w, "unfenced:   %s: they had not said that they take nothing from %s any more\n", few(m.Unfenced), m.From)
		}
	}
}
