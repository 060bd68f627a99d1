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
	"github.com/meshvpc/meshvpc/controller/failover"
)

// modeHelp is what the modes mean.
const modeHelp = "say by --mode what becomes of the workload: \"stateless\": it is attached at several nodes (\"meshvpc endpoint attach\" on each), one of them serves, and each side of a cut network may have one; \"vip\": nothing is attached, the VPC's own namespace at one of its places answers"

// failoverFrom reads the flags that say where an endpoint may run.
func failoverFrom(c *cli.Context, f *cluster.Failover) (err error) {
	mode, place, failback := c.String("mode"), c.String("place"), c.String("failback")
	switch {
	case mode == "" && c.String("apart") != "":
		return usage("leave --apart out, or add --place and --mode", "--apart of an endpoint that never leaves its node")
	case c.Bool("force") && place == "":
		return usage("leave --force out", "--force of an endpoint that never leaves its node")
	case mode == "" && place != "":
		return usage(modeHelp, "--place without --mode")
	case place == "" && mode != "":
		return usage("such as --place dc=a,dc=b; \"meshvpc node list\" shows datacenters and nodes", "--mode without --place: where may it run?")
	case mode == "" && failback != "":
		return usage("leave --failback out, or add --place and --mode", "--failback of an endpoint that never leaves its node")
	case mode == "" && c.String("exclusive")+c.String("on-isolation") != "":
		return usage("leave them out, or add --place and --mode", "--exclusive or --on-isolation of an endpoint that never leaves its node")
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
	if f.Apart = c.String("apart"); f.Apart != "" {
		if err := cluster.CheckGroup(f.Apart); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	if failback != "" {
		if err = f.SetFailback(failback); err != nil {
			return &refusal{exitUsage, err, "such as --failback 'window=Sat 02:00-04:00 UTC'"}
		}
	}
	return exclusiveFrom(c, f)
}

// exclusiveFrom reads the flags that say who makes sure that one node serves.
func exclusiveFrom(c *cli.Context, f *cluster.Failover) (err error) {
	exclusive, isolation := c.String("exclusive"), c.String("on-isolation")
	if exclusive != "" {
		if f.Exclusive, err = cluster.ParseExclusive(exclusive); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	if isolation != "" {
		if f.OnIsolation, err = cluster.ParseIsolation(isolation); err != nil {
			return &refusal{exitUsage, err, ""}
		}
	}
	switch {
	case f.OnIsolation != "" && f.Exclusive == "":
		return usage("add --exclusive strict, or leave --on-isolation out", "--on-isolation fence: nothing shuts the port of an endpoint that is not --exclusive strict")
	case isolation == string(cluster.IsolationKeep) && f.Exclusive != "":
		return usage("leave --on-isolation out: it shuts when its grant ends; \"meshvpc failover status\" shows the profile", "--on-isolation keep: a node that cannot reach the store keeps nothing that is --exclusive strict")
	}
	return nil
}

// candidates are the members of a VPC where an endpoint may run, in order.
func candidates(v *store.View, vpc string, f *cluster.Failover) (names, datacenters []string) {
	nodes := nodesOf(v)
	chooser := failover.Chooser{Nodes: nodes}
	names = chooser.Suited(&failover.Endpoint{VPC: vpc, Failover: f, Members: membersOf(v, vpc)})
	for _, name := range names {
		datacenters = append(datacenters, nodes[name].Datacenter)
	}
	slices.Sort(datacenters)
	return names, slices.Compact(datacenters)
}

// warnPlaces tells of places that are of no use.
func (p *program) warnPlaces(v *store.View, name, vpc string, f *cluster.Failover) {
	place := f.Place
	names, datacenters := candidates(v, vpc, f)
	for _, term := range place {
		for _, node := range term.Names() {
			if !slices.Contains(names, node) {
				p.warn("%s, one of its places, is no member of VPC %s: it cannot be there (meshvpc vpc peers %s)", node, vpc, vpc)
			}
		}
	}
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
	return p.verb("release", "E", "let automation move an endpoint again, and go by its places: ends a hold, and the preference for where it was moved by hand", storeFlags(ofVPCFlag()), p.withStore(p.endpointRelease))
}

func (p *program) endpointRelease(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	v, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	preferred := e.moves() && e.spec.Failover.Preferred != ""
	if preferred {
		err := edit(ctx, s, cluster.KeyEndpointSpec(e.vpc, name), func(spec *cluster.EndpointSpec) error { spec.Failover.Preferred = ""; return nil })
		if err != nil {
			return fmt.Errorf("release endpoint %q: %w", name, err)
		}
		e.spec.Failover.Preferred = ""
	}
	if e.hold == nil {
		if !preferred {
			fmt.Fprintf(p.err, "endpoint %s is not held\n", name)
		}
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
	Mode     cluster.Mode `json:"mode"`
	Place    []string     `json:"place"`
	Failback string       `json:"failback"`
	// Preferred is where it was moved by hand.
	Preferred string `json:"preferred,omitempty"`
	Apart     string `json:"apart,omitempty"`
	// Exclusive is who makes sure that one node serves it, and OnIsolation what that
	// node does when it cannot reach the store.
	Exclusive   cluster.Exclusive `json:"exclusive"`
	OnIsolation cluster.Isolation `json:"on_isolation"`
	HandedTo    string            `json:"handed_to,omitempty"` // when its node has shut it
	Held        bool              `json:"held"`
	HeldWhy     string            `json:"held_why,omitempty"`
	Standby     []string          `json:"standby"` // nodes where it is attached and does not serve, if one endpoint is shown
	Moved       *cluster.Moved    `json:"moved,omitempty"`
}

// failover is nil for an endpoint that stays where it is.
func (e *endpointRecords) failover(v *store.View) *failoverReport {
	if !e.moves() {
		return nil
	}
	f := &e.spec.Failover
	r := &failoverReport{Mode: f.Mode, Place: []string{}, Failback: f.FailbackText(), Preferred: f.Preferred, Apart: clean(f.Apart),
		Exclusive: cmp.Or(f.Exclusive, cluster.ExclusiveReceivers), OnIsolation: f.Isolation(), Held: e.hold != nil, Standby: []string{}}
	for _, p := range f.Place {
		r.Place = append(r.Place, clean(string(p)))
	}
	if e.hold != nil {
		r.HeldWhy = clean(e.hold.Why)
	}
	if e.own != nil {
		r.Moved, r.HandedTo = e.own.Moved, clean(e.own.To)
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
	if r.Exclusive == cluster.ExclusiveStrict {
		fmt.Fprintf(w, "exclusive:  strict: its node shuts it unless the store lets it go on\n")
	}
	if r.HandedTo != "" {
		fmt.Fprintf(w, "handed to:  %s, as soon as its node has shut it\n", r.HandedTo)
	}
	if r.Preferred != "" {
		fmt.Fprintf(w, "preferred:  %s, where it was moved by hand; \"meshvpc endpoint release\" ends that\n", r.Preferred)
	}
	if r.Apart != "" {
		fmt.Fprintf(w, "apart:      from others of the group %s\n", r.Apart)
	}
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
