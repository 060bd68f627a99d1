package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/meshvpc/meshvpc/cluster"
	"github.com/meshvpc/meshvpc/cluster/store"
)

// mostUnderlays is how many addresses a joiner may name: one a family.
const mostUnderlays = 2

// readsAtOnce is how many records are read side by side.
const readsAtOnce = 16

type sourceKey struct{}

// withSource keeps where a connection comes from.
func withSource(ctx context.Context, c net.Conn) context.Context {
	a, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // always one, for TCP
	return context.WithValue(ctx, sourceKey{}, a.Addr().Unmap().WithZone(""))
}

func sourceIn(ctx context.Context) netip.Addr {
	a, _ := ctx.Value(sourceKey{}).(netip.Addr)
	return a
}

// checkUnderlays refuses what is no underlay.
func checkUnderlays(list []netip.Addr) error {
	if len(list) > mostUnderlays || len(list) == 2 && list[0].Is4() == list[1].Is4() {
		return refusef(CodeInvalid, "want at most one underlay address a family")
	}
	for _, a := range list {
		m := cluster.UnderlayAddress{Bind: a, Advertise: a, Device: "x", MTU: 1500}
		u := cluster.Underlay{IPv6: &m}
		if a.Is4() {
			u = cluster.Underlay{IPv4: &m}
		}
		if u.Validate() != nil {
			return refusef(CodeInvalid, "%s is no address that the others could reach", a)
		}
	}
	return nil
}

// askBack refuses a joiner at an address that another node has, or at none that
// is the joiner's: one that answers is enough, and the others are told. The
// controller asks again before it believes any.
func (a *admitter) askBack(ctx context.Context, c candidate) (silent []netip.Addr, err error) {
	if a.ask == nil || len(c.Underlay) == 0 {
		return nil, nil
	}
	claimed, err := a.claims(ctx, c)
	if err != nil {
		return nil, err
	}
	for _, at := range c.Underlay {
		if by := claimed[at]; by.known {
			return nil, refusef(CodeUnreachable, "%s is the underlay address of node %s", at, by.node)
		}
	}
	answers := make([]error, len(c.Underlay))
	var asking sync.WaitGroup
	for i, at := range c.Underlay {
		asking.Go(func() { answers[i] = a.ask(ctx, c.node.hash, at) })
	}
	asking.Wait()
	var why []string
	for i, at := range c.Underlay {
		if answers[i] == nil {
			continue
		}
		silent = append(silent, at)
		text := fmt.Sprintf("%v at %s", answers[i], at)
		if by := claimed[at]; by.node != "" {
			text += ", which node " + by.node + " reports, too"
		}
		why = append(why, text)
	}
	if len(silent) < len(c.Underlay) {
		return silent, nil
	}
	return nil, &Refusal{CodeUnreachable, "the server asked back on UDP port 4788 whether this host is at its underlay address: " +
		strings.Join(why, "; ") + natWords(c.Underlay, sourceIn(ctx), c.tunnels)}
}

// natWords says what a joiner behind NAT has to do, "" if there is none.
func natWords(own []netip.Addr, seen netip.Addr, tunnels uint16) string {
	if !seen.IsValid() || slices.Contains(own, seen) {
		return ""
	}
	i := slices.IndexFunc(own, func(a netip.Addr) bool { return a.Is4() == seen.Is4() })
	if i < 0 {
		return fmt.Sprintf("; the connection came from %s", seen)
	}
	return fmt.Sprintf("; the connection came from %s: behind NAT, forward UDP ports 4788 and %d of that address to this host and join with --underlay %s=%s",
		seen, tunnels, own[i], seen)
}

// claim is the node that has an address: known: peers know it by that, else it
// only says so.
type claim struct {
	node  string
	known bool
}

// claims are those of the joiner's addresses that other nodes have.
func (a *admitter) claims(ctx context.Context, c candidate) (map[netip.Addr]claim, error) {
	nodes, _, err := store.List[*cluster.Node](ctx, a.store, cluster.PrefixNodes)
	if err != nil && len(nodes) == 0 {
		return nil, err
	}
	found := make([]map[netip.Addr]claim, len(nodes))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readsAtOnce)
	for i, it := range nodes {
		name := strings.TrimPrefix(it.Key, cluster.PrefixNodes)
		if it.Value.State == cluster.NodeLeft || name == c.Name {
			continue
		}
		g.Go(func() (err error) {
			found[i], err = a.claimsOf(ctx, name, it.Value.ID, c.Underlay)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	all := map[netip.Addr]claim{}
	for _, one := range found {
		for at, by := range one {
			if !all[at].known {
				all[at] = by
			}
		}
	}
	return all, nil
}

// claimsOf are those of one node: what it reports, and what stands in its member
// records.
func (a *admitter) claimsOf(ctx context.Context, name, id string, wanted []netip.Addr) (map[netip.Addr]claim, error) {
	report, err := store.Get[*cluster.NodeStatus](ctx, a.store, cluster.KeyNodeStatus(name))
	if err != nil || report.Value.NodeID != id {
		return nil, unreadable(err)
	}
	mine := map[netip.Addr]claim{}
	for _, at := range report.Value.Underlay.Advertised() {
		if slices.Contains(wanted, at) {
			mine[at] = claim{node: name}
		}
	}
	if len(mine) == 0 {
		return nil, nil
	}
	vpcs, _, err := store.List[*cluster.HostVPC](ctx, a.store, cluster.PrefixHost(name))
	if err != nil && len(vpcs) == 0 {
		return nil, err
	}
	for _, it := range vpcs {
		k, err := cluster.ParseKey(it.Key)
		if err != nil {
			continue // not of this version
		}
		m, err := store.Get[*cluster.Member](ctx, a.store, cluster.KeyMember(k.VPC, name))
		if err = unreadable(err); err != nil {
			return nil, err
		}
		if m.Value == nil {
			continue
		}
		for _, at := range []netip.Addr{m.Value.UnderlayIPv4, m.Value.UnderlayIPv6} {
			if _, ok := mine[at]; ok {
				mine[at] = claim{name, true}
			}
		}
	}
	return mine, nil
}

// unreadable is the error of a read, nil for a record that is not there or cannot
// be understood: it claims nothing.
func unreadable(err error) error {
	if errors.Is(err, store.ErrNotFound) || cluster.Unreadable(err) {
		return nil
	}
	return err
}
