package main

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/membership/reach"
	"github.com/meshvpc/meshvpc/watcher"
)

// lookUnderlay asks this host's agent as the servers do, and looks whether peers
// know the host by the addresses that it has.
func (t *patient) lookUnderlay(ctx context.Context) seen {
	if t.agent == nil || t.agent.TLS == nil {
		return skip("this host is no node with an agent and a certificate")
	}
	state, err := agentState(ctx)
	if err != nil {
		return skip("the agent does not say where this host is")
	}
	c, err := t.agent.TLS.load()
	if err != nil {
		return skip("the node's certificate cannot be read")
	}
	key, err := c.KeyHash()
	if err != nil {
		return skip("the node's certificate cannot be read")
	}
	at := state.Underlay.Binds()
	answers := make([]error, len(at))
	var asking sync.WaitGroup
	for i, a := range at {
		asking.Go(func() { answers[i] = reach.Ask(ctx, key, a) })
	}
	asking.Wait()
	silent := map[netip.Addr]bool{}
	for i, a := range at {
		silent[a] = errors.Is(answers[i], reach.ErrNoAnswer) && ctx.Err() == nil
	}
	return judgeUnderlay(state, silent)
}

// judgeUnderlay wants the agent to answer wherever tunnels end, and peers to send
// there. silent: it did not, when asked from this host.
func judgeUnderlay(state watcher.State, silent map[netip.Addr]bool) (s seen) {
	for _, a := range state.Underlay.Binds() {
		if silent[a] {
			s.add(gradeProblem, "let UDP port 4788 in, and see the agent's log: another program may have that port",
				"the agent does not answer at %s, UDP port 4788, where the servers ask whether this host is there", a)
		}
	}
	told := map[netip.Addr]bool{}
	for _, vpc := range slices.Sorted(maps.Keys(state.VPCs)) {
		m := state.VPCs[vpc].Members[state.Node]
		if m == nil {
			continue
		}
		for _, x := range []struct {
			mine  *cluster.UnderlayAddress
			known netip.Addr
		}{{state.Underlay.IPv4, m.UnderlayIPv4}, {state.Underlay.IPv6, m.UnderlayIPv6}} {
			if x.mine == nil || x.known == x.mine.Advertise || told[x.mine.Advertise] {
				continue
			}
			told[x.mine.Advertise] = true
			where, g := "send to "+x.known.String(), gradeProblem
			if !x.known.IsValid() {
				where, g = "do without it", gradeNote
			}
			s.add(g, "let UDP port 4788 in from the servers, behind NAT forward it to this host; what they got: meshvpc vpc status "+vpc,
				"this host says that it is at %s, which is not confirmed, or another node's: peers %s", x.mine.Advertise, where)
		}
	}
	s.good = "the agent answers where tunnels end, and peers send there"
	return s
}
