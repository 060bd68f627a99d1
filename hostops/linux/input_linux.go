package linux

import (
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// makeFiltered lets ICMP echo and neighbour discovery into the calling thread's
// namespace, and nothing else.
func makeFiltered() error {
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
	c := cc.AddChain(&nftables.Chain{
		Name: "input", Table: t, Type: nftables.ChainTypeFilter, Policy: &drop,
		Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter,
	})
	for _, r := range namespaceRules() {
		cc.AddRule(&nftables.Rule{Table: t, Chain: c, Exprs: r.exprs, UserData: comment(r.text)})
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

// filtered reports whether the calling thread's namespace is as makeFiltered
// leaves it.
func filtered() (bool, error) {
	cc, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return false, err
	}
	defer cc.CloseLasting()
	t := table()
	chains, err := cc.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return false, err
	}
	for _, c := range chains {
		if c.Table.Name != t.Name || c.Name != "input" {
			continue
		}
		if c.Hooknum == nil || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop {
			return false, nil
		}
		rs, err := cc.GetRules(t, c)
		if err != nil {
			return false, err
		}
		want := namespaceRules()
		return slices.EqualFunc(rs, want, func(r *nftables.Rule, w rule) bool { return commentOf(r) == w.text }), nil
	}
	return false, nil
}
