package main

import (
	"cmp"
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
	"github.com/meshvpc/meshvpc/controller/failover"
)

// modeHelp is what the modes mean, a line each.
const modeHelp = `say by --mode what becomes of the workload:
  "stateless": it is attached at several nodes ("meshvpc endpoint attach" on each), one of them serves, and each side of a cut network may have one
  "vip": nothing is attached, the VPC's own namespace at one of its places answers
  "stateful": with --workload; it is started at another node only when it surely has ended at the one before: if that is lost, it waits for it, or for "endpoint move --force"`

// workloadHelp is what a workload with hooks is.
const workloadHelp = `its hosts have programs for it, in workloads.d/NAME of their configuration: start, stop, and check if --check exec`

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
	case mode == "" && workloadFlag(c) != "":
		return usage("add --place and --mode stateful, or --mode stateless and --may-run-twice", "--%s of an endpoint that never leaves its node", workloadFlag(c))
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
	if err := workloadFrom(c, f); err != nil {
		return err
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
	case f.Stateful() && exclusive == string(cluster.ExclusiveReceivers):
		return usage("leave it out", "--exclusive receivers: --mode stateful is strict")
	case f.OnIsolation != "" && !f.Strict():
		return usage("add --exclusive strict, or leave --on-isolation out", "--on-isolation fence: nothing shuts the port of an endpoint that is not --exclusive strict")
	case isolation == string(cluster.IsolationKeep) && f.Strict():
		return usage("leave --on-isolation out: it shuts when its grant ends; \"meshvpc failover status\" shows the profile", "--on-isolation keep: a node that cannot reach the store keeps nothing that is --exclusive strict")
	}
	return nil
}

// workloadFlags say what hosts start for an endpoint.
func workloadFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "workload", Usage: "what its node starts, and stops when it is another's: programs of that `NAME` in workloads.d of the hosts"},
		&cli.BoolFlag{Name: "may-run-twice", Usage: "no harm is done if that runs at two nodes for a while: then --mode may be stateless"},
		&cli.BoolFlag{Name: "open-early", Usage: "let frames pass before it was started"},
		&cli.StringFlag{Name: "hook-timeout", Usage: "how long each of its programs may take, `TIME` (default " + cluster.HookTimeout.String() + ")"},
		&cli.StringFlag{Name: "check", Usage: "`exec`: ask its program \"check\" whether it is well; if not, another node gets it"},
		&cli.StringFlag{Name: "check-every", Usage: "between two checks, `TIME` (default " + cluster.CheckEvery.String() + ")"},
		&cli.IntFlag{Name: "check-misses", Usage: fmt.Sprintf("checks in a row that fail until it has, `N` (default %d)", cluster.CheckMisses)},
	}
}

// workloadFlag is the first of them that was given, "" for none.
func workloadFlag(c *cli.Context) string {
	for _, f := range workloadFlags() {
		if name := f.Names()[0]; c.IsSet(name) {
			return name
		}
	}
	return ""
}

// workloadFrom reads what hosts start for an endpoint that may move.
func workloadFrom(c *cli.Context, f *cluster.Failover) (err error) {
	f.Workload, f.MayRunTwice, f.OpenEarly = c.String("workload"), c.Bool("may-run-twice"), c.Bool("open-early")
	flag := workloadFlag(c)
	switch {
	case f.Workload == "" && flag != "":
		return usage("name it by --workload: "+workloadHelp, "--%s of no workload", flag)
	case f.Workload == "" && f.Mode == cluster.ModeStateful:
		return usage("name it by --workload: "+workloadHelp, "--mode stateful without --workload: nobody could say that it has ended")
	case f.Workload == "":
		return nil
	case f.Mode == cluster.ModeVIP:
		return usage("leave --workload out, or use --mode stateful or stateless", "--workload in mode vip: there is none, the hosts answer themselves")
	case f.Mode == cluster.ModeStateful && f.MayRunTwice:
		return usage("leave it out, or use --mode stateless", "--may-run-twice of a stateful workload")
	case f.Mode != cluster.ModeStateful && !f.MayRunTwice:
		return usage("--mode stateful, or --may-run-twice if no harm is done by that", "in mode %s workload %s may run at two nodes at once", f.Mode, clean(f.Workload))
	case f.Check == "" && !c.IsSet("check") && (c.IsSet("check-every") || c.IsSet("check-misses")):
		return usage("add --check exec", "no --check, which would be done every so often")
	}
	if err := cluster.CheckWorkloadName(f.Workload); err != nil {
		return &refusal{exitUsage, err, workloadHelp}
	}
	if c.IsSet("check") {
		if f.Check, err = cluster.ParseCheck(c.String("check")); err != nil {
			return &refusal{exitUsage, err, workloadHelp}
		}
	}
	for name, to := range map[string]*cluster.Period{"hook-timeout": &f.HookTimeout, "check-every": &f.CheckEvery} {
		if c.IsSet(name) {
			if *to, err = cluster.ParsePeriod(c.String(name)); err != nil {
				return &refusal{exitUsage, fmt.Errorf("--%s: %w", name, err), ""}
			}
		}
	}
	if f.CheckMisses = c.Int("check-misses"); c.IsSet("check-misses") && f.CheckMisses < 1 {
		return usage("want 1 to 100", "--check-misses %d", f.CheckMisses)
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
	HandedTo    string            `json:"handed_to,omitempty"` // when its node has shut it, and ended its workload
	Held        bool              `json:"held"`
	HeldWhy     string            `json:"held_why,omitempty"`
	Standby     []string          `json:"standby"` // nodes where it is attached and does not serve, if one endpoint is shown
	Moved       *cluster.Moved    `json:"moved,omitempty"`
	// Workload is what hosts start for it, and how that is where.
	Workload    string                             `json:"workload,omitempty"`
	MayRunTwice bool                               `json:"may_run_twice,omitempty"`
	Check       cluster.Check                      `json:"check,omitempty"`
	Workloads   map[string]*cluster.WorkloadStatus `json:"workloads,omitempty"` // by node
}

// failover is nil for an endpoint that stays where it is.
func (e *endpointRecords) failover(v *store.View) *failoverReport {
	if !e.moves() {
		return nil
	}
	f := &e.spec.Failover
	r := &failoverReport{Mode: f.Mode, Place: []string{}, Failback: f.FailbackText(), Preferred: f.Preferred, Apart: clean(f.Apart),
		Exclusive: cluster.ExclusiveReceivers, OnIsolation: f.Isolation(), Held: e.hold != nil, Standby: []string{},
		Workload: clean(f.Workload), MayRunTwice: f.MayRunTwice, Check: f.Check}
	if f.Strict() {
		r.Exclusive = cluster.ExclusiveStrict
	}
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
		if err == nil && k.VPC == e.vpc && k.Name == e.name && it.Value.Workload != nil && f.Workload != "" {
			if r.Workloads == nil {
				r.Workloads = map[string]*cluster.WorkloadStatus{}
			}
			r.Workloads[k.Node] = it.Value.Workload
		}
	}
	return r
}

// workloadText prints what hosts start for it, if they do.
func (r *failoverReport) workloadText(w io.Writer) {
	if r.Workload != "" {
		twice := ", which must not run twice"
		if r.MayRunTwice {
			twice = ", which may run twice"
		}
		fmt.Fprintf(w, "workload:   %s%s\n", r.Workload, twice)
	}
	for _, node := range slices.Sorted(maps.Keys(r.Workloads)) {
		s := r.Workloads[node]
		fmt.Fprintf(w, "            %s at %s%s\n", s.State, node, suffix(": ", clean(s.Reason)))
	}
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
		ended := ""
		if r.Workload != "" {
			ended = ", and ended its workload"
		}
		fmt.Fprintf(w, "handed to:  %s, as soon as its node has shut it%s\n", r.HandedTo, ended)
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
	r.workloadText(w)
	if r.Held {
		fmt.Fprintf(w, "held:       yes%s\n", suffix(": ", r.HeldWhy))
	}
	if m := r.Moved; m != nil {
		fmt.Fprintf(w, "moved:      from %s at %s: %s\n", m.From, m.At.UTC().Format(time.RFC3339), clean(m.Why))
		if len(m.Failed) > 0 {
			fmt.Fprintf(w, "failed at:  %s\n", strings.Join(m.Failed, ", "))
		}
		if len(m.Unfenced) > 0 {
			fmt.Fprintf(w, "unfenced:   %s: they had not said that they take nothing from %s any more\n", few(m.Unfenced), m.From)
		}
	}
}
