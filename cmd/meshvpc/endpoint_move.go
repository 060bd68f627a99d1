package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// moveWait is how long a move may take: the controller, and both agents.
const moveWait = 30 * time.Second

func (p *program) endpointMoveCommand() *cli.Command {
	return p.verb("move", "E", "have another node serve an endpoint: same addresses, same MAC", waitFlags(moveWait, ofVPCFlag(),
		&cli.StringFlag{Name: "node", Usage: "the node `N` that it is to be on from now on (required)"},
		&cli.BoolFlag{Name: "force", Usage: "although nothing is attached there yet, or the node that had it does not answer: only when that surely serves it no more"},
		&cli.BoolFlag{Name: "no-wait", Usage: "do not wait until it is there"},
	), p.withStore(p.endpointMove))
}

// move is an endpoint that is to be on another node.
type move struct {
	vpc, name string
	from, to  string // from is "" without an owner
	spec      *cluster.EndpointSpec
	own       *cluster.EndpointOwn
	held      bool
	member    bool // to is a member of the VPC
	place     bool // to is one of the places of an endpoint that moves by itself
	alive     bool // from's agent runs
	was, is   *cluster.EndpointStatus
}

func (p *program) endpointMove(ctx context.Context, c *cli.Context, s *session) error {
	name, to := c.Args().First(), c.String("node")
	if err := cluster.CheckNodeName(to); err != nil {
		return usage("name it by --node; \"meshvpc node list\" shows them", "move endpoint %q: to which node?", clean(name))
	}
	v, e, err := p.readEndpoint(ctx, c, s, name, named(name))
	if err != nil {
		return err
	}
	m, err := s.readMove(ctx, e, to)
	if err != nil {
		return err
	}
	if m.done() {
		fmt.Fprintf(p.err, "endpoint %s is at %s already\n", name, to)
		return p.printEndpoint(c, e.report(v))
	}
	if err := m.check(c.Bool("force")); err != nil {
		return fmt.Errorf("move endpoint %q: %w", name, err)
	}
	if c.Bool("force") && m.spec.Failover.Stateful() && m.alive && m.was != nil && m.was.Workload.MayRun() && m.from != m.to {
		p.warn("workload %s is %s at %s, whose agent runs: it may run twice now; without --force it is stopped there first", clean(m.spec.Failover.Workload), m.was.Workload.State, m.from)
	}
	switch {
	case !m.attached() && m.spec.Failover.Mode == cluster.ModeVIP:
		p.warn("%s is not ready to serve %s yet: until it is, it answers nowhere", to, name)
	case !m.attached():
		p.warn("nothing is attached to %s at %s: until \"meshvpc endpoint attach %s\" there it answers nowhere", name, to, name)
	}
	err = edit(ctx, s, cluster.KeyEndpointSpec(m.vpc, name), func(spec *cluster.EndpointSpec) error {
		if spec.State == cluster.EndpointDeleting {
			return failed("make it anew", "move endpoint %q: it is being deleted", name)
		}
		if spec.ForcedFrom = (cluster.InEpoch{}); spec.Failover.Moves() {
			spec.Failover.MoveTo, spec.Failover.Preferred = cluster.InEpoch{Node: to, Epoch: m.epoch()}, to
		} else {
			spec.Node = to
		}
		if c.Bool("force") && m.from != "" {
			spec.ForcedFrom = cluster.InEpoch{Node: m.from, Epoch: m.epoch()}
		}
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		err = failed("see \"meshvpc endpoint list\"", "move endpoint %q: somebody deleted it", name)
	}
	if err != nil {
		return err
	}
	r, err := p.awaitMove(ctx, c, s, m)
	if err != nil {
		return err
	}
	return p.printEndpoint(c, r)
}

// readMove reads what a move is decided by.
func (s *session) readMove(ctx context.Context, e *endpointRecords, to string) (*move, error) {
	m := &move{vpc: e.vpc, name: e.name, to: to, spec: e.spec, own: e.own, held: e.hold != nil}
	if m.own != nil {
		m.from = m.own.Node
	}
	keys := []string{cluster.KeyMember(m.vpc, to), cluster.KeyEndpointStatus(to, m.vpc, m.name), cluster.KeyNode(to)}
	if m.from != "" && m.from != to {
		keys = append(keys, cluster.KeyLive(m.from), cluster.KeyEndpointStatus(m.from, m.vpc, m.name))
	}
	v, err := s.read(ctx, nil, keys...)
	if err != nil {
		return nil, err
	}
	m.member, m.alive = v.Has(keys[0]), v.Has(cluster.KeyLive(m.from))
	if it, ok := store.At[*cluster.EndpointStatus](v, keys[1]); ok {
		m.is = it.Value
	}
	if it, ok := store.At[*cluster.Node](v, keys[2]); ok && e.moves() {
		_, m.place = e.spec.Failover.Place.Rank(to, it.Value)
	}
	if it, ok := store.At[*cluster.EndpointStatus](v, cluster.KeyEndpointStatus(m.from, m.vpc, m.name)); ok {
		m.was = it.Value
	}
	return m, nil
}

// done reports whether the endpoint is where it is to be, and stays there.
func (m *move) done() bool {
	return m.spec != nil && m.from == m.to && (m.own == nil || !m.own.Restored) && (m.spec.Node == "" || m.spec.Node == m.to) && m.spec.State == cluster.EndpointActive
}

// epoch is the one that the endpoint is in.
func (m *move) epoch() int64 {
	if m.own == nil {
		return 0
	}
	return m.own.Epoch
}

// attached reports whether a workload is in place at the new node.
func (m *move) attached() bool { return m.is != nil && m.is.State != cluster.PortReleased }

// served reports whether a workload answered at the old node.
func (m *move) served() bool {
	return m.was != nil && m.from != m.to && m.was.State == cluster.PortReady
}

// check refuses what cannot be, or would leave a workload without a network.
func (m *move) check(force bool) error {
	switch {
	case m.spec == nil:
		return failed("delete it and make it anew", "its spec is gone")
	case m.spec.State == cluster.EndpointDeleting:
		return failed("make it anew", "it is being deleted")
	case !m.member:
		return failed("see \"meshvpc vpc peers "+m.vpc+"\"", "node %s is no member of VPC %s", m.to, m.vpc)
	case m.spec.Failover.Moves() && !m.place:
		return failed("\"meshvpc apply\" changes its places", "node %s is none of its places %s", m.to, m.spec.Failover.Place)
	case m.held:
		return failed("meshvpc endpoint release "+m.name, "it is held")
	case force:
		return nil
	case m.was != nil && m.was.State != cluster.PortReleased && m.from != m.to && !m.alive:
		return failed("once that host surely serves it no more: --force", "%s has it and does not answer: the endpoint could be served twice", m.from)
	case m.served() && !m.attached() && m.spec.Failover.Mode == cluster.ModeVIP:
		return failed("meshvpc vpc status "+m.vpc, "%s is not ready to serve it, and %s does", m.to, m.from)
	case m.served() && !m.attached():
		return failed(fmt.Sprintf("attach it there first: \"meshvpc endpoint attach %s --standby\" on %s, or --force", m.name, m.to),
			"nothing is attached at %s, and a workload at %s is: until then it would answer nowhere", m.to, m.from)
	}
	return nil
}

// awaitMove waits until the endpoint is at its new node, and, if it was served and a
// workload is there, until that has its frames.
func (p *program) awaitMove(ctx context.Context, c *cli.Context, s *session, m *move) (r endpointReport, err error) {
	wait, cancel := context.WithTimeout(ctx, c.Duration("timeout"))
	defer cancel()
	bar := p.progress()
	defer bar.done()
	prefixes := []string{cluster.PrefixEndpoints(m.vpc) + m.name + "/", cluster.KeyEndpointStatus(m.to, m.vpc, m.name), cluster.PrefixNodes}
	step := "the controller"
	err = s.follow(wait, func(_ *store.Mirror, v *store.View) error {
		for _, p := range prefixes {
			if !v.Synced(p) {
				return nil
			}
		}
		found := endpointsOf(v, anyEndpoint)
		if len(found) == 0 {
			return failed("", "move endpoint %q: somebody deleted it", m.name)
		}
		r = found[0].report(v)
		if c.Bool("no-wait") {
			return errLook
		}
		var status *cluster.EndpointStatus
		if it, ok := store.At[*cluster.EndpointStatus](v, prefixes[1]); ok {
			status = it.Value
		}
		step, err = m.progress(found[0], status)
		bar.show("endpoint %s: awaiting %s", m.name, step)
		return err
	}, prefixes...)
	if ctx.Err() == nil && wait.Err() != nil {
		return r, notSo("it goes on by itself: \"meshvpc endpoint show "+m.name+" --vpc "+m.vpc+"\"", "move endpoint %q: %s has not done it after %s", m.name, step, c.Duration("timeout"))
	}
	return r, err
}

// progress says who is awaited; errLook: nobody.
func (m *move) progress(e *endpointRecords, status *cluster.EndpointStatus) (awaited string, err error) {
	switch own := e.own; {
	case e.spec != nil && !e.moves() && e.spec.Node != m.to:
		return "", failed("see \"meshvpc endpoint show "+m.name+"\"", "move endpoint %q: somebody else sends it to %q", m.name, e.spec.Node)
	case own != nil && own.To == m.to && e.spec != nil && e.spec.Failover.Workload != "":
		return "the agent of " + own.Node + ", which has to shut it and end its workload first", nil
	case own != nil && own.To == m.to:
		return "the agent of " + own.Node + ", which has to shut it first", nil
	case own == nil || own.Node != m.to && (own.Reason == "" || m.own != nil && own.Reason == m.own.Reason):
		return "the controller", nil
	case own.Node != m.to:
		return "", notSo("once that host surely serves it no more: --force", "move endpoint %q: %s", m.name, clean(own.Reason))
	case !m.served() || !m.attached():
		return "", errLook
	case status == nil || status.Era != own.Era || status.Epoch != own.Epoch || status.State == cluster.PortStandby:
		return "the agent of " + m.to, nil
	case status.State != cluster.PortReady:
		return "", notSo("see \"meshvpc endpoint show "+m.name+"\"", "move endpoint %q: it is at %s, and %s there: %s", m.name, m.to, status.State, clean(status.Reason))
	}
	return "", errLook
}
