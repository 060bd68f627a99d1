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
	"github.com/meshvpc/meshvpc/cluster/mvcc"
	"github.com/meshvpc/meshvpc/cluster/store"
)

func (p *program) endpointWhere(ctx context.Context, c *cli.Context, s *session) error {
	what := c.Args().First()
	v, e, err := p.readEndpoint(ctx, c, s, what, matching(what))
	if mac, bad := cluster.ParseMAC(what); bad == nil && mac.Unicast() && errors.Is(err, errNoEndpoint) {
		return p.macWhere(ctx, c, s, mac)
	}
	if err != nil {
		return err
	}
	r := e.report(v)
	return p.print(c, r, func(w io.Writer) {
		place := "on no node"
		if r.Node != "" {
			place = "on " + r.Node + suffix(" in ", r.Datacenter)
		}
		fmt.Fprintf(w, "%s of VPC %s (%s) is %s: %s\n", r.Endpoint, r.VPC, strings.Join(append(slices.Clone(r.IPs), cmp.Or(r.MAC, "no MAC")), ", "), place, r.State+suffix(": ", r.Reason)+suffix(", ", r.Port.String()))
	})
}

// findWithin is how long hosts may take to answer where a MAC is.
const findWithin = time.Second

// stateLearned is the state of what is at a port and is no endpoint's.
const stateLearned = "learned"

// learnedReport is `endpoint where MAC -o json` of a MAC that is no endpoint's. Of
// several places the first is in the endpoint's fields.
type learnedReport struct {
	endpointReport
	Learned []learnedAt `json:"learned"`          // all of them
	Silent  []string    `json:"silent,omitempty"` // who has not answered
}

// learnedAt is what a host's bridge knows: a port of its own, else whom it sends to.
type learnedAt struct {
	VPC    string `json:"vpc"`
	Node   string `json:"node"`
	Device string `json:"device,omitempty"`
	Peer   string `json:"peer,omitempty"`
}

// macWhere asks the members of the VPC that is named, or of all, by a record each,
// and waits for a record of each member.
func (p *program) macWhere(ctx context.Context, c *cli.Context, s *session, mac cluster.MAC) error {
	v, _, err := p.readEndpoints(ctx, c, s, func(*endpointRecords) bool { return false })
	if err != nil {
		return err
	}
	var vpcs []string
	keys := map[string]learnedAt{} // by key of the answer
	for _, vpc := range vpcNames(v) {
		members := meshOf(v, vpc).members
		if len(members) > 0 {
			vpcs = append(vpcs, vpc)
		}
		for n := range members {
			keys[cluster.KeyFindResult(n, vpc)] = learnedAt{VPC: vpc, Node: n}
		}
	}
	if found, err := p.publishedWhere(ctx, c, s, mac, vpcs); found || err != nil {
		return err
	}
	id, none := randomID(), fmt.Errorf("%w %q", errNoEndpoint, mac)
	if len(keys) == 0 {
		return &refusal{exitFailed, none, "see \"meshvpc endpoint list\""}
	}
	if err := s.askFor(ctx, mac, id, vpcs); errors.Is(err, mvcc.ErrDenied) {
		return &refusal{exitFailed, fmt.Errorf("%w, and only operators ask the hosts' bridges: %w", none, err), "ask an operator"}
	} else if err != nil {
		return err
	}
	answers, err := s.findResults(ctx, id, slices.Sorted(maps.Keys(keys)))
	if err != nil {
		return err
	}
	r, why := sumFinds(mac, keys, answers)
	for _, w := range why {
		p.warn("%s", w)
	}
	if it, ok := store.At[*cluster.Node](v, cluster.KeyNode(r.Node)); ok {
		r.Datacenter = clean(it.Value.Datacenter)
	}
	if len(r.Learned) == 0 {
		return failed("see \"meshvpc endpoint list\"; a bridge forgets who has said nothing for five minutes", "%w, and no bridge has learned it%s", none, suffix("; no answer from ", few(r.Silent)))
	}
	return p.print(c, r, func(w io.Writer) { r.text(w) })
}

// findsAtOnce is how many questions a transaction holds.
const findsAtOnce = 100

// askFor asks all members of VPCs for a MAC.
func (s *session) askFor(ctx context.Context, mac cluster.MAC, id string, vpcs []string) error {
	for some := range slices.Chunk(vpcs, findsAtOnce) {
		var change store.Change
		for _, vpc := range some {
			store.Set(&change, cluster.KeyVPCFind(vpc), &cluster.FindRequest{ID: id, MAC: mac}, nil, 0)
		}
		if err := s.commit(ctx, change); err != nil {
			return err
		}
	}
	return nil
}

// findResults collects the answers to one question until all are there or findWithin is
// over.
func (s *session) findResults(ctx context.Context, id string, keys []string) (map[string]*cluster.FindResult, error) {
	wait, cancel := context.WithTimeout(ctx, findWithin)
	defer cancel()
	results := map[string]*cluster.FindResult{}
	err := s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		for _, key := range keys {
			if it, ok := store.At[*cluster.FindResult](v, key); ok && it.Value.ID == id {
				results[key] = it.Value
			}
		}
		if len(results) == len(keys) {
			return errLook
		}
		return nil
	}, keys...)
	if ctx.Err() == nil && wait.Err() != nil {
		err = nil // what is missing is in the result
	}
	return results, err
}

// sumFinds makes the report, ports first, and says why hosts could not tell.
func sumFinds(mac cluster.MAC, asked map[string]learnedAt, answers map[string]*cluster.FindResult) (r learnedReport, why []string) {
	r.endpointReport = endpointReport{IPs: []string{}, MAC: mac.String(), State: stateLearned}
	r.Learned = []learnedAt{}
	for _, key := range slices.Sorted(maps.Keys(asked)) {
		at, answer := asked[key], answers[key]
		switch {
		case answer == nil:
			r.Silent = append(r.Silent, at.Node)
		case answer.Reason != "":
			why = append(why, fmt.Sprintf("%s, VPC %s: %s", at.Node, at.VPC, clean(answer.Reason)))
		case answer.Device != "" || answer.Peer != "":
			at.Device, at.Peer = clean(answer.Device), answer.Peer
			r.Learned = append(r.Learned, at)
		}
	}
	r.Silent = slices.Compact(slices.Sorted(slices.Values(r.Silent)))
	slices.SortStableFunc(r.Learned, func(a, b learnedAt) int {
		return cmp.Or(strings.Compare(b.port(), a.port()), strings.Compare(a.VPC, b.VPC), strings.Compare(a.Node, b.Node))
	})
	if len(r.Learned) > 0 {
		first := r.Learned[0]
		r.VPC, r.Node = first.VPC, cmp.Or(first.Peer, first.Node)
		if first.Device != "" {
			r.Port = &portReport{Node: first.Node, State: stateLearned, Device: first.Device}
		}
	}
	return r, why
}

// port is "port" for a port of the host's own.
func (a learnedAt) port() string {
	if a.Device == "" {
		return ""
	}
	return "port"
}

func (r learnedReport) text(w io.Writer) {
	known := map[[2]string]bool{} // what a port says
	for _, a := range r.Learned {
		switch {
		case a.Device != "":
			known[[2]string{a.VPC, a.Node}] = true
			fmt.Fprintf(w, "%s is no endpoint: learned on %s, port %s (VPC %s)\n", r.MAC, a.Node, a.Device, a.VPC)
		case !known[[2]string{a.VPC, a.Peer}]:
			fmt.Fprintf(w, "%s is no endpoint: %s sends to %s for it (VPC %s)\n", r.MAC, a.Node, a.Peer, a.VPC)
		}
	}
	if len(r.Silent) > 0 {
		fmt.Fprintf(w, "no answer from %s\n", few(r.Silent))
	}
}
