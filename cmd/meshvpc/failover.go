package main

import (
	"cmp"
	"context"
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

func (p *program) failoverCommand() *cli.Command {
	return p.noun("failover", "endpoints that move by themselves when a node or a datacenter is lost",
		[]string{
			"meshvpc failover status",
			"meshvpc failover plan hetzner",
			"meshvpc failover run hetzner",
			"meshvpc failover return hetzner --yes",
			"meshvpc failover drill hetzner",
			"meshvpc failover drill --history",
			"meshvpc failover profile fast",
		},
		append(p.failoverDatacenterCommands(), p.verb("status", "", "who is suspected by whom, fenced, and which endpoints can move", storeFlags(), p.withStore(p.failoverStatus)),
			p.verb("profile", "default|fast", "how long failover waits: fast is for round trips up to 30 ms", storeFlags(), p.withStore(p.failoverProfile)))...,
	)
}

// failoverView is `failover status -o json`.
type failoverView struct {
	Profile  string          `json:"profile"`
	Timings  failoverTimings `json:"timings"`
	SafeMode string          `json:"safe_mode,omitempty"`
	// Stranded are datacenters that endpoints count on to be left, and that have so many
	// of the voting servers that nobody could decide it.
	Stranded []string `json:"stranded"`
	// Drill is the last one.
	Drill *cluster.Drill `json:"last_drill,omitempty"`
	// Nodes are those that are not well, and those that somebody suspects.
	Nodes     []failoverNode   `json:"nodes"`
	Fences    []failoverFence  `json:"fences"`
	Endpoints []endpointReport `json:"endpoints"`
}

type failoverTimings struct {
	Silence   string `json:"silence"` // until an observer says so
	Confirm   string `json:"confirm"`
	Barrier   string `json:"barrier"`
	Hold      string `json:"datacenter_hold"`
	Keepalive string `json:"keepalive"`
}

type failoverNode struct {
	Node      string           `json:"node"`
	Class     cluster.Class    `json:"class"`
	Why       string           `json:"why,omitempty"`
	Since     *cluster.Time    `json:"since,omitempty"`
	Observers []failoverSeenBy `json:"observers"`
}

// failoverSeenBy is what one observer says.
type failoverSeenBy struct {
	Observer string `json:"observer"`
	Agent    bool   `json:"agent"`  // answers it
	Kernel   bool   `json:"kernel"` // answers it
	Unsure   bool   `json:"unsure,omitempty"`
	Absent   bool   `json:"absent,omitempty"` // it says nothing at all
}

type failoverFence struct {
	Node    string       `json:"node"`
	Why     string       `json:"why"`
	Since   cluster.Time `json:"since"`
	Missing []string     `json:"missing"` // hosts that have not said that they drop what comes from it
}

func (p *program) failoverStatus(ctx context.Context, c *cli.Context, s *session) error {
	moves := func(e *endpointRecords) bool { return e.moves() }
	v, err := s.read(ctx, portPrefixes(moves), cluster.KeyConfig, cluster.KeyJudgement, cluster.PrefixVPCs, cluster.PrefixNodes, cluster.PrefixFences, cluster.PrefixStat, cluster.PrefixSrvs, cluster.PrefixDrills)
	if err != nil {
		return err
	}
	p.warnUnreadable(v)
	r := failoverView{Profile: "default", Nodes: failoverNodes(v), Fences: failoverFences(v), Endpoints: []endpointReport{}}
	var t cluster.FailoverTimings
	if it, ok := store.At[*cluster.Config](v, cluster.KeyConfig); ok {
		t = it.Value.Failover.Timings()
		r.Profile = cmp.Or(string(it.Value.Failover), r.Profile)
	}
	r.Timings = failoverTimings{t.Silence().String(), t.Confirm.String(), t.Barrier.String(), t.Hold.String(), t.Keepalive.String()}
	if it, ok := store.At[*cluster.Judgement](v, cluster.KeyJudgement); ok {
		r.SafeMode = clean(it.Value.SafeMode)
	}
	for _, e := range endpointsOf(v, moves) {
		r.Endpoints = append(r.Endpoints, e.report(v))
	}
	for it := range store.Below[*cluster.Drill](v, cluster.PrefixDrills) {
		r.Drill = it.Value
	}
	q := quorumOf(v)
	r.Stranded = append([]string{}, stranded(v, &q)...)
	return p.print(c, r, func(w io.Writer) {
		r.text(w, t)
		for _, dc := range r.Stranded {
			fmt.Fprintf(w, "warning: %s; %s\n", strandedText(&q, dc), strandedMend(&q))
		}
	})
}

// failoverNodes are the nodes that are not OK, or that some observer suspects.
func failoverNodes(v *store.View) []failoverNode {
	nodes, found := map[string]*cluster.Node{}, map[string]*failoverNode{}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		nodes[strings.TrimPrefix(it.Key, cluster.PrefixNodes)] = it.Value
	}
	of := func(name string) *failoverNode {
		if found[name] == nil {
			found[name] = &failoverNode{Node: name, Class: cluster.ClassOK, Observers: []failoverSeenBy{}}
		}
		return found[name]
	}
	if it, ok := store.At[*cluster.Judgement](v, cluster.KeyJudgement); ok {
		for _, j := range it.Value.Nodes {
			n := of(j.Node)
			n.Class, n.Why, n.Since = j.Class, clean(j.Why), &j.Since
		}
	}
	for name := range nodes {
		it, ok := store.At[*cluster.Verdicts](v, cluster.KeyVerdicts(name))
		if ok {
			for _, s := range it.Value.Suspects {
				of(s.Node)
			}
		}
	}
	list := []failoverNode{}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		n := found[name]
		for _, o := range cluster.ObserversOf(name, nodes) {
			n.Observers = append(n.Observers, seenBy(v, o, name))
		}
		list = append(list, *n)
	}
	return list
}

// seenBy is what an observer says of a node.
func seenBy(v *store.View, observer, node string) failoverSeenBy {
	seen := failoverSeenBy{Observer: observer, Agent: true, Kernel: true}
	it, ok := store.At[*cluster.Verdicts](v, cluster.KeyVerdicts(observer))
	if !ok {
		return failoverSeenBy{Observer: observer, Absent: true}
	}
	seen.Unsure = it.Value.Unsure
	for _, s := range it.Value.Suspects {
		if s.Node == node {
			seen.Agent, seen.Kernel = s.Agent, s.Kernel
		}
	}
	return seen
}

// failoverFences are the fences in force, and which hosts have not confirmed them.
func failoverFences(v *store.View) []failoverFence {
	list := []failoverFence{}
	for it := range store.Below[*cluster.Fence](v, cluster.PrefixFences) {
		f := failoverFence{Node: strings.TrimPrefix(it.Key, cluster.PrefixFences), Why: clean(it.Value.Why), Since: it.Value.Since, Missing: []string{}}
		for n := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
			name := strings.TrimPrefix(n.Key, cluster.PrefixNodes)
			said, ok := store.At[*cluster.FenceStatus](v, cluster.KeyFenceStatus(name))
			if n.Value.Agent && n.Value.State != cluster.NodeLeft && name != f.Node && (!ok || said.Value.Revision < it.Mod) {
				f.Missing = append(f.Missing, name)
			}
		}
		list = append(list, f)
	}
	return list
}

func (r *failoverView) text(w io.Writer, t cluster.FailoverTimings) {
	fmt.Fprintf(w, "profile:    %s: a node is suspected after %s of silence, replaced some %s later; a datacenter after %s\n",
		r.Profile, t.Silence(), t.Confirm+t.Barrier, t.Hold)
	fmt.Fprintf(w, "safe mode:  %s\n", safeModeWords(r.SafeMode))
	if r.Drill != nil {
		fmt.Fprintf(w, "last drill: %s\n", drillLine(r.Drill))
	}
	for _, n := range r.Nodes {
		fmt.Fprintf(w, "node:       %s is %s%s\n", n.Node, n.Class, suffix(": ", n.Why))
		for _, o := range n.Observers {
			fmt.Fprintf(w, "            %s %s\n", o.Observer, o.words())
		}
	}
	for _, f := range r.Fences {
		fmt.Fprintf(w, "fence:      %s since %s: %s\n", f.Node, f.Since.UTC().Format(time.RFC3339), f.Why)
		if len(f.Missing) > 0 {
			fmt.Fprintf(w, "            not confirmed by %s\n", few(f.Missing))
		}
	}
	if len(r.Endpoints) == 0 {
		fmt.Fprintln(w, "no endpoint moves by itself: meshvpc endpoint create E --vpc V --place dc=a,dc=b --mode stateless")
		return
	}
	var rows [][]string
	for _, e := range r.Endpoints {
		held := ""
		if e.Failover.Held {
			held = "held"
		}
		rows = append(rows, []string{e.Endpoint, e.VPC, cmp.Or(e.Node, "-"), fmt.Sprint(e.Epoch), cmp.Or(strings.Join(e.Failover.Standby, ", "), "-"), strings.Join(e.Failover.Place, ", "), held})
	}
	columns(w, []string{"endpoint", "vpc", "node", "epoch", "standby", "places", ""}, rows)
}

// words say what an observer says.
func (o failoverSeenBy) words() string {
	switch {
	case o.Absent:
		return "says nothing"
	case o.Unsure:
		return "is unsure of what it sees"
	case o.Agent:
		return "hears it"
	case o.Kernel:
		return "hears its kernel, and not its agent"
	}
	return "does not hear it"
}

// longestRTT is the longest round trip that hosts report of their links, and whose.
func longestRTT(v *store.View) (longest time.Duration, of string) {
	for it := range store.Below[*cluster.VPCStatus](v, cluster.PrefixStat) {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue
		}
		for _, l := range it.Value.Links {
			if rtt := time.Duration(l.RTT * float64(time.Millisecond)); l.State == cluster.LinkUp && rtt > longest {
				longest, of = rtt, k.Node+" and "+l.Peer
			}
		}
	}
	return longest, of
}

func (p *program) failoverProfile(ctx context.Context, c *cli.Context, s *session) error {
	profile := cluster.Profile(c.Args().First())
	if err := profile.Validate(); err != nil || profile == "" {
		return usage("default, or fast for round trips up to 30 ms between all nodes", "invalid profile %q", clean(c.Args().First()))
	}
	if profile == "default" {
		profile = cluster.ProfileDefault
	}
	v, err := s.read(ctx, nil, cluster.PrefixStat)
	if err != nil {
		return err
	}
	if rtt, of := longestRTT(v); rtt > profile.MaxRTT() {
		return failed("stay with the default profile", "the profile %s is too fast for this cluster: it suspects a node after %d probes in %s, and is for round trips up to %s; that between %s takes %s",
			profile, profile.Timings().Misses, profile.Timings().Silence(), profile.MaxRTT(), of, rtt.Round(time.Millisecond))
	}
	if err := edit(ctx, s, cluster.KeyConfig, func(c *cluster.Config) error { c.Failover = profile; return nil }); err != nil {
		return err
	}
	t := profile.Timings()
	return p.print(c, map[string]any{"profile": cmp.Or(string(profile), "default")}, func(w io.Writer) {
		fmt.Fprintf(w, "a node is suspected after %s of silence, replaced some %s later; a datacenter after %s\n", t.Silence(), t.Confirm+t.Barrier, t.Hold)
	})
}
