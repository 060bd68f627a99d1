package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/hostops"
	"github.com/meshvpc/meshvpc/watcher"
)

// pathsAtOnce is how many peers are asked side by side.
const pathsAtOnce = 32

// way is the path of a VPC's tunnel to a peer.
type way struct {
	vpc, peer string
	from, to  netip.Addr // underlay
	mtu       int        // of the VPC, bytes
}

// needs is the size of the VPC's largest frame in the tunnel, as an IP packet.
func (w way) needs() int { return w.mtu + w.overhead() }

func (w way) overhead() int {
	if w.to.Is4() {
		return cluster.OverheadIPv4
	}
	return cluster.OverheadIPv6
}

// waysOf are the paths of all tunnels of this host, by VPC and peer.
func waysOf(state watcher.State) (list []way) {
	u := state.Underlay
	for _, vpc := range slices.Sorted(maps.Keys(state.VPCs)) {
		v := state.VPCs[vpc]
		for _, peer := range slices.Sorted(maps.Keys(v.Members)) {
			m := v.Members[peer]
			w := way{vpc: vpc, peer: peer, mtu: v.MTU}
			switch {
			case peer == state.Node || v.MTU == 0:
				continue
			case u.IPv6 != nil && m.UnderlayIPv6.IsValid(): // as pairs choose
				w.from, w.to = u.IPv6.Bind, m.UnderlayIPv6
			case u.IPv4 != nil && m.UnderlayIPv4.IsValid():
				w.from, w.to = u.IPv4.Bind, m.UnderlayIPv4
			default:
				continue
			}
			list = append(list, w)
		}
	}
	return list
}

// passage is what was found of the way to an address: the largest size that passes,
// up to the largest that was asked for.
type passage struct {
	size int
	err  error
}

// lookPaths finds the MTU of the path to each peer of this host's VPCs.
func (t *patient) lookPaths(ctx context.Context) seen {
	if t.agent == nil {
		return skip("this host is no node with an agent")
	}
	state, err := agentState(ctx)
	if err != nil {
		return skip("the agent does not say who the peers are")
	}
	ways := waysOf(state)
	if len(ways) == 0 {
		return skip("this host has no peer in a VPC")
	}
	want, from := map[netip.Addr]int{}, map[netip.Addr]netip.Addr{}
	for _, w := range ways {
		want[w.to], from[w.to] = max(want[w.to], w.needs()), w.from
	}
	tos := slices.SortedFunc(maps.Keys(want), netip.Addr.Compare)
	paths := make([]passage, len(tos))
	var g errgroup.Group
	g.SetLimit(pathsAtOnce)
	for i, to := range tos {
		g.Go(func() error {
			if paths[i].err = ctx.Err(); paths[i].err == nil {
				paths[i].size, paths[i].err = pathMTU(ctx, from[to], to, want[to])
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in paths
	found := map[netip.Addr]passage{}
	for i, to := range tos {
		found[to] = paths[i]
	}
	return judgePaths(ways, found)
}

// judgePaths wants each VPC's largest frame to pass to each of its peers.
func judgePaths(ways []way, found map[netip.Addr]passage) (s seen) {
	fits := map[string]int{} // the MTU that a VPC could have
	for _, w := range ways {
		if p := found[w.to]; p.err == nil {
			fits[w.vpc] = min(cmp.Or(fits[w.vpc], w.mtu), p.size-w.overhead())
		}
	}
	measured, late, told := 0, 0, map[netip.Addr]bool{}
	for _, w := range ways {
		p := found[w.to]
		switch {
		case errors.Is(p.err, hostops.ErrUnsupported):
			return skip("not checked here: %v", p.err)
		case errors.Is(p.err, syscall.EPERM), errors.Is(p.err, fs.ErrPermission):
			return skip("run doctor as root to have that checked")
		case errors.Is(p.err, context.DeadlineExceeded), errors.Is(p.err, context.Canceled):
			late++
		case p.err != nil && told[w.to]:
		case errors.Is(p.err, hostops.ErrNoAnswer):
			s.add(gradeNote, "let ICMP echo in there, if the link is up: meshvpc vpc ping "+w.vpc,
				"the MTU of the path to %s is not known: %s answers no ping", w.peer, w.to)
		case p.err != nil:
			s.add(gradeProblem, "see the routes and the firewall of this host: ip route get "+w.to.String(), "nothing can be sent to %s: %v", w.peer, p.err)
		case p.size < w.needs():
			mend := fmt.Sprintf("let %d bytes pass on all of that path", w.needs())
			if fit := fits[w.vpc]; fit >= cluster.MinMTU {
				mend = fmt.Sprintf("meshvpc vpc set %s --mtu %d, or %s", w.vpc, fit, mend)
			}
			s.add(gradeProblem, mend, "the path to %s (%s) passes packets of %d bytes, and VPC %s needs %d (its MTU %d + %d): larger frames are lost",
				w.peer, w.to, p.size, w.vpc, w.needs(), w.mtu, w.overhead())
			measured++
		default:
			measured++
		}
		told[w.to] = true
	}
	s.good = fmt.Sprintf("%d of %d tunnels' paths were measured by unfragmented pings", measured, len(ways))
	if late > 0 {
		s.good += fmt.Sprintf("; no time for %d: meshvpc doctor --timeout 30s", late)
	}
	return s
}
