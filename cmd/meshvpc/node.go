package main

import (
	"bufio"
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

func (p *program) nodeCommand() *cli.Command {
	return p.noun("node", "the machines of the cluster",
		[]string{
			"meshvpc node list",
			"meshvpc node show gold-hoster-01 -o yaml",
			"meshvpc node set gold-hoster-01 --label rack=a1 --label disk=",
			"meshvpc node set gold-hoster-01 --capacity 20",
			"meshvpc node drain gold-hoster-02",
			"meshvpc node resume gold-hoster-02",
			"meshvpc node remove gold-hoster-02",
			"meshvpc node add root@gold-hoster-03 --datacenter hetzner",
			"meshvpc node add admin@192.0.2.7:2222 --datacenter home --identity ~/.ssh/id_ed25519 --dry-run",
			"meshvpc node purge --yes",
		},
		p.verb("list", "", "list the nodes", storeFlags(), p.withStore(p.nodeList)),
		p.verb("show", "N", "all about one node", storeFlags(), p.withStore(p.nodeShow)),
		p.verb("set", "N", "change a node", storeFlags(
			&cli.StringSliceFlag{Name: "label", Usage: "`KEY=VALUE` to set, KEY= to remove; may be repeated"},
			&cli.IntFlag{Name: "capacity", Usage: "how many endpoints that move by themselves failover lets it have, `K` at most; 0: any number"}), p.withStore(p.nodeSet)),
		p.verb("remove", "N", "take a node out of the cluster for good", waitFlags(time.Minute, yesFlag(),
			&cli.BoolFlag{Name: "force", Usage: "also with endpoints, which keep their addresses and are on no node then"},
			&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until its tunnels are gone"}), p.withStore(p.nodeRemove)),
		p.nodeDrainCommand(),
		p.nodeResumeCommand(),
		p.nodeAddCommand(),
		p.verb("purge", "", "remove from this host all that is meshvpc's, without the store", []cli.Flag{yesFlag(), outputFlag()}, p.nodePurge),
	)
}

// nodeReport is an element of `node list -o json`.
type nodeReport struct {
	Node       string            `json:"node"`
	Name       string            `json:"name"`
	Datacenter string            `json:"datacenter"`
	Underlay   string            `json:"underlay"`
	State      cluster.NodeState `json:"state"`
	Live       bool              `json:"live"`
	Version    string            `json:"version"`
	OS         string            `json:"os,omitempty"`
	Capacity   int               `json:"capacity,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Problems   []string          `json:"problems,omitempty"`
	Notes      []string          `json:"notes,omitempty"`
}

func nodeOf(v *store.View, it store.Item[*cluster.Node]) nodeReport {
	name := last(it.Key)
	r := nodeReport{Node: name, Name: name, Datacenter: clean(it.Value.Datacenter), State: it.Value.State, Capacity: it.Value.Capacity, Labels: it.Value.Labels,
		Live: v.Has(cluster.KeyLive(name)), Underlay: "-"}
	if s, ok := store.At[*cluster.NodeStatus](v, cluster.KeyNodeStatus(name)); ok && s.Value.NodeID == it.Value.ID {
		r.Underlay, r.Version, r.OS = s.Value.Underlay.String(), clean(s.Value.Version), clean(s.Value.OS)
		for _, problem := range s.Value.Problems {
			r.Problems = append(r.Problems, clean(problem))
		}
		for _, note := range s.Value.Notes {
			r.Notes = append(r.Notes, clean(note))
		}
	}
	return r
}

// nodeKeys finds the status records of the nodes in v.
func nodeKeys(v *store.View) []string {
	var keys []string
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		keys = append(keys, cluster.KeyNodeStatus(last(it.Key)))
	}
	if len(keys) > manyStatuses {
		return []string{cluster.PrefixStat}
	}
	return keys
}

func (p *program) nodeList(ctx context.Context, c *cli.Context, s *session) error {
	v, err := s.read(ctx, nodeKeys, cluster.PrefixNodes, cluster.PrefixLive)
	if err != nil {
		return err
	}
	p.warnUnreadable(v)
	list := []nodeReport{}
	for it := range store.Below[*cluster.Node](v, cluster.PrefixNodes) {
		list = append(list, nodeOf(v, it))
	}
	return p.print(c, list, func(w io.Writer) {
		var rows [][]string
		for _, n := range list {
			rows = append(rows, []string{n.Node, n.Datacenter, n.Underlay, string(n.State), yesNo(n.Live), n.Version})
		}
		columns(w, []string{"node", "datacenter", "underlay", "state", "live", "version"}, rows)
	})
}

// nodeDetail is `node show -o json`.
type nodeDetail struct {
	nodeReport
	ID     string       `json:"id"`
	Joined cluster.Time `json:"joined"`
	// GivenUp is an operator's word that it is lost, nil for none.
	GivenUp *cluster.GivenUp `json:"given_up,omitempty"`
	VPCs    []nodeVPC        `json:"vpcs"`
}

type nodeVPC struct {
	VPC    string                  `json:"vpc"`
	State  cluster.AssignmentState `json:"state"`
	Ready  bool                    `json:"ready"`
	Reason string                  `json:"reason,omitempty"`
	VTEP   string                  `json:"vtep,omitempty"`
}

func (p *program) nodeShow(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	v, err := s.read(ctx, nil, cluster.KeyNode(name), cluster.KeyLive(name), cluster.PrefixHost(name), cluster.PrefixStatus(name))
	if err != nil {
		return err
	}
	p.warnUnreadable(v)
	it, ok := store.At[*cluster.Node](v, cluster.KeyNode(name))
	if !ok {
		return p.noNode(ctx, s, name)
	}
	d := nodeDetail{nodeReport: nodeOf(v, it), ID: clean(it.Value.ID), Joined: it.Value.Joined, GivenUp: it.Value.GivenUp, VPCs: []nodeVPC{}}
	for a := range store.Below[*cluster.HostVPC](v, cluster.PrefixHost(name)) {
		part := nodeVPC{VPC: last(a.Key), State: a.Value.State}
		if st, ok := store.At[*cluster.VPCStatus](v, cluster.KeyVPCStatus(name, part.VPC)); ok {
			part.Ready, part.Reason = st.Value.Ready, clean(st.Value.Reason)
			if st.Value.VTEP.IsValid() {
				part.VTEP = st.Value.VTEP.String()
			}
		}
		d.VPCs = append(d.VPCs, part)
	}
	return p.print(c, d, func(w io.Writer) {
		fmt.Fprintf(w, "node:        %s\nid:          %s\ndatacenter:  %s\nstate:       %s\nlive:        %s\nunderlay:    %s\nos:          %s\nversion:     %s\njoined:      %s\n",
			d.Node, d.ID, d.Datacenter, d.State, yesNo(d.Live), d.Underlay, cmp.Or(d.OS, "-"), cmp.Or(d.Version, "-"), d.Joined.Format(time.RFC3339))
		if d.GivenUp != nil {
			fmt.Fprintf(w, "given up:    %s\n", d.GivenUp.At.Format(time.RFC3339))
		}
		if d.Capacity > 0 {
			fmt.Fprintf(w, "capacity:    %d endpoints that move\n", d.Capacity)
		}
		for _, k := range slices.Sorted(maps.Keys(d.Labels)) {
			fmt.Fprintf(w, "label:       %s=%s\n", k, d.Labels[k])
		}
		for _, problem := range d.Problems {
			fmt.Fprintf(w, "problem:     %s\n", problem)
		}
		if len(d.VPCs) == 0 {
			return
		}
		var rows [][]string
		for _, v := range d.VPCs {
			rows = append(rows, []string{v.VPC, string(v.State), yesNo(v.Ready), v.VTEP, v.Reason})
		}
		fmt.Fprintln(w)
		columns(w, []string{"vpc", "part", "ready", "vtep", "reason"}, rows)
	})
}

// noNode says that there is no such node, and which there are.
func (p *program) noNode(ctx context.Context, s *session, name string) error {
	known, err := s.nodeNames(ctx)
	if err != nil {
		return err
	}
	return failed(nodesHint(known), "node %q does not exist", name)
}

func nodesHint(known []string) string {
	if len(known) == 0 {
		return "no node has joined yet: meshvpc cluster join"
	}
	return "the nodes are " + few(known)
}

// nodeNames lists the nodes that have not left, sorted.
func (s *session) nodeNames(ctx context.Context) ([]string, error) {
	items, _, err := store.List[*cluster.Node](ctx, s.store, cluster.PrefixNodes)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, it := range items {
		if it.Value.State != cluster.NodeLeft {
			names = append(names, last(it.Key))
		}
	}
	return names, nil
}

func (p *program) nodeSet(ctx context.Context, c *cli.Context, s *session) error {
	name, labels := c.Args().First(), c.StringSlice("label")
	if len(labels) == 0 && !c.IsSet("capacity") {
		return usage("give --label KEY=VALUE or --capacity K", "nothing to set")
	}
	for _, l := range labels {
		if _, _, ok := strings.Cut(l, "="); !ok {
			return usage("want KEY=VALUE, or KEY= to remove it", "invalid label %q", l)
		}
	}
	err := edit(ctx, s, cluster.KeyNode(name), func(n *cluster.Node) error {
		if c.IsSet("capacity") {
			n.Capacity = c.Int("capacity")
		}
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		for _, l := range labels {
			if k, v, _ := strings.Cut(l, "="); v == "" {
				delete(n.Labels, k)
			} else {
				n.Labels[k] = v
			}
		}
		return n.Validate()
	})
	if errors.Is(err, store.ErrNotFound) {
		return p.noNode(ctx, s, name)
	}
	if err != nil {
		return err
	}
	return p.nodeShow(ctx, c, s)
}

// nodeRemove commits the state left, and waits until the node is no member of
// any VPC, so that every peer has been told to drop its tunnels.
func (p *program) nodeRemove(ctx context.Context, c *cli.Context, s *session) error {
	name := c.Args().First()
	it, err := store.Get[*cluster.Node](ctx, s.store, cluster.KeyNode(name))
	if errors.Is(err, store.ErrNotFound) {
		return p.noNode(ctx, s, name)
	}
	if err != nil {
		return err
	}
	if err := s.mayLoseServer(ctx, name); err != nil {
		return err
	}
	if it.Value.State != cluster.NodeLeft {
		at, err := s.endpointsAt(ctx, name)
		if err != nil {
			return err
		}
		if err := p.mayLoseEndpoints(at, name, c.Bool("force")); err != nil {
			return err
		}
		if err := p.confirm(c, "node", name); err != nil {
			return err
		}
		if err := s.shutOut(ctx, name); err != nil {
			return err
		}
	}
	if c.Bool("no-wait") {
		return p.printNodeRemoved(c, name, true)
	}
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	if err := s.awaitServerGone(wait, name); err != nil {
		return err
	}
	left, err := s.awaitNodeGone(wait, name)
	if ctx.Err() == nil && wait.Err() != nil {
		return notSo("the controller takes it apart: see \"meshvpc status\"", "remove node %s: it is still a member of %s", name, cmp.Or(few(left), "its VPCs"))
	}
	if err != nil {
		return err
	}
	return p.printNodeRemoved(c, name, false)
}

// shutOut says the word that a node has left, and takes away the record of its
// viewer in the same transaction. That is an admin's to do; without it the viewer
// is shut out as well, and is listed still.
func (s *session) shutOut(ctx context.Context, name string) error {
	asAdmin := true
	for range 8 {
		node, err := store.Get[*cluster.Node](ctx, s.store, cluster.KeyNode(name))
		if err != nil {
			return err
		}
		var c store.Change
		node.Value.State = cluster.NodeLeft
		isServer, err := s.revokeServer(ctx, &c, name, node.Value)
		if err != nil {
			return err
		}
		store.Put(&c, node, node.Value)
		viewer, err := store.Get[*cluster.User](ctx, s.store, cluster.KeyUser(name))
		switch {
		case err == nil && asAdmin && viewer.Value.By == (cluster.Subject{Kind: cluster.SubjectNode, Name: name}).String():
			c.Remove(viewer.Key, viewer.Mod)
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		}
		err = s.commit(ctx, c)
		switch {
		case errors.Is(err, mvcc.ErrDenied) && isServer:
			return failed("do that with an admin's client file", "remove node %s: it runs a server, and only an admin takes that out: %w", name, err)
		case errors.Is(err, mvcc.ErrDenied) && asAdmin:
			asAdmin = false
		case !errors.Is(err, store.ErrConflict):
			return err
		}
	}
	return fmt.Errorf("remove node %s: %w", name, store.ErrConflict)
}

func (p *program) printNodeRemoved(c *cli.Context, name string, pending bool) error {
	v := struct {
		Node    string            `json:"node"`
		State   cluster.NodeState `json:"state"`
		Pending bool              `json:"pending"`
	}{name, cluster.NodeLeft, pending}
	return p.print(c, v, func(w io.Writer) {
		fmt.Fprintf(w, "node %s is removed; its agent takes down what it has (if the host is off: \"meshvpc node purge\" there)\n", name)
	})
}

// awaitNodeGone waits until no VPC has the node as a member, and returns those
// that still had when ctx ended.
func (s *session) awaitNodeGone(ctx context.Context, name string) (members []string, err error) {
	err = s.follow(ctx, func(_ *store.Mirror, v *store.View) error {
		if !v.Synced(cluster.PrefixVPCs) {
			return nil
		}
		members = members[:0]
		for it := range store.Below[*cluster.Member](v, cluster.PrefixVPCs) {
			if k, err := cluster.ParseKey(it.Key); err == nil && k.Node == name {
				members = append(members, k.VPC)
			}
		}
		if len(members) == 0 {
			return errLook
		}
		return nil
	}, cluster.PrefixVPCs)
	return members, err
}

// confirm asks for the name of what is to go, unless --yes was given.
func (p *program) confirm(c *cli.Context, noun, name string) error {
	return p.confirmBy(c, "the name of the "+noun, name, noun+" "+name+" stays")
}

// confirmBy asks for a word, which what describes, unless --yes was given.
// Otherwise says what happens without it.
func (p *program) confirmBy(c *cli.Context, what, word, otherwise string) error {
	if c.Bool("yes") {
		return nil
	}
	fmt.Fprintf(p.err, "type %s to confirm (%s): ", what, word)
	answer, err := readUntil(c.Done(), func() ([]byte, error) { return bufio.NewReader(p.in).ReadBytes('\n') })
	if err != nil {
		fmt.Fprintln(p.err)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read answer: %w", err)
	}
	if strings.TrimSpace(string(answer)) != word {
		return usage("type "+what+", or give --yes", "%s: it was not confirmed", otherwise)
	}
	return nil
}
