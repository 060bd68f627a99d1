package linux

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/meshvpc/meshvpc/hostops"
)

// spaceChain is one of the chains that filter a VPC's namespace; what none of its
// rules accepts is dropped.
type spaceChain struct {
	name  string
	hook  *nftables.ChainHook
	rules []rule
}

// spaceChains are all of them, for what the namespace is to forward.
func spaceChains(r hostops.Routing) []spaceChain {
	chains := []spaceChain{{"input", nftables.ChainHookInput, namespaceRules()}}
	if r.Gateway {
		chains = append(chains, spaceChain{"forward", nftables.ChainHookForward, forwardRules()})
	}
	return chains
}

// makeFiltered lets ICMP echo and neighbour discovery into the calling thread's
// namespace, and nothing else, and has it forward what r says at most.
func makeFiltered(r hostops.Routing) error {
	cc, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer cc.CloseLasting()
	t, drop := table(), nftables.ChainPolicyDrop
	there, err := hasTable(cc, t)
	if err != nil {
		return err
	}
	replaceTable(cc, t, there)
	for _, w := range spaceChains(r) {
		c := cc.AddChain(&nftables.Chain{
			Name: w.name, Table: t, Type: nftables.ChainTypeFilter, Policy: &drop,
			Hooknum: w.hook, Priority: nftables.ChainPriorityFilter,
		})
		for _, r := range w.rules {
			cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: comment(r.text)})
		}
	}
	return cc.Flush()
}

func namespaceRules() []rule {
	accept := func(proto byte, kind byte) []expr.Any {
		return []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
			&expr.Payload{Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1, DestRegister: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{kind}},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}
	}
	var out []rule
	for _, kind := range []byte{8, 0} { // echo request, reply
		out = append(out, rule{fmt.Sprint("meshvpc icmp ", kind), accept(unix.IPPROTO_ICMP, kind)})
	}
	for _, kind := range []byte{128, 129, 135, 136} { // echo, neighbour discovery
		out = append(out, rule{fmt.Sprint("meshvpc icmpv6 ", kind), accept(unix.IPPROTO_ICMPV6, kind)})
	}
	return out
}

// forwardRules keep what comes in by the gateway off the peer network.
func forwardRules() []rule {
	gateway := func(key expr.MetaKey) []expr.Any { return name(key, hostops.InnerGateway, expr.CmpOpEq) }
	return []rule{{"meshvpc gateway", join(gateway(expr.MetaKeyIIFNAME), gateway(expr.MetaKeyOIFNAME), accept())}}
}

// filtered reads what the calling thread's namespace forwards at most, and whether it
// is as makeFiltered leaves it then.
func filtered() (r hostops.Routing, whole bool, err error) {
	cc, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return r, false, err
	}
	defer cc.CloseLasting()
	t := table()
	all, err := cc.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return r, false, err
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name == t.Name {
			chains[c.Name] = c
		}
	}
	r.Gateway = chains["forward"] != nil
	wants := spaceChains(r)
	for _, w := range wants {
		c := chains[w.name]
		if c == nil || c.Hooknum == nil || *c.Hooknum != *w.hook || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop {
			return r, false, nil
		}
		rs, err := cc.GetRules(t, c)
		if err != nil {
			return r, false, err
		}
		if !slices.EqualFunc(rs, w.rules, func(r *nftables.Rule, w rule) bool { return commentOf(r) == w.text }) {
			return r, false, nil
		}
	}
	return r, len(chains) == len(wants), nil
}
