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
	kind  nftables.ChainType
	rules []rule
}

// spaceChains are all of them, for what the namespace is to forward.
func spaceChains(r hostops.Routing) []spaceChain {
	chains := []spaceChain{{"input", nftables.ChainHookInput, nftables.ChainTypeFilter, namespaceRules()}}
	if r.Gateway {
		chains = append(chains, spaceChain{"forward", nftables.ChainHookForward, nftables.ChainTypeFilter, forwardRules(r)})
	}
	if r.NAT {
		chains = append(chains, spaceChain{"nat", nftables.ChainHookPostrouting, nftables.ChainTypeNAT, natRules()})
	}
	return chains
}

// of is the chain in a table, with what becomes of that which no rule judges.
func (c spaceChain) of(t *nftables.Table, policy nftables.ChainPolicy) *nftables.Chain {
	chain := &nftables.Chain{Name: c.name, Table: t, Type: c.kind, Hooknum: c.hook, Priority: nftables.ChainPriorityFilter, Policy: &policy}
	if c.kind == nftables.ChainTypeNAT {
		accept := nftables.ChainPolicyAccept
		chain.Priority, chain.Policy = nftables.ChainPriorityNATSource, &accept
	}
	return chain
}

// makeFiltered lets ICMP echo and neighbour discovery into the calling thread's
// namespace, and nothing else, and has it forward what r says at most.
func makeFiltered(r hostops.Routing) error {
	cc, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer cc.CloseLasting()
	t := table()
	there, err := hasTable(cc, t)
	if err != nil {
		return err
	}
	replaceTable(cc, t, there)
	for _, w := range spaceChains(r) {
		c := cc.AddChain(w.of(t, nftables.ChainPolicyDrop))
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
	// A VIP's port has what an operator runs for it: that is asked by no other.
	return append(out, rule{"meshvpc vip", append(begins(expr.MetaKeyIIFNAME, hostops.VIPPrefix), &expr.Verdict{Kind: expr.VerdictAccept})})
}

// begins compares how the name of a device begins.
func begins(key expr.MetaKey, prefix string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(prefix)}}
}

// forwardRules keep what comes in by the gateway off the peer network.
func forwardRules(r hostops.Routing) []rule {
	const in, out = expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME
	gateway := func(key expr.MetaKey) []expr.Any { return begins(key, hostops.GatewayPrefix) }
	uplink := func(key expr.MetaKey) []expr.Any { return name(key, hostops.InnerUplink, expr.CmpOpEq) }
	rules := []rule{{"meshvpc gateways", join(gateway(in), gateway(out), accept())}}
	if r.NAT {
		rules = append(rules,
			rule{"meshvpc gateways out", join(gateway(in), uplink(out), accept())},
			rule{"meshvpc gateways answers", join(uplink(in), gateway(out), answers(), accept())})
	}
	return rules
}

// natRules have the host see one address.
func natRules() []rule {
	return []rule{{"meshvpc nat", join(name(expr.MetaKeyOIFNAME, hostops.InnerUplink, expr.CmpOpEq), []expr.Any{&expr.Masq{}})}}
}

// answers is that a packet belongs to what has begun on the other side.
func answers() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: u32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
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
	r.Gateway, r.NAT = chains["forward"] != nil, chains["nat"] != nil
	wants := spaceChains(r)
	for _, w := range wants {
		if whole, err := w.is(cc, t, chains[w.name], nftables.ChainPolicyDrop); err != nil || !whole {
			return r, false, err
		}
	}
	return r, len(chains) == len(wants), nil
}

// is reports whether a chain that is there is as of makes it, with its rules.
func (c spaceChain) is(cc *nftables.Conn, t *nftables.Table, has *nftables.Chain, policy nftables.ChainPolicy) (bool, error) {
	want := c.of(t, policy)
	if has == nil || has.Hooknum == nil || *has.Hooknum != *want.Hooknum || has.Policy == nil || *has.Policy != *want.Policy {
		return false, nil
	}
	rs, err := cc.GetRules(t, has)
	same := func(r *nftables.Rule, w rule) bool { return commentOf(r) == w.text && len(r.Exprs) == len(w.exprs) }
	return slices.EqualFunc(rs, c.rules, same), err
}
